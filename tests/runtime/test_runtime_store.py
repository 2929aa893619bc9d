"""The store against numpy in each of its forms, and against usearch alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from usearch.index import Index as PlainIndex

from deepir.errors import IndexFileError, OptionError
from deepir.runtime import store as module
from deepir.runtime.codes import DTYPES, Codes, Dtype, signs
from deepir.runtime.store import DescriptorStore, is_marked, most_similar

Rows = Callable[..., NDArray[np.float32]]

FLOATS = 1e-5

seeds = st.integers(0, 2**32 - 1)


def keys_up_to(count: int) -> NDArray[np.uint64]:
    return np.arange(1, count + 1, dtype=np.uint64)


def filled(rows_nd: NDArray[np.float32], dtype: Dtype) -> DescriptorStore:
    codes = Codes(dtype, rows_nd.shape[1])
    store = DescriptorStore.empty(codes)
    store.add(keys_up_to(len(rows_nd)), codes.encode(rows_nd))
    return store


def restored(store: DescriptorStore, *, mapped: bool = False) -> DescriptorStore:
    exact = memoryview(store.exact_bytes()) if store.codes.dtype == "b1" else None
    return DescriptorStore.restore(memoryview(store.to_bytes()), store.codes, mapped=mapped, exact_codes=exact)


def nearest_by_hand(
    store: DescriptorStore, rows_nd: NDArray[np.float32], query_1d: NDArray[np.float32], count: int
) -> tuple[list[int], list[float]]:
    """Row numbers and similarities of what rounding leaves of the descriptors, each compared with the query."""
    left_nd = store.codes.encode(rows_nd).astype(np.float64)
    left_nd /= np.linalg.norm(left_nd, axis=1, keepdims=True)
    similarity_n = left_nd @ query_1d
    order = np.argsort(-similarity_n, kind="stable")[:count]
    return order.tolist(), similarity_n[order].tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds, size=st.integers(0, 60), dim=st.integers(2, 70), count=st.integers(0, 70), dtype=st.sampled_from(DTYPES)
)
def test_a_search_of_few_gives_what_comparing_with_all_gives(
    seed: int, size: int, dim: int, count: int, dtype: Dtype, unit_rows: Rows
) -> None:
    rng = np.random.default_rng(seed)
    rows_nd, query_1d = unit_rows(rng, size, dim), unit_rows(rng, 1, dim)[0]
    store = filled(rows_nd, dtype)
    found = store.search(query_1d, count)
    rows, similarities = nearest_by_hand(store, rows_nd, query_1d, count)
    np.testing.assert_allclose(found.similarities, similarities, atol=FLOATS)
    np.testing.assert_allclose(
        [store.descriptors(found.keys[place : place + 1])[0] @ query_1d for place in range(len(rows))],
        similarities,
        atol=FLOATS,
    )
    assert len(set(found.keys.tolist())) == min(count, size)
    assert (found.keys.dtype, found.similarities.dtype) == (np.uint64, np.float32)


@pytest.mark.parametrize("dtype", ["i8", "f16", "f32"])
def test_of_many_descriptors_the_nearest_are_found_in_their_order(
    dtype: Dtype, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 3000, 64)
    store = filled(rows_nd, dtype)
    for query_1d in unit_rows(rng, 20, 64):
        found = store.search(query_1d, 10)
        rows, similarities = nearest_by_hand(store, rows_nd, query_1d, 10)
        assert (found.keys - 1).tolist() == rows
        np.testing.assert_allclose(found.similarities, similarities, atol=FLOATS)


def test_signs_alone_order_poorly_and_the_codes_behind_them_order_well(
    rng: np.random.Generator, unit_rows: Rows
) -> None:
    centres_nd = unit_rows(rng, 300, 128)
    rows_nd = np.repeat(centres_nd, 10, axis=0) + 0.06 * rng.normal(size=(3000, 128))
    rows_nd = (rows_nd / np.linalg.norm(rows_nd, axis=1, keepdims=True)).astype(np.float32)
    store = filled(rows_nd, "b1")
    by_signs, by_codes = 0, 0
    for row in range(0, 3000, 100):
        expected = set(nearest_by_hand(store, rows_nd, rows_nd[row], 5)[0])
        bits_nd = np.unpackbits(signs(store.codes.encode(rows_nd)), axis=1)
        distance_n = (bits_nd != bits_nd[row]).sum(axis=1)
        by_signs += len(expected & set(np.argsort(distance_n, kind="stable")[:5].tolist()))
        by_codes += len(expected & set((store.search(rows_nd[row], 5).keys - 1).tolist()))
    # of 150
    assert by_codes >= 145
    assert by_signs < 140


@pytest.mark.parametrize("count", [8, 9, 16, 17, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_search_for_more_than_half_gives_all_of_them_in_order(
    dtype: Dtype, count: int, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd, query_1d = unit_rows(rng, 16, 24), unit_rows(rng, 1, 24)[0]
    store = filled(rows_nd, dtype)
    rows, _ = nearest_by_hand(store, rows_nd, query_1d, count)
    assert (store.search(query_1d, count).keys - 1).tolist() == rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_equally_similar_ones_come_by_their_keys(dtype: Dtype, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = np.repeat(unit_rows(rng, 2, 32), 4, axis=0)
    assert filled(rows_nd, dtype).search(rows_nd[0], 8).keys.tolist()[:4] == [1, 2, 3, 4]
    as_found = np.array([3, 1, 4, 2], np.uint64)
    assert most_similar(as_found, np.array([0.5, 0.5, 0.6, 0.5], np.float32), 3).keys.tolist() == [4, 1, 2]


def test_a_similarity_never_leaves_its_range() -> None:
    found = most_similar(keys_up_to(2), np.array([1.0000002, -1.0000002], np.float32), 2)
    assert found.similarities.tolist() == [1, -1]


@settings(max_examples=40, deadline=None)
@given(seed=seeds, dtype=st.sampled_from(DTYPES), mapped=st.booleans(), copied=st.booleans(), graph=st.booleans())
def test_what_was_removed_is_found_no_more_and_all_else_is(
    seed: int, dtype: Dtype, mapped: bool, copied: bool, graph: bool, unit_rows: Rows
) -> None:
    rng = np.random.default_rng(seed)
    rows_nd = unit_rows(rng, 40, 16)
    store = filled(rows_nd[:30], dtype)
    gone = rng.choice(np.arange(1, 31), 10, replace=False).astype(np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_EXACT", 0 if graph else 20_000)
        store.remove(gone)
        store.add(keys_up_to(40)[30:], store.codes.encode(rows_nd[30:]))
        store = store.copy() if copied else store
        store = restored(store, mapped=mapped)
        kept = np.setdiff1d(keys_up_to(40), gone)
        assert (len(store), store.keys.tolist()) == (30, kept.tolist())
        for count in (3, 30):
            found = store.search(rows_nd[int(kept[0]) - 1], count)
            assert found.keys[0] == kept[0]
            assert set(found.keys.tolist()) <= set(kept.tolist())
            assert len(found.keys) == count
        assert store.search(rows_nd[int(gone[0]) - 1], 1).keys[0] != gone[0]
        np.testing.assert_array_equal(store.get(kept), store.codes.encode(rows_nd)[kept.astype(int) - 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_has_no_byte_of_what_was_removed(dtype: Dtype, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 20, 64)
    store = filled(rows_nd, dtype)
    code_1d = store.codes.encode(rows_nd[4:5])
    secret = signs(code_1d).tobytes() if dtype == "b1" else code_1d.tobytes()
    store.remove(np.array([5], np.uint64))
    assert secret in bytes(store.to_bytes())
    copy = store.copy()
    assert secret not in bytes(copy.to_bytes()) + copy.exact_bytes()
    assert code_1d.tobytes() not in copy.exact_bytes()
    assert copy.keys.tolist() == store.keys.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mapped", [False, True])
def test_what_was_written_is_found_again(dtype: Dtype, mapped: bool, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd, query_1d = unit_rows(rng, 300, 50), unit_rows(rng, 1, 50)[0]
    store = filled(rows_nd, dtype)
    again = restored(store, mapped=mapped)
    np.testing.assert_array_equal(again.get(store.keys), store.get(store.keys))
    assert again.search(query_1d, 7).keys.tolist() == store.search(query_1d, 7).keys.tolist()
    asked = np.array([300, 1, 7, 7], np.uint64)
    np.testing.assert_array_equal(again.get(asked), store.codes.encode(rows_nd)[[299, 0, 6, 6]])
    assert again.get(asked[:0]).shape == (0, 50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_usearch_reads_the_bytes_alone_and_finds_the_same(
    dtype: Dtype, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 300, 64)
    store = filled(rows_nd, dtype)
    path = tmp_path / "shop.usearch"
    path.write_bytes(store.to_bytes() + b"sections and a footer")
    plain = PlainIndex.restore(str(path))
    assert plain is not None
    assert (len(plain), plain.ndim, plain.dtype.name.lower()) == (300, 64, dtype)
    codes_nd = store.codes.encode(rows_nd)
    for row in (0, 17, 299):
        query = signs(codes_nd[row : row + 1])[0] if dtype == "b1" else codes_nd[row]
        assert plain.search(query, 1, exact=True).keys[0] == store.search(rows_nd[row], 1).keys[0] == row + 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 50])
def test_the_bytes_are_marked_as_ours_and_those_of_others_are_not(
    dtype: Dtype, size: int, rng: np.random.Generator, unit_rows: Rows
) -> None:
    store = filled(unit_rows(rng, size, 32), dtype)
    content = memoryview(store.to_bytes())
    assert is_marked(content)
    assert is_marked(memoryview(bytes(content) + b"a footer that was cut sho"))
    plain = PlainIndex(ndim=32, dtype="i8")
    plain.add(np.arange(3), np.ones((3, 32), np.int8))
    assert not is_marked(memoryview(plain.save()))
    for length in (0, 7, 8, 60):
        assert not is_marked(memoryview(bytes(length)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_descriptors_that_are_used_in_place_cannot_be_changed(
    dtype: Dtype, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 20, 16)
    store = restored(filled(rows_nd, dtype), mapped=True)
    before = store.get(store.keys).tobytes()
    with pytest.raises(OptionError, match="cannot be changed: open it with write=True"):
        store.add(np.array([21], np.uint64), store.codes.encode(rows_nd[:1]))
    with pytest.raises(OptionError, match="cannot be changed: open it with write=True"):
        store.remove(np.array([3], np.uint64))
    assert store.get(store.keys).tobytes() == before
    copy = store.copy()
    copy.remove(np.array([3], np.uint64))
    assert (len(copy), len(store)) == (19, 20)


def test_other_descriptors_than_the_footer_says_are_refused(rng: np.random.Generator, unit_rows: Rows) -> None:
    store = filled(unit_rows(rng, 20, 16), "i8")
    with pytest.raises(IndexFileError, match="other descriptors than its footer says"):
        DescriptorStore.restore(memoryview(store.to_bytes()), Codes("i8", 24), mapped=False)
    by_signs = filled(unit_rows(rng, 20, 16), "b1")
    content = memoryview(by_signs.to_bytes())
    for exact in (None, b"", by_signs.exact_bytes()[:-1], by_signs.exact_bytes()[:-16]):
        with pytest.raises(IndexFileError, match="other descriptors than its footer says"):
            DescriptorStore.restore(
                content, by_signs.codes, mapped=False, exact_codes=None if exact is None else memoryview(exact)
            )


@pytest.mark.parametrize(("dtype", "least"), [("i8", 0.98), ("f16", 0.98), ("f32", 0.98), ("b1", 0.9)])
def test_walking_the_graph_misses_few_neighbours(
    dtype: Dtype, least: float, rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    centres_nd = unit_rows(rng, 200, 48)
    rows_nd = np.repeat(centres_nd, 20, axis=0) + 0.1 * rng.normal(size=(4000, 48)).astype(np.float32)
    rows_nd /= np.linalg.norm(rows_nd, axis=1, keepdims=True)
    # made after the limit, so that it has the edges of an index that is walked
    monkeypatch.setattr(module, "_MOST_EXACT", 0)
    store = filled(rows_nd, dtype)
    assert not store.exact
    found = [
        len(
            set((store.search(rows_nd[row], 10).keys - 1).tolist())
            & set(nearest_by_hand(store, rows_nd, rows_nd[row], 10)[0])
        )
        for row in range(0, 4000, 16)
    ]
    assert sum(found) / (10 * len(found)) >= least


@pytest.mark.parametrize(
    ("dtype", "dim", "most"), [("i8", 2, 100_000), ("i8", 2048, 1 << 14), ("f32", 2048, 1 << 12), ("b1", 2048, 10_000)]
)
def test_a_store_of_many_is_searched_along_a_graph_that_suits_it(dtype: Dtype, dim: int, most: int) -> None:
    store = DescriptorStore.empty(Codes(dtype, dim))
    few = store._index
    store._index = Many(most, few.connectivity)
    assert (store.exact, store.outgrown) == (True, False)
    store._index = Many(most + 1, few.connectivity)
    assert (store.exact, store.outgrown) == (False, True)
    store._index = Many(most + 1, DescriptorStore.empty(Codes(dtype, dim), most + 1)._index.connectivity)
    assert (store.exact, store.outgrown) == (False, False)


class Many:
    """Says that it has so many descriptors."""

    def __init__(self, count: int, connectivity: int) -> None:
        self.count = count
        self.connectivity = connectivity

    def __len__(self) -> int:
        return self.count


def test_onnxruntime_can_be_loaded_after_usearch() -> None:
    program = "from deepir.runtime.store import load_usearch; load_usearch(); import onnxruntime"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
