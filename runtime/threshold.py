"""The similarity below which an image is unknown: from pictures of unknown things, or from the stored views alone.

Both ask how similar to the index a picture can be of a thing that is not in it. A stored view answers when its own
label is left out; a few hundred such answers in groups (the views of a label resemble each other) do not show one case
in a hundred, so the tail of what they show is continued: see `_exceeded_by`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, similarities
from deepir.errors import OptionError, ShapeError

FALSE_ACCEPTS = 0.01
"""Wanted share of unknown images that are taken for a label."""

_TAIL_GROUPS = 5
_WIDEST_TAIL = 0.5
_FEWEST_FINDINGS = 2.0
_LEAST_DISTANCE = 1e-3
"""8-bit codes do not tell nearer descriptors apart."""

_SAME = 1e-6
"""Two views that are nearest to each other are equally near, whatever the last digits say."""

_MOST_ROWS = 5000
_FEWEST_ROWS = 500
_MOST_PRODUCTS = 500_000_000
"""About ten seconds of one core with 512 values."""

_QUERY_CHUNK = 256
_STORED_CHUNK = 4096

NO_OTHER = -np.inf
"""Less than any similarity."""

Basis = Literal["views", "queries", "unknown", "chosen"]

BY_HAND: frozenset[Basis] = frozenset({"unknown", "chosen"})
"""What a person gave: stored views do not compute it anew."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where `match` begins.

    Attributes:
        value: Similarity, from -1 to 1.
        far: The wanted share of false accepts.
        impostors: How many pictures were compared with what they do not show.
        basis: `views` when those were stored views, compared with the other labels; `queries` when they were the
            pictures of stored views, described as queries are; `unknown` when they were pictures of things that are
            not in the index; `chosen` when a person chose the value, and nothing was compared.
        extrapolated: So few labels (or pictures of unknown things) do not show one case in 1 / far, and the value
            stands where none of them was seen.
    """

    value: float
    far: float
    impostors: int
    basis: Basis = "views"
    extrapolated: bool = False


def fit_threshold(
    descriptors_nd: Descriptors, labels: Sequence[str], far: float = FALSE_ACCEPTS, *, all_labels: int | None = None
) -> Threshold | None:
    """The similarity to a view of another label that a share `far` of left-out labels exceeds.

    It holds for unknown things of the kind of the known ones. Others are rejected more often, and so are known things
    that look unlike their stored views: then `threshold_from_unknown` accepts more of what is right. On photographs of
    products whose labels were held out a wish of 1 % gave 0 to 1.7 % (docs/benchmarks.md); with fewer than 100 labels
    it is an extrapolation, and from two or three no more than a guess.

    At most 5,000 views are compared, of an index of more than 100,000 fewer, of one of a million 500; but always with
    all of it, since the best of a part is less similar than the best of all.

    Args:
        descriptors_nd: Of length 1.
        labels: One for each row.
        far: Above 0, below 1.
        all_labels: How many labels the index has, when these are the views of only some: as many times as it has more,
            an unknown thing may be taken for one.

    Returns:
        None with fewer than two labels: there is nothing to mistake a view for.

    Raises:
        OptionError: `far` is not between 0 and 1.
        ShapeError: Not one label for each descriptor.
    """
    check_far(far)
    if len(descriptors_nd) != len(labels):
        message = f"a threshold needs one label for each descriptor, got {len(labels)} for {len(descriptors_nd)}"
        raise ShapeError(message)
    names, label_n = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    rows = _sample(len(descriptors_nd))
    best_r = best_of_others(descriptors_nd, rows, lambda queries, stored: label_n[queries, None] == label_n[stored])
    # something unknown meets all labels, a view only the others that are here
    met = (len(names) - 1) / max(len(names), all_labels or 0)
    return _from_labels(best_r, label_n[rows], far, met, "views")


def threshold_from_queries(
    best_n: NDArray[np.float32], labels: Sequence[str], far: float, all_labels: int
) -> Threshold:
    """The similarity to a view of another label that a share `far` of left-out labels exceeds, as `fit_threshold`.

    For an index whose stored pictures another model described: its views resemble each other more than any query
    resembles them.

    Args:
        best_n: The similarity of each picture, described as a query is, to the nearest view of another label.
        labels: Of each picture.
        far: Above 0, below 1.
        all_labels: How many labels the index has; two or more.

    Raises:
        OptionError: `far` is not between 0 and 1.
    """
    check_far(far)
    _, label_n = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    return _from_labels(best_n, label_n, far, 1 - 1 / all_labels, "queries")


def threshold_from_unknown(best_n: NDArray[np.float32], far: float = FALSE_ACCEPTS) -> Threshold:
    """The similarity that a share `far` of pictures like these of unknown things exceeds.

    With fewer than 1 / far pictures it is an extrapolation: 30 pictures and a wish of 1 % gave 0.1 to 1.2 % on
    photographs of other unknown things of the same kind, where their plain quantile gave 4 to 6 %.

    Args:
        best_n: The similarity of each to the nearest stored view.
        far: Above 0, below 1.

    Raises:
        OptionError: `far` is not between 0 and 1, or there are no pictures.
    """
    check_far(far)
    if not len(best_n):
        message = "a threshold from unknown things needs at least one picture of them"
        raise OptionError(message)
    value = _exceeded_by(far, best_n, np.arange(len(best_n)))
    return Threshold(value, far, len(best_n), "unknown", len(best_n) * far < 1)


def _from_labels(
    best_n: NDArray[np.float32], label_n: NDArray[np.intp], far: float, met: float, basis: Basis
) -> Threshold:
    value = _exceeded_by(far * met, best_n, label_n)
    return Threshold(value, far, len(best_n), basis, len(np.unique(label_n)) * far * met < 1)


def best_of_others(
    descriptors_nd: Descriptors,
    rows: NDArray[np.intp],
    is_same: Callable[[NDArray[np.intp], slice], NDArray[np.bool_]],
) -> NDArray[np.float32]:
    """The similarity of each of these rows to the most similar row that shows something else; NO_OTHER where none does.

    Args:
        descriptors_nd: Of length 1.
        rows: (R,) which to compare with all.
        is_same: Takes some of the rows and some of all, says which show the same, (Q, S).
    """
    best_r = np.full(len(rows), NO_OTHER, np.float32)
    for queries in _slices(len(rows), _QUERY_CHUNK):
        chunk = rows[queries]
        queries_qd = descriptors_nd[chunk]
        for stored in _slices(len(descriptors_nd), _STORED_CHUNK):
            similarity_qs = similarities(queries_qd, descriptors_nd[stored])
            similarity_qs[is_same(chunk, stored)] = NO_OTHER
            np.maximum(best_r[queries], similarity_qs.max(axis=1), out=best_r[queries])
    return best_r


def check_far(far: float) -> None:
    """Refuse what is not a share.

    Raises:
        OptionError: `far` is not between 0 and 1.
    """
    if not 0 < far < 1:
        message = f"the wanted share of false accepts (far) must be between 0 and 1, got {far}"
        raise OptionError(message)


def _exceeded_by(share: float, best_n: NDArray[np.float32], group_n: NDArray[np.intp]) -> float:
    """The similarity that a new member of a new group exceeds with probability `share`; every group weighs the same.

    Near the index, distances to the nearest neighbour follow a power law (Hill 1975; Amsaleg et al. 2015), so what
    their logarithms exceed one of them by is exponential. Of k such excesses with mean m a new one exceeds
    k m ((p / share)^(1/k) - 1) with probability share / p, whatever the true mean; p is the probability that there is
    an excess: 5 groups' worth, at most half. k is half of the groups that exceed, as two labels that resemble each
    other find each other; no fewer than 2, or everything would be unknown to a very small index.
    """
    _, group_n, sizes_g = np.unique(group_n, return_inverse=True, return_counts=True)
    groups = len(sizes_g)
    weight_n = 1 / (groups * sizes_g[group_n])
    height_n = -np.log(np.maximum(1 - best_n.astype(np.float64), _LEAST_DISTANCE))
    start = _quantile(height_n, weight_n, 1 - max(min(_TAIL_GROUPS / groups, _WIDEST_TAIL), share))
    above_n = height_n > start + _SAME
    above = float(weight_n[above_n].sum())
    # the new group is one more, and nothing is known of it
    probability = (above * groups + 1) / (groups + 1)
    if above and probability > share:
        mean = float(weight_n[above_n] @ (height_n[above_n] - start)) / above
        findings = max(len(np.unique(group_n[above_n])) / 2, _FEWEST_FINDINGS)
        start += mean * findings * ((probability / share) ** (1 / findings) - 1)
    return float(1 - np.exp(-start))


def _quantile(value_n: NDArray[np.float64], weight_n: NDArray[np.float64], share: float) -> float:
    """The least value that with all below it has the share; in its order ties do not matter."""
    order = np.argsort(value_n)
    reached_n = np.cumsum(weight_n[order])
    return float(value_n[order[min(int(np.searchsorted(reached_n, share - _SAME)), len(order) - 1)]])


def _sample(count: int) -> NDArray[np.intp]:
    most = max(min(_MOST_ROWS, _MOST_PRODUCTS // count), _FEWEST_ROWS)
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
