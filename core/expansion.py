"""Query and database expansion: each descriptor moves towards its nearest database descriptors (method.md 2.4)."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptor_check import check_descriptors
from deepir.descriptors import Descriptors, normalise, similarities
from deepir.errors import OptionError

FORMS = ("average", "alpha")

_CELLS = 1 << 23
"""Similarities held at once: 32 MiB of them."""

_MOST_ROWS = 256
"""Queries expanded at once: bounds what is held of a small database too."""

_PATTERN = re.compile(r"(?:(?:aqe:|dbe:)?(\d+))|(?:alpha:(\d+),([0-9.]+))")

Weigh = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
"""Similarities (C, K) to weights (C, K)."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """How queries or a database are expanded; checked when it is made.

    Attributes:
        form: `average`, that of Deep Image Retrieval (AQE for queries, DBE for the database, not normalised again), or
            `alpha`, weights similarity ** alpha, of length 1 again.
        k: Nearest database descriptors that join, 1 or more.
        alpha: Exponent of the form `alpha`, 0 or more; None for `average`.
    """

    form: str
    k: int
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS or (self.form == "alpha") != (self.alpha is not None):
            message = f"an expansion is average with k, or alpha with k and alpha; got {self.form!r} and {self.alpha}"
            raise OptionError(message)
        if self.k < 1:
            message = f"an expansion takes 1 neighbour or more, got {self.k}"
            raise OptionError(message)
        if self.alpha is not None:
            _check_alpha(self.alpha)

    def __str__(self) -> str:
        return f"k {self.k}" if self.alpha is None else f"k {self.k}, alpha {self.alpha:g}"

    def of_queries(self, queries_qd: Descriptors, database_nd: Descriptors) -> Descriptors:
        """The queries, expanded by the database: (Q, D)."""
        if self.alpha is None:
            return expand_queries(queries_qd, database_nd, self.k)
        return alpha_expand(queries_qd, database_nd, self.k, self.alpha)

    def of_database(self, database_nd: Descriptors) -> Descriptors:
        """The database, expanded by itself: (N, D)."""
        if self.alpha is None:
            return expand_database(database_nd, self.k)
        return alpha_expand(database_nd, database_nd, self.k, self.alpha, own_rows=True)


def parse_expansion(text: str) -> Expansion:
    """Read `1`, `aqe:1` or `dbe:20` as the form `average` with that k, `alpha:10,3` as `alpha` with k 10 and alpha 3.

    Raises:
        OptionError: Anything else, k below 1.
    """
    match = _PATTERN.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        plain, k, alpha = match.groups()
        return Expansion("average", int(plain)) if plain else Expansion("alpha", int(k), float(alpha))
    except ValueError as error:
        message = f"expected an expansion such as 10 or alpha:10,3 (k, then alpha), got {text!r}"
        raise OptionError(message) from error


def expand(
    queries_qd: Descriptors,
    database_nd: Descriptors,
    *,
    queries: Expansion | None = None,
    database: Expansion | None = None,
) -> tuple[Descriptors, Descriptors]:
    """Queries and database as they are to be compared: the database is expanded first, then searched, then the queries.

    Raises:
        OptionError: A k larger than the database.
        ShapeError: Different dimensions, or values that are not finite.
    """
    expanded_nd = database_nd if database is None else database.of_database(database_nd)
    return (queries_qd if queries is None else queries.of_queries(queries_qd, expanded_nd)), expanded_nd


def expand_database(database_nd: Descriptors, k: int) -> Descriptors:
    """DBE: the weighted mean of each row, weight 1, and its k nearest, weights 1, (k-1)/k, ..., 1/k; not normalised.

    Args:
        database_nd: (N, D).
        k: How many others join, 1..N-1.

    Raises:
        OptionError: k out of its range.
        ShapeError: Values that are not finite.
    """
    weight_k = np.arange(k, 0, -1) / k
    return _means(database_nd, database_nd, k, lambda similarity_ck: _each(weight_k, similarity_ck), own_rows=True)


def expand_queries(queries_qd: Descriptors, database_nd: Descriptors, k: int) -> Descriptors:
    """AQE: the plain mean of each query and its k nearest database rows; not normalised.

    Args:
        queries_qd: (Q, D).
        database_nd: (N, D), itself expanded where the database is (see `expand`).
        k: How many join, 1..N.

    Raises:
        OptionError: k out of its range.
        ShapeError: Different dimensions, or values that are not finite.
    """
    return _means(queries_qd, database_nd, k, np.ones_like)


def alpha_expand(
    queries_qd: Descriptors, database_nd: Descriptors, k: int, alpha: float, *, own_rows: bool = False
) -> Descriptors:
    """Alpha expansion: each query, weight 1, plus its k nearest rows, weight similarity ** alpha; of length 1.

    Rows of negative similarity count as of similarity 0.

    Args:
        queries_qd: (Q, D).
        database_nd: (N, D).
        k: How many join, 1..N, with `own_rows` 1..N-1.
        alpha: 0 (a plain mean) or more.
        own_rows: The queries are the database itself: a row is none of its own neighbours.

    Raises:
        OptionError: k or alpha out of its range.
        ShapeError: Different dimensions, or values that are not finite.
    """
    _check_alpha(alpha)
    return normalise(
        _means(
            queries_qd,
            database_nd,
            k,
            lambda similarity_ck: np.maximum(similarity_ck, 0).astype(np.float64) ** alpha,
            own_rows=own_rows,
        )
    )


def _means(
    queries_qd: Descriptors, database_nd: Descriptors, k: int, weigh: Weigh, *, own_rows: bool = False
) -> Descriptors:
    """The mean of each query, weight 1, and its k nearest rows, weighed by their similarities."""
    check_descriptors("the queries", queries_qd)
    check_descriptors("the database", database_nd)
    _check_k(k, len(database_nd) - own_rows)
    expanded_qd = np.empty(queries_qd.shape, dtype=np.float32)
    for queries, nearest_ck, similarity_ck in _nearest(queries_qd, database_nd, k, own_rows=own_rows):
        weight_ck = weigh(similarity_ck)
        sum_cd = queries_qd[queries].astype(np.float64)
        for nearest_c, weight_c in zip(nearest_ck.T, weight_ck.T, strict=True):
            sum_cd += weight_c[:, None] * database_nd[nearest_c]
        expanded_qd[queries] = sum_cd / (1 + weight_ck.sum(axis=1, keepdims=True))
    return expanded_qd


def _nearest(
    queries_qd: Descriptors, database_nd: Descriptors, k: int, *, own_rows: bool
) -> Iterator[tuple[slice, NDArray[np.intp], NDArray[np.float32]]]:
    """For a few queries at a time their k nearest rows, best first, and the similarities; ties keep the order."""
    at_once = min(_MOST_ROWS, max(1, _CELLS // len(database_nd)))
    for start in range(0, len(queries_qd), at_once):
        queries = slice(start, start + at_once)
        similarity_cn = similarities(queries_qd[queries], database_nd)
        if own_rows:
            own = np.arange(len(similarity_cn))
            similarity_cn[own, start + own] = -np.inf
        nearest_ck = np.stack([_best(similarity_n, k) for similarity_n in similarity_cn])
        yield queries, nearest_ck, np.take_along_axis(similarity_cn, nearest_ck, axis=1)


def _best(similarity_n: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    least = np.partition(similarity_n, -k)[-k]
    candidates = np.flatnonzero(similarity_n >= least)
    return candidates[np.argsort(-similarity_n[candidates], kind="stable")[:k]]


def _each(weight_k: NDArray[np.float64], similarity_ck: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.broadcast_to(weight_k, similarity_ck.shape)


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        message = f"an expansion takes 1 to {most} neighbours from this database, got {k}"
        raise OptionError(message)


def _check_alpha(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha >= 0):
        message = f"the alpha of an expansion is 0 or more, got {alpha}"
        raise OptionError(message)
