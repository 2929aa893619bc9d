"""The stored views in the order of their labels, a block at a time, to be compared one with the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.runtime.index import Index
from deepir.runtime.items import Keys, Rows

_MOST_CELLS = 1 << 30
"""Similarities between stored views that are computed: seconds; above it a sample of the views has to do."""

_ROWS = 4096
_SAMPLED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class LabelledViews:
    """The views of an index, those of a label together.

    Attributes:
        names: The labels, sorted.
        keys: (N,)
        starts: (L + 1,) Where the views of each label begin in `keys`, and where the last ends.
    """

    names: list[str]
    keys: Keys
    starts: Rows

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def labels_n(self) -> Rows:
        """(N,) The number in `names` of each view's label."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.starts))

    def rows_of(self, label: int) -> slice:
        """Where the views of a label stand."""
        return slice(int(self.starts[label]), int(self.starts[label + 1]))


def labelled_views(index: Index) -> LabelledViews:
    """The views of an index, as they are now."""
    by_label = index.keys_by_label()
    counts = [len(keys) for keys in by_label.values()]
    keys = np.concatenate([np.empty(0, np.uint64), *by_label.values()])
    return LabelledViews(list(by_label), keys, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


def blocks(index: Index, views: LabelledViews) -> Iterator[tuple[slice, Descriptors]]:
    """All views, a few thousand at a time: their rows, and their descriptors (C, D)."""
    for start in range(0, len(views), _ROWS):
        rows = slice(start, min(start + _ROWS, len(views)))
        yield rows, index.descriptors(views.keys[rows])


def sampled_rows(views: LabelledViews) -> Rows:
    """The views to compare with all others: all of them in an index of some ten thousand, else evenly spread ones."""
    most = max(1, _MOST_CELLS // max(1, len(views)))
    return np.unique(np.linspace(0, len(views) - 1, min(len(views), most)).round().astype(np.int64))


def compared(index: Index, views: LabelledViews, rows: Rows) -> Iterator[tuple[Rows, slice, NDArray[np.float32]]]:
    """The similarities of these views with all views: some of the rows, a block, and the similarities (S, C).

    Of the same rows all blocks follow each other; the similarity of a view to itself is -infinity.
    """
    for start in range(0, len(rows), _SAMPLED_AT_ONCE):
        some = rows[start : start + _SAMPLED_AT_ONCE]
        descriptors_sd = index.descriptors(views.keys[some])
        for block, descriptors_cd in blocks(index, views):
            similarity_sc = descriptors_sd @ descriptors_cd.T
            inside = np.flatnonzero((some >= block.start) & (some < block.stop))
            similarity_sc[inside, some[inside] - block.start] = -np.inf
            yield some, block, similarity_sc
