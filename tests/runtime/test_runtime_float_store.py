"""Descriptors before they get their codes, and the recall that is measured when they do, against plain references."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.runtime import float_store as module
from deepir.runtime import store as store_module
from deepir.runtime.codes import DTYPES, Codes, Dtype
from deepir.runtime.float_store import FloatStore
from deepir.runtime.store import DescriptorStore

Rows = Callable[..., NDArray[np.float32]]

seeds = st.integers(0, 2**32 - 1)


def filled(rows_nd: NDArray[np.float32], parts: int = 1) -> FloatStore:
    store = FloatStore(rows_nd.shape[1])
    keys = np.arange(1, len(rows_nd) + 1, dtype=np.uint64)
    for some_keys, some_rows in zip(np.array_split(keys, parts), np.array_split(rows_nd, parts), strict=True):
        store.add(some_keys, some_rows)
    return store


@settings(max_examples=50, deadline=None)
@given(seed=seeds, size=st.integers(0, 40), parts=st.integers(1, 5), count=st.integers(-1, 50))
def test_a_search_compares_with_every_descriptor(seed: int, size: int, parts: int, count: int, unit_rows: Rows) -> None:
    rng = np.random.default_rng(seed)
    rows_nd, query_1d = unit_rows(rng, size), unit_rows(rng, 1)[0]
    found = filled(rows_nd, parts).search(query_1d, count)
    similarity_n = rows_nd.astype(np.float64) @ query_1d
    order = np.argsort(-similarity_n)[: max(0, count)]
    assert (found.keys - 1).tolist() == order.tolist()
    np.testing.assert_allclose(found.similarities, similarity_n[order], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, size=st.integers(1, 30))
def test_what_was_removed_is_gone_and_all_else_has_its_key(seed: int, size: int, unit_rows: Rows) -> None:
    rng = np.random.default_rng(seed)
    rows_nd = unit_rows(rng, size + 3)
    store = filled(rows_nd[:size], 3)
    gone = rng.choice(np.arange(1, size + 1), rng.integers(0, size + 1), replace=False).astype(np.uint64)
    store.remove(gone)
    store.add(np.arange(size + 1, size + 4, dtype=np.uint64), rows_nd[size:])
    kept = np.setdiff1d(np.arange(1, size + 4), gone).astype(np.uint64)
    assert (len(store), store.keys.tolist()) == (len(kept), kept.tolist())
    np.testing.assert_array_equal(store.get(kept[::-1]), rows_nd[kept.astype(int) - 1][::-1])
    np.testing.assert_array_equal(store.descriptors(kept[:2]), rows_nd[kept[:2].astype(int) - 1])


def test_memory_that_is_used_again_changes_nothing(rng: np.random.Generator, unit_rows: Rows) -> None:
    buffer = unit_rows(rng, 2)
    before = buffer.copy()
    store = filled(buffer)
    buffer[:] = 0
    np.testing.assert_array_equal(store.get(store.keys), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_codes_are_those_of_the_descriptors_under_their_keys(
    dtype: Dtype, rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    rows_nd = unit_rows(rng, 30)
    floats = filled(rows_nd, 4)
    floats.remove(np.array([2, 30], np.uint64))
    kept = [key for key in range(1, 31) if key not in {2, 30}]
    store = floats.stored(Codes(dtype, 8))
    assert store.keys.tolist() == kept
    np.testing.assert_array_equal(store.get(store.keys), Codes(dtype, 8).encode(rows_nd)[np.array(kept) - 1])


def recall_by_hand(rows_nd: NDArray[np.float32], store: DescriptorStore, asked: list[int], count: int) -> float:
    """For each asked row: how many of its true nearest are among the nearest found, itself left out of both."""
    shares = []
    for row in asked:
        true = sorted((-float(rows_nd[other] @ rows_nd[row]), other) for other in range(len(rows_nd)) if other != row)
        found = [int(key) - 1 for key in store.search(rows_nd[row], len(rows_nd)).keys if key != row + 1]
        shares.append(len({other for _, other in true[:count]} & set(found[:count])) / count)
    return sum(shares) / len(shares)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, size=st.integers(2, 60), dtype=st.sampled_from(DTYPES))
def test_the_recall_is_the_share_of_true_neighbours_that_are_found(
    seed: int, size: int, dtype: Dtype, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(np.random.default_rng(seed), size)
    floats = filled(rows_nd)
    # other descriptors than the true ones stand for codes that lost much
    blurred = filled(unit_rows(np.random.default_rng(seed + 1), size) + 2 * rows_nd).stored(Codes(dtype, 8))
    value, queries = floats.recall_of(blurred)
    assert queries == size
    assert value == pytest.approx(recall_by_hand(rows_nd, blurred, list(range(size)), min(10, size - 1)))


def test_of_many_views_two_hundred_are_asked_spread_over_all(
    rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_QUERIES", 5)
    rows_nd = unit_rows(rng, 81)
    floats = filled(rows_nd)
    blurred = filled(rows_nd + unit_rows(rng, 81)).stored(Codes("f32", 8))
    value, queries = floats.recall_of(blurred)
    assert queries == 5
    assert value == pytest.approx(recall_by_hand(rows_nd, blurred, [0, 20, 40, 60, 80], 10))


@pytest.mark.parametrize("size", [0, 1])
def test_without_neighbours_there_is_no_recall_to_measure(size: int, rng: np.random.Generator, unit_rows: Rows) -> None:
    floats = filled(unit_rows(rng, size))
    assert floats.recall_of(floats.stored(Codes("i8", 8))) == (1.0, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equally_near_neighbours_any_is_right(dtype: Dtype, rng: np.random.Generator, unit_rows: Rows) -> None:
    floats = filled(np.repeat(unit_rows(rng, 5, 96), 30, axis=0)[rng.permutation(150)])
    assert floats.recall_of(floats.stored(Codes(dtype, 96))) == (1.0, 150)


def test_what_a_graph_misses_lowers_the_recall(
    rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = filled(unit_rows(rng, 400, 32))
    store = floats.stored(Codes("f32", 32))
    assert floats.recall_of(store)[0] == 1
    monkeypatch.setattr(store_module, "_MOST_EXACT", 0)
    monkeypatch.setattr(store_module, "_EXPANSION_SEARCH", 1)
    assert floats.recall_of(store)[0] < 1
