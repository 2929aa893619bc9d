"""Neighbour-smoothed targets: each descriptor moves towards its nearest of other pictures before it is learnt."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deepir.descriptor_check import check_descriptors
from deepir.descriptors import Descriptors, normalise
from deepir.errors import OptionError, ShapeError

_CELLS = 1 << 23
"""Similarities held at once: 32 MiB of them."""


def smooth(descriptors_nd: Descriptors, pictures_n: NDArray[np.intp], neighbours: int) -> Descriptors:
    """The weighted mean of each row, weight 1, and its k nearest of other pictures, weights 1, (k-1)/k, ..., 1/k.

    That is database expansion (method.md 2.4), which a student so keeps in its weights (retrieval.md 7 G); rows of the
    same picture never join, since they are near by construction and would only blur crops into each other.

    Args:
        descriptors_nd: (N, D), each of length 1.
        pictures_n: (N,), which picture each row is of; any numbers that are equal for one picture.
        neighbours: k, 0 or more; 0 changes nothing.

    Returns:
        (N, D), each of length 1.

    Raises:
        OptionError: More neighbours than rows of other pictures, or fewer than 0.
        ShapeError: Values that are not finite, or not one picture for each row.
    """
    check_descriptors("the targets", descriptors_nd)
    if pictures_n.shape != descriptors_nd.shape[:1]:
        message = f"{len(descriptors_nd)} targets need as many picture numbers, got {pictures_n.shape}"
        raise ShapeError(message)
    check_neighbours(neighbours, pictures_n)
    if neighbours == 0:
        return descriptors_nd
    weight_k = np.arange(neighbours, 0, -1) / neighbours
    smoothed_nd = np.empty(descriptors_nd.shape, dtype=np.float32)
    for rows, nearest_ck in _nearest(descriptors_nd, pictures_n, neighbours):
        sum_cd = descriptors_nd[rows].astype(np.float64)
        for weight, nearest_c in zip(weight_k, nearest_ck.T, strict=True):
            sum_cd += weight * descriptors_nd[nearest_c]
        smoothed_nd[rows] = normalise((sum_cd / (1 + weight_k.sum())).astype(np.float32))
    return smoothed_nd


def check_neighbours(neighbours: int, pictures_n: NDArray[np.intp]) -> None:
    """Raise OptionError unless each of the rows, of these pictures, has that many neighbours of other pictures."""
    views_of_one = int(np.unique(pictures_n, return_counts=True)[1].max(initial=0))
    most = len(pictures_n) - views_of_one
    if not 0 <= neighbours <= most:
        message = (
            f"{len(pictures_n)} targets, up to {views_of_one} of one picture, can be smoothed with 0 to {most} "
            f"neighbours of other pictures, got {neighbours}: use fewer neighbours or more pictures"
        )
        raise OptionError(message)


def _nearest(
    descriptors_nd: Descriptors, pictures_n: NDArray[np.intp], k: int
) -> Iterator[tuple[slice, NDArray[np.intp]]]:
    """For a few rows at a time their k nearest of other pictures, best first; ties keep the order."""
    at_once = max(1, _CELLS // len(descriptors_nd))
    for start in range(0, len(descriptors_nd), at_once):
        rows = slice(start, start + at_once)
        similarity_cn = descriptors_nd[rows] @ descriptors_nd.T
        similarity_cn[pictures_n[rows, None] == pictures_n[None]] = -np.inf
        yield rows, np.stack([_best(similarity_n, k) for similarity_n in similarity_cn])


def _best(similarity_n: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    least = np.partition(similarity_n, -k)[-k]
    candidates = np.flatnonzero(similarity_n >= least)
    return candidates[np.argsort(-similarity_n[candidates], kind="stable")[:k]]
