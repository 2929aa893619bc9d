"""Keyframes of a walk whose changes are known, and a map that stays bounded."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.errors import OptionError
from deepir.runtime.keyframes import KeyframePolicy, Keyframes
from deepir.runtime.pose import PlanarPose

Rows = Callable[..., NDArray[np.float32]]


def turned(degrees: float) -> NDArray[np.float32]:
    """Its similarity with `turned(0)` is the cosine."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def test_the_first_frame_is_a_keyframe() -> None:
    assert Keyframes(KeyframePolicy()).wants(turned(0))


def test_a_frame_is_one_when_it_differs_enough_from_the_last_keyframe() -> None:
    frames, kept = Keyframes(KeyframePolicy(least_change=0.1)), []
    for degrees in range(0, 100, 5):
        if frames.wants(turned(degrees)):
            frames.add(degrees, turned(degrees))
            kept.append(degrees)
    # the cosine of 25 degrees is 0.906, that of 30 is 0.866
    assert kept == [0, 30, 60, 90]


def test_a_frame_is_one_when_the_camera_moved_though_all_looks_alike() -> None:
    frames = Keyframes(KeyframePolicy(least_distance=2))
    frames.add(1, turned(0), PlanarPose(0, 0, 0))
    assert [x for x in (0, 1, 1.9, 2, 5) if frames.wants(turned(0), PlanarPose(x, 0, 0))] == [2, 5]


def test_without_a_pose_the_change_alone_decides() -> None:
    frames = Keyframes(KeyframePolicy(least_distance=2))
    frames.add(1, turned(0))
    assert not frames.wants(turned(1), PlanarPose(99, 0, 0))
    assert frames.wants(turned(80))


def test_no_change_at_all_may_be_asked_for() -> None:
    frames = Keyframes(KeyframePolicy(least_change=0))
    frames.add(1, np.array([1.0, 0.0], dtype=np.float32))
    assert frames.wants(np.array([1.0, 0.0], dtype=np.float32))


def test_a_blank_frame_is_never_one() -> None:
    assert not Keyframes(KeyframePolicy(least_change=0)).wants(np.zeros(8, dtype=np.float32))


def test_a_descriptor_that_is_overwritten_later_does_no_harm() -> None:
    frames, buffer = Keyframes(KeyframePolicy()), turned(0)
    frames.add(1, buffer)
    buffer[:] = turned(90)
    assert frames.wants(turned(90))


@given(most=st.integers(1, 8), before=st.integers(0, 12), added=st.integers(0, 12))
def test_the_oldest_leave_so_that_the_map_holds_no_more_than_it_may(most: int, before: int, added: int) -> None:
    frames = Keyframes(KeyframePolicy(most_items=most), range(before))
    stored = list(range(before))
    for key in range(before, before + added):
        stored.append(key)
        for gone in frames.add(key, turned(0)):
            stored.remove(gone)
        assert stored == list(range(key + 1))[-most:]


def test_without_a_bound_nothing_leaves(rng: np.random.Generator, unit_rows: Rows) -> None:
    frames = Keyframes(KeyframePolicy())
    assert [gone for key, row in enumerate(unit_rows(rng, 50)) for gone in frames.add(key, row)] == []


@pytest.mark.parametrize(
    ("fields", "cure"),
    [
        ({"least_change": -0.1}, "between 0 and 2"),
        ({"least_change": float("nan")}, "between 0 and 2"),
        ({"least_distance": 0}, "give more than 0"),
        ({"least_distance": float("nan")}, "give more than 0"),
        ({"most_items": 0}, "give 1 or more"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(fields: dict[str, int], cure: str) -> None:
    with pytest.raises(OptionError, match=cure):
        KeyframePolicy(**fields)
