"""How well an index answers: labelled pictures and unknown things, each judged as deepir-run would."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.open_set import Answers, OpenSetScores, score_open_set
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.progress import Advance
from deepir.runtime.query_pictures import AT_ONCE, describe_together
from deepir.runtime.ranked_folders import RankedFolders
from deepir.runtime.recogniser import Judgement
from deepir.runtime.score_query import KNOWN_OUTCOMES, UNKNOWN_OUTCOMES, WORST_FIRST, Outcome, Questions, ScoredQuery
from deepir.runtime.view_blocks import labelled_views
from deepir.runtime.view_ranks import ViewRanks, rank_views
from deepir.score import RECALL_RANKS
from deepir.threshold_table import ThresholdTable

_NOWHERE = ViewRanks(np.empty(0, np.intp), None, None)
"""Of a blank picture."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class IndexScores:
    """What the queries came to.

    Attributes:
        queries: All, in order, those of unknown things last.
        threshold, margin: By which they were judged; without a threshold all is known.
        mean_ap: Mean average precision over the views, of the known queries.
        recall_at: Share of the known queries with a view of their label among the first k, for each k.
        open_set: True accepts at false accepts, and recall at 100 % precision, of the best label.
        table: Pairs of a query and a view at or above each threshold; None where not asked for.
        blank: Pictures without any direction.
        stored: Known queries that are the very pictures from which views were made.
    """

    queries: tuple[ScoredQuery, ...]
    threshold: float | None
    margin: float
    mean_ap: float
    recall_at: dict[int, float]
    open_set: OpenSetScores
    table: ThresholdTable | None
    blank: tuple[Path, ...]
    stored: int

    @property
    def known(self) -> int:
        """Queries whose label the index has."""
        return sum(query.known for query in self.queries)

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How often each outcome came, all of them."""
        counts = Counter(query.outcome for query in self.queries)
        return {outcome: counts[outcome] for outcome in (*KNOWN_OUTCOMES, *UNKNOWN_OUTCOMES)}

    @property
    def lacking(self) -> dict[str, int]:
        """Labels of queries that the index lacks, with their number of queries."""
        return dict(Counter(query.label for query in self.queries if query.label is not None and not query.known))

    @property
    def errors(self) -> list[ScoredQuery]:
        """The worst first: wrong answers, then what was not recognised; of one kind the largest fault."""
        wrong = [query for query in self.queries if query.outcome in WORST_FIRST]
        return sorted(wrong, key=lambda query: (WORST_FIRST.index(query.outcome), -query.fault))


def score_index(
    index: Index,
    extractor: Extractor,
    questions: Questions,
    advance: Advance = lambda _done: None,
    *,
    table: bool = False,
    folders: RankedFolders | None = None,
) -> IndexScores:
    """Ask an index about pictures whose answer is known; the descriptors of a few hundred are held at once.

    Args:
        index: Of the extractor's model.
        extractor: Describes queries.
        questions: The pictures.
        advance: Told how many pictures were done.
        table: Also count pairs by threshold.
        folders: Takes a folder of pictures for each query.

    Raises:
        InputError: None of the queries has a label of the index, or a picture cannot be read.
        IndexModelError: The index was made by another model.
    """
    index.check_model(extractor.card)
    asked = questions.labelled
    there = index.labels
    if not any(label in there for _, label in asked):
        message = (
            f"none of the {len(questions.queries)} queries has a label of the index, the first is {asked[0][1]!r}: the "
            f"index has {', '.join(list(there)[:10])}{' ...' if len(there) > 10 else ''}"
        )
        raise InputError(message)
    scorer = _Scorer(index, extractor, table=table, folders=folders)
    for start in range(0, len(asked), AT_ONCE):
        scorer.ask(asked[start : start + AT_ONCE], advance)
    return scorer.scores()


class _Scorer:
    """Asks an index and remembers the answers."""

    def __init__(self, index: Index, extractor: Extractor, *, table: bool, folders: RankedFolders | None) -> None:
        self._index = index
        self._extractor = extractor
        self._judgement = Judgement()
        self._views = labelled_views(index)
        self._names = frozenset(self._views.names)
        self._with_table = table
        self._folders = folders
        self._table: ThresholdTable | None = None
        self._queries: list[ScoredQuery] = []
        self._blank: list[Path] = []

    def ask(self, asked: Sequence[tuple[Path, str | None]], advance: Advance) -> None:
        """Describe, search and rank some pictures."""
        described = describe_together(self._extractor, [path for path, _ in asked], advance)
        blank = set(described.blank)
        self._blank += described.blank
        labels = [label for path, label in asked if path not in blank]
        ranked = rank_views(self._index, self._views, described.descriptors_nd, labels, table=self._with_table)
        if ranked.table is not None:
            self._table = ranked.table if self._table is None else self._table + ranked.table
        rows = iter(range(len(labels)))
        for path, label in asked:
            if path in blank:
                self._take(path, label, None, _NOWHERE)
                continue
            row = next(rows)
            self._take(path, label, described.descriptors_nd[row], ranked.ranks[row])

    def _take(self, path: Path, label: str | None, query_1d: Descriptors | None, ranks: ViewRanks) -> None:
        hits = [] if query_1d is None else self._judgement.search(query_1d, self._index)
        answer = self._judgement.judge(hits, self._index, {})
        self._queries.append(ScoredQuery(path, label, label in self._names, answer, ranks))
        if self._folders is not None and query_1d is not None:
            self._folders.write(path, label, query_1d)

    def scores(self) -> IndexScores:
        """Of all that was asked."""
        known = [query for query in self._queries if query.known]
        answers = Answers(
            np.array([query.recognition.similarity for query in known]),
            np.array(
                [query.recognition.hit is not None and query.recognition.hit.label == query.label for query in known]
            ),
            np.array([query.recognition.similarity for query in self._queries if not query.known], np.float64),
        )
        threshold = self._judgement.threshold_of(self._index)
        return IndexScores(
            queries=tuple(self._queries),
            threshold=threshold,
            margin=self._judgement.margin_of(self._index),
            mean_ap=float(np.mean([query.average_precision for query in known])),
            recall_at={k: float(np.mean([(query.ranks.ranks < k).any() for query in known])) for k in RECALL_RANKS},
            open_set=score_open_set(answers),
            table=self._table,
            blank=tuple(self._blank),
            stored=_count_stored(self._index, known),
        )


def _count_stored(index: Index, known: Sequence[ScoredQuery]) -> int:
    if index.path is None:
        return 0
    folder = index.path.resolve().parent
    keys_of = index.keys_by_label()
    labels = {query.label for query in known if query.label is not None}
    sources = {str(folder / item.source) for label in labels for item in index.items(keys_of[label]) if item.source}
    return sum(str(query.path.resolve()) in sources for query in known)
