"""How good a ranking is: average precision, its mean, recall at k."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.datasets import RetrievalSet
from deepir.descriptors import Descriptors, similarities
from deepir.errors import ShapeError

RECALL_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of queries scored, each value in 0..1.

    Attributes:
        mean_ap: Mean over queries of `average_precision`.
        recall_at: Share of queries with a positive among the first k, for each k of RECALL_RANKS.
        average_precisions: One for each query, in the set's order.
    """

    mean_ap: float
    recall_at: dict[int, float]
    average_precisions: tuple[float, ...]


def average_precision(relevant: NDArray[np.bool_], positives: int) -> float:
    """Area under precision over recall by the trapezoid rule of the Oxford protocol (method.md 2.5).

    Args:
        relevant: For each rank, best first and without junk, whether it is a positive.
        positives: How many positives there are, those absent from the ranking too.

    Raises:
        ShapeError: No positives at all: such a query has no average precision.
    """
    if positives < 1:
        message = "average precision needs at least one positive"
        raise ShapeError(message)
    ranks = np.flatnonzero(relevant)
    hits = np.arange(1, len(ranks) + 1)
    precision_after = hits / (ranks + 1)
    # precision just before a hit; before the first rank it is 1 by definition
    precision_before = np.where(ranks > 0, (hits - 1) / np.maximum(ranks, 1), 1.0)
    return float(np.sum(precision_before + precision_after) / (2 * positives))


def rank(query: int, dataset: RetrievalSet, similarity_n: NDArray[np.float32]) -> NDArray[np.intp]:
    """Database rows of one query, best first, its own image and junk left out; ties keep the database's order."""
    skipped = dataset.queries[query].junk | {dataset.queries[query].image}
    order = np.argsort(-similarity_n, kind="stable")
    return np.array([row for row in order if dataset.database[row] not in skipped], dtype=np.intp)


def score(dataset: RetrievalSet, queries_qd: Descriptors, database_nd: Descriptors) -> Scores:
    """Rank the database for every query and score the rankings.

    Args:
        dataset: Which images are positives and junk.
        queries_qd: A descriptor for each of `dataset.queries`, in order.
        database_nd: A descriptor for each of `dataset.database`, in order.

    Raises:
        ShapeError: The numbers of descriptors and images differ.
    """
    if (len(queries_qd), len(database_nd)) != (len(dataset.queries), len(dataset.database)):
        message = (
            f"{dataset.name} has {len(dataset.queries)} queries and {len(dataset.database)} database images, "
            f"got {len(queries_qd)} and {len(database_nd)} descriptors"
        )
        raise ShapeError(message)
    similarity_qn = similarities(queries_qd, database_nd)
    relevance = [_relevance(query, dataset, row) for query, row in enumerate(similarity_qn)]
    precisions = tuple(
        average_precision(relevant, len(query.positives))
        for relevant, query in zip(relevance, dataset.queries, strict=True)
    )
    recall_at = {k: float(np.mean([relevant[:k].any() for relevant in relevance])) for k in RECALL_RANKS}
    return Scores(float(np.mean(precisions)), recall_at, precisions)


def _relevance(query: int, dataset: RetrievalSet, similarity_n: NDArray[np.float32]) -> NDArray[np.bool_]:
    positives = dataset.queries[query].positives
    return np.array([dataset.database[row] in positives for row in rank(query, dataset, similarity_n)], dtype=bool)
