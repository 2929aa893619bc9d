"""How well an index tells the known from the unknown: true accepts at false accepts, recall at full precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import OptionError, ShapeError

FALSE_ACCEPT_RATES = (0.1, 0.01, 0.001)
"""At these shares of false accepts the true accepts are read."""

_ROUNDING = 1e-9
"""0.29 x 100 is 28.999... in binary; the 29 queries that were meant are allowed."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What an index answered, before any threshold: its best label for each query, and how similar that was.

    Attributes:
        similarity_k: (K,) For each query whose label is in the index, the similarity of the label answered.
        right_k: (K,) Whether that was the query's label.
        unknown_u: (U,) The best similarity of each query that shows nothing of the index; may be empty.

    Raises:
        ShapeError: No known query, NaN or infinity, or not one value for each.
    """

    similarity_k: NDArray[np.floating[Any]]
    right_k: NDArray[np.bool_]
    unknown_u: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        _check_similarities("the known queries", self.similarity_k)
        _check_similarities("the unknown queries", self.unknown_u)
        if not len(self.similarity_k):
            message = "there is no known query to score: expected one similarity or more (K,), got none"
            raise ShapeError(message)
        if self.right_k.shape != self.similarity_k.shape or self.right_k.dtype != np.bool_:
            message = (
                f"expected right or wrong, bool of shape {self.similarity_k.shape}, for each known query, "
                f"got {self.right_k.dtype} of shape {self.right_k.shape}"
            )
            raise ShapeError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRate:
    """True accepts where at most a wanted share of the unknown is accepted.

    Attributes:
        true_accepts: Share of the known queries that are answered, and right, at `threshold`; 0..1.
        false_accepts: Share of the unknown queries answered there: the wanted share or less, less after a tie.
        threshold: The least number of single precision above the first unknown query that must not be accepted.
    """

    true_accepts: float
    false_accepts: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FullPrecision:
    """How much is answered before the first mistake.

    Attributes:
        recall: Share of the known queries answered right when no answer may be wrong; 0..1.
        threshold: The least similarity among those answers; None when there are none.
    """

    recall: float
    threshold: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What becomes of each query at one threshold: accepted are similarities of `threshold` or more.

    They are compared in double precision, as the recogniser does: 0.7 in single precision is a little less than 0.7.

    Attributes:
        threshold: Similarity.
        true_accepts: Known queries accepted with their label.
        wrong_labels: Known queries accepted with another label.
        false_rejects: Known queries not accepted, whichever label was nearest.
        false_accepts: Unknown queries accepted.
        known, unknown: How many queries of each kind there are.
    """

    threshold: float
    true_accepts: int
    wrong_labels: int
    false_rejects: int
    false_accepts: int
    known: int
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSetScores:
    """Everything that `score_open_set` reads from the answers.

    Attributes:
        accept_at: For each wanted share of false accepts; None where there are fewer unknown queries than 1 / share.
        full_precision: Recall at 100 % precision.
        outcomes: At the threshold that was given; None when none was.
    """

    accept_at: dict[float, AcceptRate | None]
    full_precision: FullPrecision
    outcomes: Outcomes | None


def answers_from_similarities(
    own_k: NDArray[np.floating[Any]], other_k: NDArray[np.floating[Any]], unknown_u: NDArray[np.floating[Any]]
) -> Answers:
    """The answers of an index that names the label of the most similar view; a tie counts as wrong.

    Args:
        own_k: (K,) The best similarity of each known query to a view of its own label.
        other_k: (K,) The best to a view of any other label.
        unknown_u: (U,) The best similarity of each unknown query.

    Raises:
        ShapeError: As Answers.
    """
    if own_k.shape != other_k.shape:
        message = f"expected a similarity to the own and to other labels each, got {own_k.shape} and {other_k.shape}"
        raise ShapeError(message)
    return Answers(np.maximum(own_k, other_k), np.asarray(own_k > other_k), unknown_u)


