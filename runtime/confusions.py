"""Pairs of labels whose stored views nearly collide, and what to do about each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.errors import InputError, OptionError
from deepir.label_tree import common_ancestor, parent
from deepir.runtime.index import Index
from deepir.runtime.items import Item
from deepir.runtime.view_blocks import LabelledViews, compared, labelled_views, sampled_rows

MOST = 20
_LARGEST_MOST = 1000

_SAME_PICTURE = 0.99
"""As at enrolment: so similar are only copies of one picture, or of one thing under two labels."""

_Similarities = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NearView:
    """One side of a collision.

    Attributes:
        item: The view that resembles one of the other label.
        own: Its similarity to the nearest other view of its own label; None where it is the only one.
        own_item: That view.
        views: How many the label has.
    """

    item: Item
    own: float | None
    own_item: Item | None
    views: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Two labels and their most similar views.

    Attributes:
        similarity: Of those two views.
        above: Whether it reaches the index's threshold, so that one may be taken for the other; None without one.
        first, second: The two sides.
        margin: Of the index.
    """

    similarity: float
    above: bool | None
    first: NearView
    second: NearView
    margin: float

    @property
    def at_risk(self) -> list[str]:
        """The labels whose view is not clearly nearer to its own label than to the other."""
        sides = (self.first, self.second)
        return [side.item.label for side in sides if side.own is None or side.own < self.similarity + self.margin]

    @property
    def advice(self) -> str:
        """What to do, in words."""
        if self.similarity >= _SAME_PICTURE:
            keys = f"--key {self.first.item.key} or {self.second.item.key}"
            return f"as alike as copies of one picture: if one is under the wrong label, remove it ({keys})"
        if self.above is False:
            return "apart: what is so unlike a label is unknown"
        if not self.at_risk:
            return "near, but each view is nearer to its own label"
        branch = common_ancestor([self.first.item.label, self.second.item.label])
        if branch is not None and branch == parent(self.first.item.label) == parent(self.second.item.label):
            return f"add views that show the difference or, where it does not matter, relabel both as {branch}"
        if len(self.at_risk) == 2 and self.first.views == self.second.views:
            return "add views of both that show what tells them apart"
        few = min((self.first, self.second), key=lambda side: side.views).item.label
        return f"add views of {few if len(self.at_risk) == 2 else self.at_risk[0]} that show what tells it apart"


@dataclass(frozen=True, slots=True)
class Confusions:
    """The pairs that are nearest to each other.

    Attributes:
        pairs: The most similar first, at most as many as wanted.
        compared, views: How many of the views were compared with all views; fewer than all where there are very many.
    """

    pairs: list[Confusion]
    compared: int
    views: int


def find_confusions(index: Index, most: int = MOST) -> Confusions:
    """The pairs of labels with the most similar views.

    In an index of more than some ten thousand views an even sample of them is compared with all.

    Args:
        index: With two labels or more.
        most: How many pairs at most, 1..1000.

    Raises:
        OptionError: A number of pairs out of range.
        InputError: Fewer than two labels.
    """
    if not 1 <= most <= _LARGEST_MOST:
        message = f"the number of pairs must be between 1 and {_LARGEST_MOST}, got {most}"
        raise OptionError(message)
    views = labelled_views(index)
    if len(views.names) < 2:
        message = f"the index has {len(views.names)} labels, nothing to confuse: add labels"
        raise InputError(message)
    rows = sampled_rows(views)
    nearest = _nearest_pairs(index, views, rows, most)
    items = _Sides(index, views, sorted({row for _, one, two in nearest for row in (one, two)}))
    threshold = index.threshold
    pairs = [
        Confusion(
            similarity=min(1.0, similarity),
            above=None if threshold is None else similarity >= threshold.value,
            first=items.side(one),
            second=items.side(two),
            margin=index.margin,
        )
        for similarity, one, two in nearest
    ]
    return Confusions(pairs, len(rows), len(views))


def _nearest_pairs(
    index: Index, views: LabelledViews, rows: NDArray[np.int64], most: int
) -> list[tuple[float, int, int]]:
    """Similarity and the rows of the two views of the nearest pairs of labels, the row of the first label first.

    Of each view the nearest `most` other labels are looked at, which misses none of the nearest pairs: a label that has
    more labels before it, seen from there, is in a pair that has as many pairs before it.
    """
    label_n = views.labels_n
    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    for some, block, similarity_sc in compared(index, views, rows):
        labels, starts = np.unique(label_n[block], return_index=True)
        similarity_sl = np.maximum.reduceat(similarity_sc, starts, axis=1)
        # of each view's own label nothing counts
        similarity_sl[label_n[some][:, None] == labels[None, :]] = -np.inf
        least = sorted((pair[0] for pair in best.values()), reverse=True)[most - 1] if len(best) >= most else -np.inf
        for one, place in _best_cells(similarity_sl, most, least):
            end = starts[place + 1] if place + 1 < len(starts) else similarity_sc.shape[1]
            column = int(starts[place]) + int(similarity_sc[one, starts[place] : end].argmax())
            ends = sorted((int(some[one]), block.start + column))
            pair = (int(label_n[ends[0]]), int(label_n[ends[1]]))
            similarity = float(similarity_sl[one, place])
            if similarity > best.get(pair, (-np.inf, 0, 0))[0]:
                best[pair] = (similarity, ends[0], ends[1])
        best = dict(sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0]))[:most])
    return list(best.values())


def _best_cells(similarity_sl: _Similarities, most: int, least: float) -> Sequence[tuple[int, int]]:
    """Row and column of the best `most` cells of each row that are above `least`."""
    if similarity_sl.shape[1] > most:
        cut_s1 = np.partition(similarity_sl, similarity_sl.shape[1] - most, axis=1)[:, -most][:, None]
        chosen = (similarity_sl >= cut_s1) & (similarity_sl > least)
    else:
        chosen = similarity_sl > least
    return [(int(row), int(column)) for row, column in np.argwhere(chosen & np.isfinite(similarity_sl))]


class _Sides:
    """What is known of some views, each with the nearest other view of its label."""

    def __init__(self, index: Index, views: LabelledViews, rows: list[int]) -> None:
        self._views = views
        label_n = views.labels_n
        keys = views.keys[rows]
        descriptors_sd = index.descriptors(keys)
        self._items = dict(zip(rows, index.items(keys), strict=True))
        self._own: dict[int, tuple[float, Item] | None] = {}
        self._count = {row: int(views.starts[label_n[row] + 1] - views.starts[label_n[row]]) for row in rows}
        for row, descriptor_1d in zip(rows, descriptors_sd, strict=True):
            own = views.keys[views.rows_of(int(label_n[row]))]
            others = own[own != views.keys[row]]
            if not len(others):
                self._own[row] = None
                continue
            similarity_m = index.descriptors(others) @ descriptor_1d
            nearest = int(similarity_m.argmax())
            self._own[row] = float(similarity_m[nearest]), next(index.items(others[nearest : nearest + 1]))

    def side(self, row: int) -> NearView:
        """One side of a pair."""
        own = self._own[row]
        similarity, item = (None, None) if own is None else own
        return NearView(self._items[row], similarity, item, self._count[row])
