"""Plain usearch, faiss and hnswlib as ways of index_ways.py; imported only in the process that measures one."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.runtime.store import load_usearch

CONNECTIVITY = 16
EXPANSION_ADD = 128
EFFORTS = (64, 128, 256, 512, 1024)
"""Candidates that a graph keeps while it is searched."""

PROBES = (4, 16, 64, 256)
VALUES_A_CODE = 4
"""Values that share a byte in product quantisation."""
MOST_TRAINED_ON = 50_000
FEWEST_A_LIST = 39
"""For each list, below which faiss warns."""


class UsearchWay:
    """Its own cast to a dtype, and its graph."""

    efforts = EFFORTS
    maps = True

    def __init__(self, dtype: str, dim: int) -> None:
        self.note = f"{dtype}, M {CONNECTIVITY}, built with {EXPANSION_ADD}"
        self._index = load_usearch().Index(
            ndim=dim, metric="cos", dtype=dtype, connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD
        )

    def build(self, descriptors_nd: Descriptors) -> None:
        self._index.add(np.arange(len(descriptors_nd), dtype=np.uint64), descriptors_nd)

    def save(self, path: Path) -> None:
        self._index.save(path)

    def open(self, path: Path, *, mapped: bool) -> None:
        self._index = load_usearch().Index.restore(path, view=mapped)

    def search(self, query_1d: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        return np.asarray(self._index.search(query_1d, count).keys).astype(np.intp)

    def work(self, effort: int) -> None:
        self._index.expansion_search = effort


class FaissWay:
    """An index of faiss, searched by one thread."""

    def __init__(self, index: Any, note: str, efforts: tuple[int, ...], parameter: str) -> None:
        self.note = note
        self.efforts = efforts
        self.maps = hasattr(_faiss(), "IO_FLAG_MMAP_IFC")
        self._index = index
        self._parameter = parameter

    def build(self, descriptors_nd: Descriptors) -> None:
        if not self._index.is_trained:
            self._index.train(descriptors_nd[:MOST_TRAINED_ON])
        self._index.add(descriptors_nd)

    def save(self, path: Path) -> None:
        _faiss().write_index(self._index, str(path))

    def open(self, path: Path, *, mapped: bool) -> None:
        self._index = _faiss().read_index(str(path), _faiss().IO_FLAG_MMAP_IFC if mapped else 0)
        _faiss().omp_set_num_threads(1)

    def search(self, query_1d: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        rows: NDArray[np.intp] = self._index.search(query_1d[None], count)[1][0]
        return rows

    def work(self, effort: int) -> None:
        if self._parameter:
            _faiss().ParameterSpace().set_index_parameter(self._index, self._parameter, effort)


class HnswlibWay:
    """Its graph over float32; inner product of descriptors of length 1."""

    efforts = EFFORTS
    maps = False
    note = f"f32, M {CONNECTIVITY}, built with {EXPANSION_ADD}"

    def __init__(self, dim: int) -> None:
        self._make: Callable[[], Any] = partial(import_module("hnswlib").Index, space="ip", dim=dim)
        self._index = self._make()

    def build(self, descriptors_nd: Descriptors) -> None:
        self._index.init_index(len(descriptors_nd), M=CONNECTIVITY, ef_construction=EXPANSION_ADD)
        self._index.add_items(descriptors_nd)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def open(self, path: Path, *, mapped: bool) -> None:  # noqa: ARG002 it cannot map
        self._index = self._make()
        self._index.load_index(str(path))

    def search(self, query_1d: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        rows: NDArray[np.intp] = self._index.knn_query(query_1d, k=count, num_threads=1)[0][0].astype(np.intp)
        return rows

    def work(self, effort: int) -> None:
        self._index.set_ef(effort)


def usearch_f32(_count: int, dim: int) -> UsearchWay:
    return UsearchWay("f32", dim)


def usearch_f16(_count: int, dim: int) -> UsearchWay:
    return UsearchWay("f16", dim)


def usearch_i8(_count: int, dim: int) -> UsearchWay:
    return UsearchWay("i8", dim)


def faiss_flat(_count: int, dim: int) -> FaissWay:
    return FaissWay(_faiss().IndexFlatIP(dim), "f32, every descriptor", (0,), "")


def faiss_hnsw(_count: int, dim: int) -> FaissWay:
    faiss = _faiss()
    index = faiss.IndexHNSWFlat(dim, CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EXPANSION_ADD
    return FaissWay(index, f"f32, M {CONNECTIVITY}, built with {EXPANSION_ADD}", EFFORTS, "efSearch")


def faiss_ivfpq(count: int, dim: int) -> FaissWay:
    faiss = _faiss()
    lists = min(round(4 * count**0.5), min(count, MOST_TRAINED_ON) // FEWEST_A_LIST)
    index = faiss.index_factory(dim, f"IVF{lists},PQ{dim // VALUES_A_CODE}x8np", faiss.METRIC_INNER_PRODUCT)
    _silence(index.pq)
    return FaissWay(index, f"{dim // VALUES_A_CODE} bytes, {lists} lists", PROBES, "nprobe")


def faiss_pq(_count: int, dim: int) -> FaissWay:
    faiss = _faiss()
    index = faiss.IndexPQ(dim, dim // VALUES_A_CODE, 8, faiss.METRIC_INNER_PRODUCT)
    _silence(index.pq)
    return FaissWay(index, f"{dim // VALUES_A_CODE} bytes, every descriptor", (0,), "")


def hnswlib_graph(_count: int, dim: int) -> HnswlibWay:
    return HnswlibWay(dim)


def _silence(quantiser: Any) -> None:
    """Without this it warns of few descriptors once for each byte of a code."""
    quantiser.cp.min_points_per_centroid = 1


def _faiss() -> ModuleType:
    return import_module("faiss")
