"""How good a ranking is: average precision in three conventions, precision and recall at k, R-precision."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.descriptor_check import check_descriptors
from deepir.descriptors import Descriptors, similarities
from deepir.errors import OptionError, ShapeError
from deepir.retrieval_set import RetrievalSet

AP_CONVENTIONS = ("trapezoid", "voc", "step")
"""As the Oxford and Paris benchmarks; interpolated, as Pascal VOC since 2010; the mean of the precisions at hits."""

RECALL_RANKS = (1, 5, 10)
PRECISION_RANKS = (1, 5, 10)

_CELLS = 1 << 23
"""Similarities held at once: 32 MiB of them."""

Ranks = NDArray[np.intp]
"""(P,) ranks of the positives that were found, from 0, rising; junk has none."""

_Found = tuple[Ranks, NDArray[np.float32]]
"""Ranks of the positives of a query, and their similarities."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of queries scored, each value in 0..1.

    Attributes:
        mean_ap: Mean over queries of `average_precision`.
        recall_at: Share of queries with a positive among the first k, for each k of RECALL_RANKS.
        average_precisions: One for each query, in the set's order.
        precision_at: Mean share of positives among the first k, for each k of PRECISION_RANKS; where the last positive
            stands before k, among those up to it, as in the revisited protocol (method.md 2.5).
        r_precision: Mean share of positives among the first R, R being how many positives the query has.
    """

    mean_ap: float
    recall_at: dict[int, float]
    average_precisions: tuple[float, ...]
    precision_at: dict[int, float]
    r_precision: float


def average_precision(relevant: NDArray[np.bool_], positives: int, *, convention: str = "trapezoid") -> float:
    """Area under precision over recall (method.md 2.5).

    Args:
        relevant: For each rank, best first and without junk, whether it is a positive.
        positives: How many positives there are, those absent from the ranking too.
        convention: One of AP_CONVENTIONS: `trapezoid` means precision before and after each hit, `voc` takes the best
            precision at that recall or a higher one, `step` the precision at the hit.

    Raises:
        ShapeError: No positives at all: such a query has no average precision.
        OptionError: No such convention.
    """
    return _average_precision(np.flatnonzero(relevant), positives, convention)


def rank(query: int, dataset: RetrievalSet, similarity_n: NDArray[np.float32]) -> NDArray[np.intp]:
    """Database rows of one query, best first, its junk left out; ties keep the database's order."""
    junk = dataset.queries[query].junk
    kept = np.array([path not in junk for path in dataset.database], dtype=bool)
    order = np.argsort(-similarity_n, kind="stable")
    ranked: NDArray[np.intp] = order[kept[order]]
    return ranked


def score(
    dataset: RetrievalSet,
    queries_qd: Descriptors,
    database_nd: Descriptors,
    *,
    convention: str = "trapezoid",
    distractors: Iterable[Descriptors] = (),
) -> Scores:
    """Rank the database for every query and score the rankings.

    Args:
        dataset: Which images are positives and junk.
        queries_qd: A descriptor for each of `dataset.queries`, in order.
        database_nd: A descriptor for each of `dataset.database`, in order.
        convention: Which average precision, one of AP_CONVENTIONS.
        distractors: Chunks (M, D) of further negatives, ranked as if they stood at the end of the database; one chunk
            is in memory at a time.

    Raises:
        ShapeError: The numbers of descriptors and images differ, dimensions differ, values are not finite, or a query
            has no positives.
        OptionError: No such convention.
    """
    _check_convention(convention)
    _check(dataset, queries_qd, database_nd)
    found = list(_find_positives(dataset, queries_qd, database_nd))
    for chunk in distractors:
        check_descriptors("the distractors", chunk)
        _push_down(found, queries_qd, chunk)
    return _scores(found, [len(query.positives) for query in dataset.queries], convention)