def score_open_set(
    answers: Answers, *, fars: Sequence[float] = FALSE_ACCEPT_RATES, threshold: float | None = None
) -> OpenSetScores:
    """All scores of open-set recognition (field.md 7.3).

    Raises:
        OptionError: A wanted share that is not between 0 and 1, or a threshold that is not a number.
    """
    return OpenSetScores(
        accept_at={far: true_accepts_at(answers, far) for far in fars},
        full_precision=recall_at_full_precision(answers),
        outcomes=None if threshold is None else outcomes_at(answers, threshold),
    )


def true_accepts_at(answers: Answers, far: float) -> AcceptRate | None:
    """TAR@FAR: the share of known queries answered right where at most `far` of the unknown is answered.

    Of U unknown queries floor(far x U) may be accepted; the threshold lies just above the similarity of the next one.
    So the share is never exceeded, not even by a tie, and nothing is interpolated. A known query counts when its
    similarity is the threshold or more and its label is right: a wrong label is no true accept at any threshold.

    None with fewer unknown queries than 1 / far: that rate could only be read where none is accepted, by luck.

    Raises:
        OptionError: `far` is not between 0 and 1.
    """
    if not 0 < far < 1:
        message = f"a share of false accepts lies between 0 and 1, got {far}"
        raise OptionError(message)
    unknown_u = np.sort(answers.unknown_u.astype(np.float64))[::-1]
    # a share just below 1 must not round up to all of them
    allowed = min(int(far * len(unknown_u) + _ROUNDING), len(unknown_u) - 1)
    if allowed < 1:
        return None
    threshold = _just_above(float(unknown_u[allowed]))
    accepted_k = answers.similarity_k.astype(np.float64) >= threshold
    return AcceptRate(
        true_accepts=float(np.mean(accepted_k & answers.right_k)),
        false_accepts=float(np.mean(unknown_u >= threshold)),
        threshold=threshold,
    )


def recall_at_full_precision(answers: Answers) -> FullPrecision:
    """Recall@100P: the largest share of known queries answered right above a threshold where no answer is wrong.

    As in visual place recognition (field.md 7.3) each query has one answer, its most similar label. Wrong answers are
    other labels, and any answer to an unknown query. What counts is right and more similar than every wrong answer; a
    tie with one does not count. All known queries are in the denominator.
    """
    wrong = np.concatenate([answers.similarity_k[~answers.right_k], answers.unknown_u]).astype(np.float64)
    right = answers.similarity_k[answers.right_k].astype(np.float64)
    kept = right[right > wrong.max(initial=-np.inf)]
    return FullPrecision(
        recall=len(kept) / len(answers.similarity_k),
        threshold=float(kept.min()) if len(kept) else None,
    )


def outcomes_at(answers: Answers, threshold: float) -> Outcomes:
    """What becomes of the queries when similarities of `threshold` or more are accepted.

    Raises:
        OptionError: The threshold is not a number.
    """
    if np.isnan(threshold):
        message = f"a similarity threshold is a number, usually from -1 to 1, got {threshold}"
        raise OptionError(message)
    accepted_k = answers.similarity_k.astype(np.float64) >= threshold
    return Outcomes(
        threshold=threshold,
        true_accepts=int(np.sum(accepted_k & answers.right_k)),
        wrong_labels=int(np.sum(accepted_k & ~answers.right_k)),
        false_rejects=int(np.sum(~accepted_k)),
        false_accepts=int(np.sum(answers.unknown_u.astype(np.float64) >= threshold)),
        known=len(accepted_k),
        unknown=len(answers.unknown_u),
    )


def _just_above(similarity: float) -> float:
    # in single precision, so that it stays above when it is rounded to the type of the similarities
    return float(np.nextafter(np.float32(similarity), np.float32(np.inf)))


def _check_similarities(name: str, similarity_n: NDArray[np.floating[Any]]) -> None:
    if similarity_n.ndim != 1 or similarity_n.dtype.kind != "f":
        message = f"{name}: expected similarities, float (N,), got {similarity_n.dtype} of shape {similarity_n.shape}"
        raise ShapeError(message)
    damaged = np.flatnonzero(~np.isfinite(similarity_n))
    if len(damaged):
        message = f"{name}: {len(damaged)} of {len(similarity_n)} similarities are NaN or infinity, {damaged[0]} first"
        raise ShapeError(message)
