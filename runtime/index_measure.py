"""How well and how fast an index finds the true neighbours, measured on the index itself."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.runtime.index_contents import Contents
from deepir.runtime.items import Keys

NEIGHBOURS = 10

_MOST_QUERIES = 200
"""Enough for a recall that is known within 0.003."""

_CHUNK = 8192
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Measured:
    """What searching for stored views among the others gave.

    Attributes:
        recall: Share of the true 10 nearest that a search finds, 0..1; the truth is comparing with every stored
            descriptor.
        queries: How many were searched.
        items: Among how many.
        milliseconds: Of a search, the median.
    """

    recall: float
    queries: int
    items: int
    milliseconds: float


def measure(contents: Contents) -> Measured | None:
    """Search for at most 200 stored views, spread over all; None where there are fewer than two."""
    keys = contents.items.keys
    count = min(NEIGHBOURS, len(keys) - 1)
    if count < 1:
        return None
    rows = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), _MOST_QUERIES)).round().astype(np.intp))
    queries_qd = contents.store.descriptors(keys[rows])
    least_q = _least_similar_neighbours(contents, keys[rows], queries_qd, count)
    shares, seconds = [], []
    for key, query_1d, least in zip(keys[rows], queries_qd, least_q, strict=True):
        started = time.perf_counter()
        found = contents.search(query_1d, count + 1)
        seconds.append(time.perf_counter() - started)
        # of equally near ones either is right
        others = found.similarities[found.keys != key][:count]
        shares.append(float((others >= least - _ROUNDING).sum()) / count)
    return Measured(float(np.mean(shares)), len(rows), len(keys), 1000 * float(np.median(seconds)))


def _least_similar_neighbours(
    contents: Contents, own_q: Keys, queries_qd: Descriptors, count: int
) -> NDArray[np.float32]:
    """The similarity of each query with the last of its `count` true neighbours, (Q,)."""
    keys = contents.items.keys
    best_qk = np.full((len(own_q), count), -np.inf, np.float32)
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        similarity_qn = queries_qd @ contents.store.descriptors(part).T
        similarity_qn[own_q[:, None] == part] = -np.inf
        joined = np.concatenate([best_qk, similarity_qn], axis=1)
        best_qk = -np.partition(-joined, count - 1, axis=1)[:, :count]
    least_q: NDArray[np.float32] = best_qk.min(axis=1)
    return least_q
