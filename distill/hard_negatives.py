"""Hard negatives of a pool: the most similar pictures of other clusters, also of other sets (method.md 5)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.distill.label_matrix import Labels, common_labels
from deepir.errors import InputError, OptionError, ShapeError

_ROWS = 64
"""Queries whose similarities to the whole pool are in memory at once."""


def mine(
    query_descriptors: NDArray[np.floating[Any]],
    pool_descriptors: NDArray[np.floating[Any]],
    pool_labels: Labels,
    query_labels: Labels,
    count: int = 5,
) -> NDArray[np.int64]:
    """The hardest pictures of the pool for each query, one of each cluster, never one of the query's own.

    To be done anew in each epoch, with descriptors of the network as it is then. Labels of several sets must differ
    from set to set, as "paris/louvre" and "oxford/keble" do.

    Args:
        query_descriptors: (Q, D), length 1.
        pool_descriptors: (N, D), length 1.
        pool_labels: The cluster of each picture of the pool, (N,): whole numbers or names.
        query_labels: The cluster of each query, (Q,).
        count: Negatives of each query.

    Returns:
        Numbers of pictures in the pool, (Q, count), the most similar first.

    Raises:
        OptionError: A count below 1.
        ShapeError: Arrays that do not belong together, NaN or infinity.
        InputError: A pool with too few clusters other than a query's.
    """
    if count < 1:
        message = f"count must be 1 or more, got {count}"
        raise OptionError(message)
    queries, pool = np.asarray(query_descriptors, np.float32), np.asarray(pool_descriptors, np.float32)
    own_clusters, clusters = (labels.cpu().numpy() for labels in common_labels(query_labels, pool_labels))
    _check(queries, len(own_clusters), "query")
    _check(pool, len(clusters), "picture of the pool")
    if queries.shape[1] != pool.shape[1]:
        message = (
            f"queries have descriptors of {queries.shape[1]} values and the pool of {pool.shape[1]}: use one model"
        )
        raise ShapeError(message)
    _check_clusters(own_clusters, clusters, count)
    mined = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), _ROWS):
        similarities = queries[start : start + _ROWS] @ pool.T
        for query, row in enumerate(similarities, start):
            mined[query] = _hardest(row, clusters, own_clusters[query], count)
    return mined


def _hardest(
    similarities_n: NDArray[np.float32], clusters: NDArray[np.integer[Any]], own: int, count: int
) -> NDArray[np.int64]:
    order = np.argsort(-similarities_n, kind="stable")
    order = order[clusters[order] != own]
    firsts = np.sort(np.unique(clusters[order], return_index=True)[1])
    chosen: NDArray[np.int64] = order[firsts[:count]]
    return chosen


def _check(descriptors: NDArray[np.float32], count: int, what: str) -> None:
    if descriptors.ndim != 2 or len(descriptors) != count:
        message = f"a descriptor and a label are needed for each {what}, got {descriptors.shape} and {count} labels"
        raise ShapeError(message)
    if not np.isfinite(descriptors).all():
        message = f"the descriptor of a {what} is NaN or infinite: has the training diverged?"
        raise ShapeError(message)


def _check_clusters(own_q: NDArray[np.integer[Any]], pool_n: NDArray[np.integer[Any]], count: int) -> None:
    present = np.unique(pool_n)
    left = len(present) - int(np.isin(own_q, present).any())
    if left < count:
        message = (
            f"{count} negatives of different clusters are wanted, but a query has only {left} other clusters "
            "in the pool: add pictures of others or ask for fewer"
        )
        raise InputError(message)
