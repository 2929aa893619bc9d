"""Rankings of a retrieval set: how descriptors are expanded, searched and scored, and what stands at the top."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepir.datasets import Query, RetrievalSet
from deepir.descriptors import Descriptors
from deepir.errors import OptionError
from deepir.expansion import Expansion, expand
from deepir.export.descriptor_files import Descriptor
from deepir.export.eval_distractors import DistractorSet, nearest_distractors, take_distractors
from deepir.export.eval_rankings import list_rankings
from deepir.export.eval_stamp import made_now
from deepir.export.subject import View
from deepir.score import AP_CONVENTIONS, score

_DIGITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRules:
    """How rankings are made and scored; checked when it is made.

    Attributes:
        crop: Queries with a box are cropped to it.
        query_expansion: Of each query by its nearest database descriptors.
        database_expansion: Of the database by itself, before the search (method.md 2.4).
        convention: Which average precision, one of AP_CONVENTIONS.
        distractors: Descriptors or pictures that answer no query.
    """

    crop: bool = True
    query_expansion: Expansion | None = None
    database_expansion: Expansion | None = None
    convention: str = AP_CONVENTIONS[0]
    distractors: Path | None = None

    def __post_init__(self) -> None:
        if self.convention not in AP_CONVENTIONS:
            message = f"--ap is one of {', '.join(AP_CONVENTIONS)}, got {self.convention!r}"
            raise OptionError(message)
        if self.database_expansion is not None and self.distractors is not None:
            message = "--dbe cannot be used with --distractors: every distractor would have to be expanded too"
            raise OptionError(message)

    def check(self, dataset: RetrievalSet) -> None:
        """Refuse, before anything is described, an expansion by more pictures than there are.

        Raises:
            OptionError: Says how many there are.
        """
        others = len(dataset.database) - 1
        for option, expansion in (("--qe", self.query_expansion), ("--dbe", self.database_expansion)):
            if expansion is not None and expansion.k > others:
                message = f"{option} with k {expansion.k}: a picture of {dataset.name} has only {others} others"
                raise OptionError(message)

    def view(self, query: Query) -> View:
        """What is described of a query."""
        return View(query.image, query.box if self.crop else None)

    def facts(self, sets: list[RetrievalSet], distractors: DistractorSet | None) -> dict[str, Any]:
        """The part of the stamp that says how and on what is scored."""
        return {
            "crop": self.crop,
            "query_expansion": _words(self.query_expansion),
            "database_expansion": _words(self.database_expansion),
            "average_precision": self.convention,
            "distractors": None
            if distractors is None
            else {"source": str(distractors.source), "count": distractors.count},
            "sets": {
                one.name: {
                    "protocol": one.protocol,
                    "queries": len(one.queries),
                    "boxes": sum(query.box is not None for query in one.queries),
                    "database": len(one.database),
                    "left_out": one.left_out,
                }
                for one in sets
            },
            **made_now(),
        }


def score_set(
    dataset: RetrievalSet,
    descriptors: Mapping[View, Descriptor],
    rules: ScoringRules,
    distractors: DistractorSet | None = None,
) -> dict[str, Any]:
    """What a set scored: the entry of a set in the result of `deepir.export.evaluate.evaluate`.

    Args:
        dataset: Queries, positives, junk.
        descriptors: Of every picture of the database, and of every query as `rules.view` says.
        rules: How.
        distractors: Further pictures that are wrong for every query.
    """
    queries_qd = np.stack([descriptors[rules.view(query)] for query in dataset.queries])
    database_nd = np.stack([descriptors[View(path)] for path in dataset.database])
    queries_qd, database_nd = _expanded(queries_qd, database_nd, rules, distractors)
    chunks = () if distractors is None else distractors.chunks
    scores = score(dataset, queries_qd, database_nd, convention=rules.convention, distractors=chunks)
    rankings = list_rankings(dataset, scores, queries_qd, database_nd, distractors, crop=rules.crop)
    return {
        "queries": len(queries_qd),
        "database": len(database_nd),
        "distractors": 0 if distractors is None else distractors.count,
        "mean_ap": round(scores.mean_ap, _DIGITS),
        "recall_at": {str(k): round(value, _DIGITS) for k, value in scores.recall_at.items()},
        "precision_at": {str(k): round(value, _DIGITS) for k, value in scores.precision_at.items()},
        "r_precision": round(scores.r_precision, _DIGITS),
        "average_precisions": [round(value, _DIGITS) for value in scores.average_precisions],
        "rankings": rankings,
    }


def _expanded(
    queries_qd: Descriptors, database_nd: Descriptors, rules: ScoringRules, distractors: DistractorSet | None
) -> tuple[Descriptors, Descriptors]:
    """Database first, then queries; distractors are neighbours of a query as any other picture (method.md 2.4)."""
    if distractors is None or rules.query_expansion is None:
        return expand(queries_qd, database_nd, queries=rules.query_expansion, database=rules.database_expansion)
    # the database is not expanded itself: ScoringRules refuses that beside distractors
    rows, _ = nearest_distractors(queries_qd, distractors, rules.query_expansion.k)
    neighbours_nd = np.concatenate([database_nd, take_distractors(distractors, np.unique(rows))])
    return expand(queries_qd, neighbours_nd, queries=rules.query_expansion)[0], database_nd


def _words(expansion: Expansion | None) -> str:
    return "none" if expansion is None else f"{expansion.form}, {expansion}"
