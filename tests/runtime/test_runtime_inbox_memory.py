"""Descriptors of what an inbox was given: the newest are known, and never more than there is room for."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.runtime import inbox_memory
from deepir.runtime.inbox_memory import InboxMemory

Rows = Callable[..., NDArray[np.float32]]

DIRECTIONS = np.eye(8, dtype=np.float32)


def test_what_is_like_one_of_them_is_known_and_nothing_else() -> None:
    memory = InboxMemory()
    memory.add(DIRECTIONS[0])
    memory.add(DIRECTIONS[1])
    assert [memory.knows((0.96 * row + 0.28 * DIRECTIONS[7]).astype(np.float32)) for row in DIRECTIONS[:3]] == [
        True,
        True,
        False,
    ]
    assert not memory.knows((0.94 * DIRECTIONS[0] + 0.341 * DIRECTIONS[7]).astype(np.float32))


def test_the_oldest_makes_way_when_there_is_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_memory, "_BYTES", 3 * DIRECTIONS[0].nbytes)
    memory = InboxMemory()
    for row in DIRECTIONS[:5]:
        memory.add(row)
    assert [memory.knows(row) for row in DIRECTIONS[:6]] == [False, False, True, True, True, False]


def test_thousands_are_known(rng: np.random.Generator, unit_rows: Rows) -> None:
    memory = InboxMemory()
    rows_nd = unit_rows(rng, 2048, 512)
    for row in rows_nd:
        memory.add(row)
    assert all(memory.knows(row) for row in rows_nd[::100])


def test_what_is_forgotten_is_not_known_and_the_others_are() -> None:
    memory = InboxMemory()
    memory.forget(DIRECTIONS[0])
    for row in DIRECTIONS[:3]:
        memory.add(row)
    memory.forget(DIRECTIONS[1])
    assert [memory.knows(row) for row in DIRECTIONS[:3]] == [True, False, True]


def test_descriptors_of_another_size_begin_anew() -> None:
    memory = InboxMemory()
    memory.add(DIRECTIONS[0])
    other = np.eye(4, dtype=np.float32)
    assert not memory.knows(other[0])
    memory.forget(other[0])
    memory.add(other[0])
    assert memory.knows(other[0])
    assert not memory.knows(DIRECTIONS[0])
