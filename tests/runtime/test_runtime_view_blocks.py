"""Views in the order of their labels, and what an index says of single keys."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import deepir.runtime.view_blocks as module
from deepir.card import ModelCard
from deepir.errors import InputError
from deepir.runtime import Index
from deepir.runtime.view_blocks import blocks, compared, labelled_views, sampled_rows

Rows = NDArray[np.float32]


@pytest.fixture
def index(
    model: Path, make_card: Callable[..., ModelCard], rng: np.random.Generator, unit_rows: Callable[..., Rows]
) -> Index:
    """Labels in no order: keys 1 2 of b, 3 of c, 4 of a, 5 of b again, and c gone."""
    index = Index.create(make_card(), model, dtype="f32")
    for label, count in (("b", 2), ("c", 1), ("a", 1), ("b", 1)):
        index.add(label, unit_rows(rng, count), [f"{label}{number}.png" for number in range(count)])
    index.remove("c")
    return index


def test_keys_stand_under_their_labels(index: Index) -> None:
    keys = {label: keys.tolist() for label, keys in index.keys_by_label().items()}
    assert keys == {"a": [4], "b": [1, 2, 5]}
    assert list(keys) == ["a", "b"]


def test_an_empty_index_has_no_keys(model: Path, make_card: Callable[..., ModelCard]) -> None:
    empty = Index.create(make_card(), model)
    assert empty.keys_by_label() == {}
    assert len(labelled_views(empty)) == 0


def test_items_come_in_the_order_of_the_keys_asked_for(index: Index) -> None:
    assert [(item.key, item.view) for item in index.items([5, 1])] == [(5, "b0.png"), (1, "b0.png")]
    assert [item.key for item in index.items()] == [1, 2, 4, 5]
    assert list(index.items([])) == []
    with pytest.raises(InputError, match="no view with the key 3"):
        index.items([4, 3])


def test_a_removed_and_a_new_label_keep_the_views_together(index: Index, unit_rows: Callable[..., Rows]) -> None:
    index.relabel([1], "a")
    views = labelled_views(index)
    assert (views.names, views.keys.tolist(), views.starts.tolist()) == (["a", "b"], [1, 4, 2, 5], [0, 2, 4])
    assert views.labels_n.tolist() == [0, 0, 1, 1]
    assert [views.keys[views.rows_of(number)].tolist() for number in (0, 1)] == [[1, 4], [2, 5]]


def test_blocks_cover_all_views_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 3)
    views = labelled_views(index)
    parts = list(blocks(index, views))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 3), (3, 4)]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), index.descriptors(views.keys))


def test_a_view_is_not_compared_with_itself(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 3)
    monkeypatch.setattr(module, "_SAMPLED_AT_ONCE", 2)
    views = labelled_views(index)
    whole_nn = np.zeros((4, 4), np.float32)
    for some, block, similarity_sc in compared(index, views, np.arange(4)):
        whole_nn[some, block] = similarity_sc
    expected_nn = index.descriptors(views.keys) @ index.descriptors(views.keys).T
    np.fill_diagonal(expected_nn, -np.inf)
    np.testing.assert_allclose(whole_nn, expected_nn, atol=1e-6)


@given(count=st.integers(1, 10**9))
def test_a_sample_is_even_and_bounded(count: int) -> None:
    class Many:
        def __len__(self) -> int:
            return count

    rows = sampled_rows(Many())  # type: ignore[arg-type]
    assert len(rows) == len(set(rows.tolist())) == max(1, min(count, module._MOST_CELLS // count))
    assert (rows[0], rows[-1]) == (0, count - 1 if len(rows) > 1 else 0)
