"""Groups of alike descriptors, so that a person labels one cluster instead of eighty pictures (field.md 7.2)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.descriptor_check import check_descriptors
from deepir.descriptors import Descriptors, normalise, similarities
from deepir.errors import OptionError, ShapeError

MOST_ROWS = 5000
"""Where all of them are alike their similarities take 100 MB."""

_LENGTH_TOLERANCE = 1e-3
_ROUNDING = 1e-6
"""In single precision the similarity of a descriptor to itself may be 0.9999999."""

_CELLS = 1 << 21
"""Similarities held at once while the rows are parted: 8 MiB of them."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that are alike.

    Attributes:
        rows: The most typical first: by falling mean similarity to the cluster's rows.
    """

    rows: tuple[int, ...]

    @property
    def medoid(self) -> int:
        """The row of the highest mean similarity to all of the cluster: the one to show first."""
        return self.rows[0]


def find_clusters(descriptors_nd: Descriptors, similarity: float) -> list[Cluster]:
    """Every row in one cluster, the largest cluster first; of equal ones that of the first row.

    Average linkage: the two clusters whose rows have the highest mean similarity to each other become one, as long as
    that mean is `similarity` or more. With an index at hand its threshold is a sensible value, for pictures of two
    labels rarely reach it. Rows of one descriptor are never parted.

    The same descriptors fall into the same clusters in whatever order they come, and ties are no exception.

    Args:
        descriptors_nd: (N, D), of length 1; N may be 0.
        similarity: -1..1.

    Raises:
        ShapeError: Not descriptors of length 1, or more than MOST_ROWS.
        OptionError: The similarity is out of range.
    """
    _check(descriptors_nd, similarity)
    # an order that depends on the descriptors alone, so that the one they came in decides no tie
    rows_n = np.array(sorted(range(len(descriptors_nd)), key=lambda row: descriptors_nd[row].tobytes()), dtype=np.intp)
    sorted_nd = normalise(descriptors_nd[rows_n])
    least = similarity - _ROUNDING
    found = [
        _cluster(sorted_nd[members], rows_n[members])
        for component in _components(sorted_nd, least)
        for members in (component[linked] for linked in _link(sorted_nd[component], least))
    ]
    return sorted(found, key=lambda cluster: (-len(cluster.rows), min(cluster.rows)))


def _components(descriptors_nd: Descriptors, least: float) -> Iterator[NDArray[np.intp]]:
    """Rows that pairs of `least` or more hold together; the mean between two such groups is below it."""
    count = len(descriptors_nd)
    component_n = np.arange(count)
    step = max(1, _CELLS // max(1, count))
    for start in range(0, count, step):
        # a pair is seen from its first row
        near_cn = similarities(descriptors_nd[start : start + step], descriptors_nd[start:]) >= least
        for row, near_n in enumerate(near_cn, start):
            joined = np.unique(component_n[start:][near_n])
            if len(joined) > 1:
                component_n[np.isin(component_n, joined)] = component_n[row]
    for number in np.unique(component_n):
        yield np.flatnonzero(component_n == number)


def _link(descriptors_md: Descriptors, least: float) -> Iterator[list[int]]:
    """The clusters of average linkage, along chains of nearest neighbours: two that are each other's are joined.

    Joining two clusters brings neither nearer to a third, so the clusters do not depend on where a chain begins, and
    one without a neighbour of `least` or more stays as it is.
    """
    mean_mm = similarities(descriptors_md, descriptors_md)
    for row in range(len(mean_mm)):
        # a product need not be the same to the last bit in both halves, and chains end only where it is
        mean_mm[row:, row] = mean_mm[row, row:]
        mean_mm[row, row] = -np.inf
    clusters = {row: [row] for row in range(len(descriptors_md))}
    chain: list[int] = []
    while clusters:
        chain = chain or [next(iter(clusters))]
        last = chain[-1]
        nearest = int(mean_mm[last].argmax())
        if mean_mm[last, nearest] < least:
            yield clusters.pop(chain.pop())
            _remove(mean_mm, last)
        elif len(chain) > 1 and mean_mm[last, chain[-2]] >= mean_mm[last, nearest]:
            before = chain[-2]
            _join(mean_mm, before, last, (len(clusters[before]), len(clusters[last])))
            clusters[before] += clusters.pop(last)
            del chain[-2:]
        else:
            chain.append(nearest)


def _join(mean_mm: NDArray[np.float32], kept: int, gone: int, sizes: tuple[int, int]) -> None:
    mean_m = (sizes[0] * mean_mm[kept] + sizes[1] * mean_mm[gone]) / sum(sizes)
    # rounded upwards it could exceed both, and a chain could then bite its tail
    mean_m = np.minimum(mean_m, np.maximum(mean_mm[kept], mean_mm[gone]))
    mean_mm[kept] = mean_mm[:, kept] = mean_m
    _remove(mean_mm, gone)


def _remove(mean_mm: NDArray[np.float32], row: int) -> None:
    mean_mm[row] = mean_mm[:, row] = -np.inf


def _cluster(descriptors_md: Descriptors, rows_m: NDArray[np.intp]) -> Cluster:
    exact_md = descriptors_md.astype(np.float64)
    # rounded, so that rows of one descriptor tie, and the first of them stands first
    typical_m = np.round(exact_md @ exact_md.mean(axis=0), 6)
    return Cluster(tuple(rows_m[np.lexsort((rows_m, -typical_m))].tolist()))


def _check(descriptors_nd: Descriptors, similarity: float) -> None:
    if not -1 <= similarity <= 1:
        message = f"clusters need a similarity from -1 to 1, got {similarity}"
        raise OptionError(message)
    check_descriptors("clusters", descriptors_nd)
    if len(descriptors_nd) > MOST_ROWS:
        message = f"{len(descriptors_nd)} descriptors are too many to cluster at once: give {MOST_ROWS} or fewer"
        raise ShapeError(message)
    lengths = np.linalg.norm(descriptors_nd, axis=1)
    wrong = np.flatnonzero(np.abs(lengths - 1) > _LENGTH_TOLERANCE)
    if len(wrong):
        message = (
            f"clusters: the descriptor {wrong[0]} has length {lengths[wrong[0]]:.4g}, expected 1: leave blank pictures "
            "out, and normalise the others"
        )
        raise ShapeError(message)
