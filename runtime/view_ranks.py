"""Where the views of a query's own label stand among all stored views: exact, a block of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.runtime.index import Index
from deepir.runtime.items import Rows
from deepir.runtime.view_blocks import LabelledViews, blocks
from deepir.score import Ranks
from deepir.threshold_table import ThresholdTable, count_pairs

_ROUNDING = 1e-6
"""The same two descriptors may give similarities that differ by this when multiplied in other company."""

_Similarities = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seen:
    """A stored view and its similarity to a query, -1..1."""

    key: int
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class ViewRanks:
    """What all stored views are to one query.

    Attributes:
        ranks: (P,) of the views of its label, from 0, rising; where another label's view is as similar, that one comes
            first. Empty for a label that the index lacks.
        right: The most similar view of its label.
        wrong: The most similar view of any other label.
    """

    ranks: Ranks
    right: Seen | None
    wrong: Seen | None


@dataclass(slots=True)
class _Query:
    """One query on its way through the blocks; own similarities fall."""

    own_rows: slice
    own_p: _Similarities
    right: Seen | None
    ahead_p: Rows
    wrong: Seen | None = None

    def meet(self, keys: NDArray[np.uint64], similarity_c: _Similarities) -> None:
        """Take a block into account; views of the own label are -infinity in it."""
        best = int(similarity_c.argmax())
        if similarity_c[best] > (-np.inf if self.wrong is None else self.wrong.similarity):
            self.wrong = Seen(int(keys[best]), float(similarity_c[best]))
        if len(self.own_p):
            # few views are as similar as the least similar own one, in a good index
            near = np.sort(similarity_c[similarity_c >= self.own_p[-1] - _ROUNDING])
            self.ahead_p += len(near) - np.searchsorted(near, self.own_p - _ROUNDING, side="left")


@dataclass(frozen=True, slots=True, eq=False)
class RankedQueries:
    """The ranks of some queries, and where asked for the table of their pairs with all views."""

    ranks: list[ViewRanks] = field(default_factory=list)
    table: ThresholdTable | None = None


def rank_views(
    index: Index, views: LabelledViews, queries_qd: Descriptors, labels: Sequence[str | None], *, table: bool = False
) -> RankedQueries:
    """Compare some queries with every stored view.

    Args:
        index: With a view or more.
        views: All of its views.
        queries_qd: The model's descriptors (Q, D), a few hundred at most.
        labels: What each shows; None, or a label that the index lacks, for something unknown.
        table: Also count pairs by threshold: of the same label, and others (method.md 4.6).

    Raises:
        ShapeError: Not descriptors of the model.
    """
    stored_qd = index.mapped(queries_qd)
    number_of = {name: number for number, name in enumerate(views.names)}
    queries = [
        _start(index, views, number_of.get(label or "", -1), stored_1d)
        for stored_1d, label in zip(stored_qd, labels, strict=True)
    ]
    no_pairs = np.empty(0, np.float32)
    counted = count_pairs(np.concatenate([no_pairs, *(query.own_p for query in queries)]), no_pairs) if table else None
    for block, descriptors_cd in blocks(index, views):
        similarity_qc = stored_qd @ descriptors_cd.T
        for query, similarity_c in zip(queries, similarity_qc, strict=True):
            begin, end = (max(0, row - block.start) for row in (query.own_rows.start, query.own_rows.stop))
            similarity_c[begin:end] = -np.inf
            query.meet(views.keys[block], similarity_c)
        if counted is not None:
            counted += count_pairs(no_pairs, similarity_qc.ravel())
    return RankedQueries([_finish(query) for query in queries], counted)


def _start(index: Index, views: LabelledViews, label: int, stored_1d: _Similarities) -> _Query:
    rows = slice(0, 0) if label < 0 else views.rows_of(label)
    similarity_p = index.descriptors(views.keys[rows]) @ stored_1d
    order = np.argsort(-similarity_p, kind="stable")
    right = Seen(int(views.keys[rows][order[0]]), float(similarity_p[order[0]])) if len(order) else None
    return _Query(rows, similarity_p[order], right, np.zeros(len(order), np.int64))


def _finish(query: _Query) -> ViewRanks:
    return ViewRanks((query.ahead_p + np.arange(len(query.ahead_p))).astype(np.intp), query.right, query.wrong)
