"""One way to keep and search descriptors, measured in a process of its own: build, save, open, search."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors

COUNT = 10
GOAL_RECALL = 0.99
ROUNDING = 1e-6
WARM_UPS = 20
MOST_SECONDS = 30.0
"""Of searching with one effort; a slow way gets fewer queries."""
HARDLY_LESS = 0.005

WAYS = {
    "deepir-i8": "index_ours:i8",
    "deepir-f16": "index_ours:f16",
    "deepir-f32": "index_ours:f32",
    "deepir-b1": "index_ours:b1",
    "usearch-f32": "index_libraries:usearch_f32",
    "usearch-f16": "index_libraries:usearch_f16",
    "usearch-i8": "index_libraries:usearch_i8",
    "faiss-flat": "index_libraries:faiss_flat",
    "faiss-hnsw": "index_libraries:faiss_hnsw",
    "faiss-ivfpq": "index_libraries:faiss_ivfpq",
    "faiss-pq": "index_libraries:faiss_pq",
    "hnswlib": "index_libraries:hnswlib_graph",
}
"""By name the function that makes the way for a number of descriptors and of values."""


class Way(Protocol):
    """A library's index, and how hard it may search.

    Attributes:
        note: Its parameters, in words.
        efforts: From the least to the most; a single one where there is nothing to choose.
        maps: Whether it can search a file in place.
    """

    note: str
    efforts: tuple[int, ...]
    maps: bool

    def build(self, descriptors_nd: Descriptors) -> None:
        """Hold these descriptors, row by row."""

    def save(self, path: Path) -> None:
        """Write all that `open` needs."""

    def open(self, path: Path, *, mapped: bool) -> None:
        """Read a file into memory, or use it in place."""

    def search(self, query_1d: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        """The rows of the nearest descriptors."""

    def work(self, effort: int) -> None:
        """Search so hard from now on."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a way; seconds, milliseconds and bytes of an item. `opened` and `mapped` include a first search."""

    note: str
    built: float
    saved: float
    opened: float
    mapped: float | None
    median: float
    slowest: float
    recall: float
    queries: int
    size: float


@dataclass(frozen=True, slots=True)
class Searched:
    """What came of an effort: milliseconds of each query, and the share of the true neighbours that were found."""

    effort: int
    milliseconds: NDArray[np.float64]
    recall: float


def measure(name: str, folder: Path) -> Measured:
    """Measure a way with the arrays of a folder: `database` and `queries`, and `least`, see `search_all`."""
    database_nd, queries_qd, least_q = (np.load(folder / f"{array}.npy") for array in ("database", "queries", "least"))
    make: Callable[[int, int], Way] = _function(WAYS[name])
    way = make(*database_nd.shape)
    path = folder / "index"
    built = _seconds(lambda: way.build(database_nd))
    saved = _seconds(lambda: way.save(path))
    opened = _seconds(lambda: _open_and_search(way, path, queries_qd[0], mapped=False))
    mapped = _seconds(lambda: _open_and_search(way, path, queries_qd[0], mapped=True)) if way.maps else None
    found = choose([search_all(way, effort, database_nd, queries_qd, least_q) for effort in way.efforts])
    return Measured(
        note=way.note + (f", effort {found.effort}" if len(way.efforts) > 1 else ""),
        built=built,
        saved=saved,
        opened=1000 * opened,
        mapped=None if mapped is None else 1000 * mapped,
        median=float(np.median(found.milliseconds)),
        slowest=float(np.quantile(found.milliseconds, 0.99)),
        recall=found.recall,
        queries=len(found.milliseconds),
        size=path.stat().st_size / len(database_nd),
    )


def search_all(
    way: Way, effort: int, database_nd: Descriptors, queries_qd: Descriptors, least_q: NDArray[np.float32]
) -> Searched:
    """Search one query after the other, until there are none or MOST_SECONDS are over.

    Args:
        way: With an index that was opened.
        effort: See `Way`.
        database_nd: What it holds.
        queries_qd: What is looked for.
        least_q: The exact similarity of the last of the COUNT true neighbours of each query: what is as near is one.
    """
    way.work(effort)
    for query_1d in queries_qd[:WARM_UPS]:
        way.search(query_1d, COUNT)
    milliseconds, shares = [], []
    for query_1d, least in zip(queries_qd, least_q, strict=True):
        started = time.perf_counter()
        rows = way.search(query_1d, COUNT)
        milliseconds.append(1000 * (time.perf_counter() - started))
        near = database_nd[np.unique(rows[rows >= 0])] @ query_1d >= least - ROUNDING
        shares.append(near.sum() / COUNT)
        if sum(milliseconds) > 1000 * MOST_SECONDS:
            break
    return Searched(effort, np.array(milliseconds), float(np.mean(shares)))


def choose(searched: list[Searched]) -> Searched:
    """The least effort that finds GOAL_RECALL of the neighbours, or else hardly less than the best of all."""
    wanted = min(GOAL_RECALL, max(one.recall for one in searched) - HARDLY_LESS)
    return next(one for one in searched if one.recall >= wanted)


def _open_and_search(way: Way, path: Path, query_1d: NDArray[np.float32], *, mapped: bool) -> None:
    way.open(path, mapped=mapped)
    way.search(query_1d, COUNT)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
