"""The scores of an index in facts for programs, in words for people, and its errors as rows of a sheet."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepir.runtime.index import Index
from deepir.runtime.index_score import IndexScores
from deepir.runtime.items import Item
from deepir.runtime.pictures import find_pictures
from deepir.runtime.score_query import KNOWN_OUTCOMES, UNKNOWN_OUTCOMES, Outcome, ScoredQuery
from deepir.runtime.sheet import Group, Picture
from deepir.runtime.view_ranks import Seen

_DIGITS = 4
_MOST_NAMED = 10

_MORE = 5
"""So many times the share of false accepts is worth a try where the present one leaves most queries unknown."""

_IN_WORDS: dict[Outcome, str] = {
    "match right": "match, the right label",
    "match wrong": "match, a wrong label",
    "ambiguous right": "ambiguous, the right label among them",
    "ambiguous wrong": "ambiguous, the right label not among them",
    "unknown": "unknown, although the index has it",
    "false match": "match, although the index lacks it",
    "false ambiguous": "ambiguous, although the index lacks it",
    "true unknown": "unknown, as it should be",
}


def score_facts(scores: IndexScores, index: Index, path: Path) -> dict[str, Any]:
    """What `deepir-index eval --json` prints."""
    open_set = scores.open_set
    views = _views_of(scores.errors, index)
    return {
        "path": str(path),
        "queries": {
            "known": scores.known,
            "unknown": len(scores.queries) - scores.known,
            "blank": len(scores.blank),
            "stored": scores.stored,
        },
        "lacking": scores.lacking,
        "threshold": scores.threshold,
        "margin": scores.margin,
        "mean_ap": round(scores.mean_ap, _DIGITS),
        "recall_at": {str(k): round(value, _DIGITS) for k, value in scores.recall_at.items()},
        "outcomes": {outcome.replace(" ", "_"): count for outcome, count in scores.outcomes.items()},
        "accept_at": {f"{far:g}": None if rate is None else asdict(rate) for far, rate in open_set.accept_at.items()},
        "full_precision": asdict(open_set.full_precision),
        "errors": [_error_facts(query, views) for query in scores.errors],
        **({} if scores.table is None else {"table": [list(row) for row in scores.table.rows()]}),
    }


def score_lines(scores: IndexScores) -> Iterator[str]:
    """The scores for people."""
    recall = ", ".join(f"recall@{k} {value:.3f}" for k, value in scores.recall_at.items())
    threshold = "none" if scores.threshold is None else f"{scores.threshold:.3f}"
    unknown = len(scores.queries) - scores.known
    yield f"queries  {scores.known} of labels that the index has, {unknown} of unknown things"
    yield f"views    {recall}, mAP {scores.mean_ap:.3f}"
    yield f"answers  at threshold {threshold}, margin {scores.margin:.3f}"
    for outcomes, total in ((KNOWN_OUTCOMES, scores.known), (UNKNOWN_OUTCOMES, unknown)):
        for outcome in outcomes if total else ():
            count = scores.outcomes[outcome]
            yield f"  {count:6} {count / total:7.1%}  {_IN_WORDS[outcome]}"
    for far, rate in scores.open_set.accept_at.items():
        if rate is not None:
            accepted = f"{rate.true_accepts:.3f} at threshold {rate.threshold:.3f}"
        else:
            accepted = f"needs {1 / far:.0f} unknown queries" if unknown else "needs unknown queries"
        yield f"true accepts at {far:g} false accepts: {accepted}"
    full = scores.open_set.full_precision
    where = "" if full.threshold is None else f" at threshold {full.threshold:.3f}"
    yield f"recall at 100 % precision: {full.recall:.3f}{where}"


def table_lines(scores: IndexScores) -> Iterator[str]:
    """The table of pairs (method.md 4.6); nothing where it was not asked for."""
    if scores.table is not None:
        yield "threshold  same label  unrelated"
        for threshold, same, unrelated in scores.table.rows():
            yield f"{threshold:9.2f} {same:11} {unrelated:10}"


def score_remarks(scores: IndexScores) -> Iterator[str]:
    """Sentences on what was asked, for whoever would misread the scores."""
    lacking = scores.lacking
    if lacking:
        names = ", ".join(list(lacking)[:_MOST_NAMED]) + (", ..." if len(lacking) > _MOST_NAMED else "")
        yield f"{sum(lacking.values())} queries of labels that the index lacks count as unknown things: {names}"
    if scores.blank:
        yield f"{len(scores.blank)} blank pictures are unknown to any index, the first is {scores.blank[0]}"
    if _lets_little_through(scores):
        yield (
            f"warning: the threshold {scores.threshold:.3f} lets little through: {scores.outcomes['unknown']} of "
            f"{scores.known} queries of labels that the index has are unknown"
        )
    if scores.stored:
        yield (
            f"warning: {scores.stored} queries are the very pictures that the index was made of, so the scores are "
            "better than they will be"
        )


def next_command(scores: IndexScores, index: Index, path: Path) -> str:
    """What to do after these scores."""
    if _lets_little_through(scores):
        threshold = index.threshold
        # where pictures of unknown things made this threshold, more of them must be let through
        far = f" --far {min(_MORE * threshold.far, 0.5):g}" if threshold and threshold.basis == "unknown" else ""
        return f"deepir-index calibrate {path} --unknown DIR{far}"
    return f"deepir-index {'confusions' if scores.errors else 'info'} {path}"


def _lets_little_through(scores: IndexScores) -> bool:
    return scores.threshold is not None and scores.outcomes["unknown"] > scores.known / 2


def error_groups(scores: IndexScores, index: Index, path: Path, most: int) -> list[Group]:
    """The worst errors: the query, the most similar wrong view, the most similar right one."""
    shown = scores.errors[:most]
    views = _views_of(shown, index)
    return [_error_group(query, views, path) for query in shown]


def _views_of(queries: list[ScoredQuery], index: Index) -> dict[int, Item]:
    seen = {one.key for query in queries for one in (query.ranks.wrong, query.ranks.right) if one is not None}
    return {item.key: item for item in index.items(sorted(seen))}


def _error_facts(query: ScoredQuery, views: Mapping[int, Item]) -> dict[str, Any]:
    answer = query.recognition
    return {
        "query": str(query.path),
        "label": query.label,
        "outcome": query.outcome.replace(" ", "_"),
        "answer": answer.label,
        "candidates": list(answer.candidates),
        "similarity": round(answer.similarity, _DIGITS),
        "wrong": _seen_facts(query.ranks.wrong, views),
        "right": _seen_facts(query.ranks.right, views),
    }


def _seen_facts(seen: Seen | None, views: Mapping[int, Item]) -> dict[str, Any] | None:
    if seen is None:
        return None
    item = views[seen.key]
    return {"label": item.label, "view": item.view, "key": seen.key, "similarity": round(seen.similarity, _DIGITS)}


def _error_group(query: ScoredQuery, views: Mapping[int, Item], path: Path) -> Group:
    pictures = [Picture(path=query.path, caption=f"query: {query.path.name}")]
    for seen, good in ((query.ranks.wrong, False), (query.ranks.right, True)):
        if seen is not None:
            item = views[seen.key]
            picture = next(iter(find_pictures(item, path)), None)
            caption = f"{item.label}: {item.view}"
            pictures.append(Picture(path=picture, caption=caption, similarity=seen.similarity, good=good))
    answer = query.recognition
    shown = query.label or "something unknown"
    return Group(
        title=f"{shown} taken for {' or '.join(answer.candidates)}" if answer.candidates else f"{shown} not recognised",
        note=f"{_IN_WORDS[query.outcome]}; best similarity {answer.similarity:.3f}",
        pictures=pictures,
    )