def _scores(found: list[_Found], positives: list[int], convention: str) -> Scores:
    ranks_and_counts = [(ranks, count) for (ranks, _), count in zip(found, positives, strict=True)]
    precisions = tuple(_average_precision(ranks, count, convention) for ranks, count in ranks_and_counts)
    return Scores(
        mean_ap=float(np.mean(precisions)),
        recall_at={k: float(np.mean([np.any(ranks < k) for ranks, _ in ranks_and_counts])) for k in RECALL_RANKS},
        average_precisions=precisions,
        precision_at={
            k: float(np.mean([_precision_at(k, ranks) for ranks, _ in ranks_and_counts])) for k in PRECISION_RANKS
        },
        r_precision=float(np.mean([np.sum(ranks < count) / count for ranks, count in ranks_and_counts])),
    )


def _average_precision(ranks: Ranks, positives: int, convention: str) -> float:
    _check_convention(convention)
    if positives < 1:
        message = "average precision needs at least one positive"
        raise ShapeError(message)
    hits = np.arange(1, len(ranks) + 1)
    precision_after = hits / (ranks + 1)
    if convention == "voc":
        precision_after = np.maximum.accumulate(precision_after[::-1])[::-1]
    # precision just before a hit; before the first rank it is 1 by definition
    precision_before = np.where(ranks > 0, (hits - 1) / np.maximum(ranks, 1), 1.0)
    if convention != "trapezoid":
        precision_before = precision_after
    return float(np.sum(precision_before + precision_after) / (2 * positives))


def _precision_at(k: int, ranks: Ranks) -> float:
    if not len(ranks):
        return 0.0
    seen = min(k, int(ranks[-1]) + 1)
    return int((ranks < seen).sum()) / seen


def _find_positives(dataset: RetrievalSet, queries_qd: Descriptors, database_nd: Descriptors) -> Iterator[_Found]:
    row_of = {path: row for row, path in enumerate(dataset.database)}
    for queries, similarity_qn in _blocks(queries_qd, database_nd):
        for query, similarity_n in zip(dataset.queries[queries], similarity_qn, strict=True):
            junk = [row_of[path] for path in query.junk if path in row_of]
            positives = [row_of[path] for path in query.positives - query.junk if path in row_of]
            yield _ranks(similarity_n, np.array(positives, dtype=np.intp), np.array(junk, dtype=np.intp))


def _ranks(similarity_n: NDArray[np.float32], positives: NDArray[np.intp], junk: NDArray[np.intp]) -> _Found:
    order = np.argsort(-similarity_n, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    places = np.sort(place[positives])
    return places - np.searchsorted(np.sort(place[junk]), places), similarity_n[order[places]]


def _push_down(found: list[_Found], queries_qd: Descriptors, distractors_md: Descriptors) -> None:
    """Add to each rank the number of distractors that are more similar: with a tie the database comes first."""
    for queries, similarity_qm in _blocks(queries_qd, distractors_md):
        for (ranks, similarity_p), similarity_m in zip(found[queries], similarity_qm, strict=True):
            ahead = len(similarity_m) - np.searchsorted(np.sort(similarity_m), similarity_p, side="right")
            np.add(ranks, ahead, out=ranks)


def _blocks(queries_qd: Descriptors, rows_nd: Descriptors) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Similarities of a few queries at a time, so that no more than _CELLS of them are held."""
    at_once = max(1, _CELLS // max(1, len(rows_nd)))
    for start in range(0, len(queries_qd), at_once):
        queries = slice(start, start + at_once)
        yield queries, similarities(queries_qd[queries], rows_nd)


def _check_convention(convention: str) -> None:
    if convention not in AP_CONVENTIONS:
        message = f"average precision is one of {', '.join(AP_CONVENTIONS)}, got {convention!r}"
        raise OptionError(message)


def _check(dataset: RetrievalSet, queries_qd: Descriptors, database_nd: Descriptors) -> None:
    if (len(queries_qd), len(database_nd)) != (len(dataset.queries), len(dataset.database)):
        message = (
            f"{dataset.name} has {len(dataset.queries)} queries and {len(dataset.database)} database images, "
            f"got {len(queries_qd)} and {len(database_nd)} descriptors"
        )
        raise ShapeError(message)
    if not len(queries_qd):
        message = f"{dataset.name} has no queries to score"
        raise ShapeError(message)
    for name, descriptors in (("queries", queries_qd), ("database", database_nd)):
        check_descriptors(f"the {name} of {dataset.name}", descriptors)
