"""The heads of rankings, for people and programs: which pictures stand first, and which of them are right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.datasets import Query, RetrievalSet
from deepir.descriptors import Descriptors, similarities
from deepir.export.eval_distractors import DistractorSet, nearest_distractors
from deepir.score import Scores

RANKED = 10
"""Pictures of each ranking that a result lists."""

_AT_ONCE = 64
"""Queries whose similarities with the whole database are held at once."""

_DIGITS = 5
_SIMILARITY_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Hit:
    similarity: float
    image: str
    positive: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "similarity": round(self.similarity, _SIMILARITY_DIGITS),
            "positive": self.positive,
        }


def list_rankings(
    dataset: RetrievalSet,
    scores: Scores,
    queries_qd: Descriptors,
    database_nd: Descriptors,
    distractors: DistractorSet | None = None,
    *,
    crop: bool = True,
) -> list[dict[str, Any]]:
    """The worst queries first, each with its first RANKED pictures and the junk that would have stood among them.

    Args:
        dataset: Queries and database in the order of the descriptors.
        scores: Their average precisions.
        queries_qd: (Q, D).
        database_nd: (N, D).
        distractors: Ranked with the database, all of them wrong.
        crop: Queries were cropped to their box.
    """
    rows = {path: row for row, path in enumerate(dataset.database)}
    strangers = _strangers(queries_qd, distractors)
    worst = np.argsort(scores.average_precisions, kind="stable").tolist()
    rankings = []
    for start in range(0, len(worst), _AT_ONCE):
        numbers = worst[start : start + _AT_ONCE]
        for number, similarity_n in zip(numbers, similarities(queries_qd[numbers], database_nd), strict=True):
            query = dataset.queries[number]
            facts = {
                "key": query.key,
                "query": str(query.image),
                "box": query.box if crop else None,
                "average_precision": round(scores.average_precisions[number], _DIGITS),
                "positives": len(query.positives),
            }
            head = _head(query, dataset.database, rows, similarity_n, strangers[number] if strangers else [])
            rankings.append({**facts, **head})
    return rankings


def _head(
    query: Query,
    paths: Sequence[Path],
    rows: Mapping[Path, int],
    similarity_n: NDArray[np.float32],
    strangers: list[_Hit],
) -> dict[str, Any]:
    junk = [(path, rows[path]) for path in query.junk if path in rows]
    counted_n = similarity_n.copy()
    counted_n[[row for _, row in junk]] = -np.inf
    first = [row for row in np.argsort(-counted_n, kind="stable")[:RANKED] if counted_n[row] > -np.inf]
    hits = [_Hit(float(similarity_n[row]), str(paths[row]), paths[row] in query.positives) for row in first]
    # ties keep the database before the distractors, as in the scores
    ranked = sorted([*hits, *strangers], key=lambda hit: -hit.similarity)[:RANKED]
    ignored = [
        _Hit(float(similarity_n[row]), str(path))
        for path, row in junk
        if path != query.image and ranked and similarity_n[row] >= ranked[-1].similarity
    ]
    ignored.sort(key=lambda hit: (-hit.similarity, hit.image))
    return {"ranked": [hit.to_json() for hit in ranked], "junk": [hit.to_json() for hit in ignored[:RANKED]]}


def _strangers(queries_qd: Descriptors, distractors: DistractorSet | None) -> list[list[_Hit]]:
    if distractors is None:
        return []
    rows_qk, similarity_qk = nearest_distractors(queries_qd, distractors, RANKED)
    return [
        [_Hit(float(value), distractors.name(row)) for row, value in zip(rows_k, similarity_k, strict=True)]
        for rows_k, similarity_k in zip(rows_qk.tolist(), similarity_qk, strict=True)
    ]
