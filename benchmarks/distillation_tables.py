"""Markdown tables of what distillation.py found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Result = dict[str, Any]
"""A line of results.jsonl: what score_model gives, with the names, settings and seconds of its run."""

BASELINE = "baseline"
GOAL_FEWER = 20.0
"""Of the distilled small student: at least so many times fewer multiply-adds than the teacher at three sizes."""
FLOOR = 0.97
"""Of the teacher's mean mAP at three sizes that the small student must keep."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A teacher's trunk at one and at three sizes: mean mAP 0..1, and multiply-adds at three."""

    single: float
    triple: float
    multiply_adds: int

    @classmethod
    def of(cls, teacher: Result) -> "Gap":
        return cls(teacher["x1"]["mean_ap"], teacher["x3"]["mean_ap"], teacher["x3"]["multiply_adds"])

    def closed(self, mean_ap: float) -> float:
        """The share of the gap that a student closes."""
        return (mean_ap - self.single) / (self.triple - self.single)


def main_table(references: Mapping[str, Result], results: Sequence[Result]) -> str:
    """For each teacher: itself, students undistilled and distilled, each at one size and at three.

    Args:
        references: By trunk, as it comes.
        results: Of students; several of one teacher and student differ by seed.
    """
    columns = ["model", "sizes", "G multiply-adds", *_sets(references), "mean", "gap closed", "retention", "cheaper"]
    rows = []
    for teacher in dict.fromkeys(result["teacher"] for result in results):
        gap = Gap.of(references[teacher])
        subjects = {f"{teacher} (teacher)": [references[teacher]]}
        subjects[f"{teacher}, whitened anew, not distilled"] = [references[f"{teacher}, whitened anew"]]
        for student in dict.fromkeys(result["student"] for result in results if result["teacher"] == teacher):
            found = [one for one in results if (one["teacher"], one["student"]) == (teacher, student)]
            if student != teacher:
                subjects[f"{student}, undistilled"] = [references[student]]
                subjects[f"{student}, whitened anew, not distilled"] = [references[f"{student}, whitened anew"]]
            subjects[f"{student}, distilled from {teacher}"] = found
        for words, found in subjects.items():
            for sizes in ("x3", "x1"):
                scored = [one for one in found if sizes in one]
                rows += [_row(words, sizes, scored, gap)] if scored else []
    title = (
        "mAP in percent; of distilled students at one size the mean (least to greatest) of the seeds "
        f"{_seeds(results)}, at three sizes the first seed."
    )
    return f"{title}\n\n{markdown(columns, rows, words=2)}"


def goal_lines(references: Mapping[str, Result], results: Sequence[Result]) -> list[str]:
    """For each teacher and student whether the goals are met at one size, and by how much not."""
    lines = []
    for teacher, student in dict.fromkeys((result["teacher"], result["student"]) for result in results):
        gap = Gap.of(references[teacher])
        found = [one["x1"] for one in results if (one["teacher"], one["student"]) == (teacher, student)]
        mean = float(np.mean([one["mean_ap"] for one in found]))
        if student == teacher:
            goal = (
                f"closes {gap.closed(mean):.0%} of the gap, goal 100 %: {_verdict(gap.closed(mean) - 1, 'of the gap')}"
            )
        else:
            fewer = gap.multiply_adds / found[0]["multiply_adds"]
            kept = mean / gap.triple
            goal = (
                f"keeps {kept:.1%} of the teacher's mean mAP at three sizes, goal 100 %: {_verdict(kept - 1, '')}; "
                f"floor {FLOOR:.0%}: {_verdict(kept - FLOOR, '')}; {fewer:.1f} times fewer multiply-adds, goal "
                f"{GOAL_FEWER:.0f}: {'met' if fewer >= GOAL_FEWER else '**missed**'}"
            )
        lines.append(f"- {student} from {teacher}, one size: {goal}")
    return lines


def ablation_table(references: Mapping[str, Result], results: Sequence[Result]) -> str:
    """A row for each recipe: mAP at one size, the gap that each seed closed, and the points that the change brought.

    Args:
        references: By trunk, as it comes.
        results: With the words of their row as `row`, those of BASELINE among them; of one teacher and student.
    """
    teacher, student = results[0]["teacher"], results[0]["student"]
    gap = Gap.of(references[teacher])
    groups = {row: [one for one in results if one["row"] == row] for row in dict.fromkeys(r["row"] for r in results)}
    # the same seeds on both sides, so that what a seed does to both cancels
    at_baseline = {one["seed"]: one["x1"]["mean_ap"] for one in groups.get(BASELINE, [])}
    rows = []
    for row, found in groups.items():
        means = [one["x1"]["mean_ap"] for one in found]
        changes = [
            100 * (one["x1"]["mean_ap"] - at_baseline[one["seed"]]) for one in found if one["seed"] in at_baseline
        ]
        rows.append(
            [
                row,
                *(_percent([one["x1"]["sets"][name]["mean_ap"] for one in found]) for name in _sets(references)),
                _percent(means),
                " / ".join(f"{gap.closed(mean):.0%}" for mean in means),
                _change(changes) if row != BASELINE else "",
                _percent([one["int8"]["mean_ap"] for one in found if "int8" in one]),
                f"{np.mean([one['seconds'] for one in found]) / 60:.1f}",
            ]
        )
    columns = ["recipe", *_sets(references), "mean", "gap closed, by seed", "change", "mean of INT8", "minutes"]
    title = (
        f"{student} at one size, from {teacher} ({100 * gap.single:.1f} at one size, {100 * gap.triple:.1f} at three); "
        f"mAP in percent, mean (least to greatest) of the seeds {_seeds(results)}; "
        f"change: points of the mean against the baseline of the same seed."
    )
    return f"{title}\n\n{markdown(columns, rows)}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table; all columns but the first `words` to the right."""
    ruler = ["---"] * words + ["---:"] * (len(columns) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ruler, *rows])


def _row(words: str, sizes: str, found: Sequence[Result], gap: Gap) -> list[str]:
    scores = [one[sizes] for one in found]
    means = [one["mean_ap"] for one in scores]
    cost = scores[0]["multiply_adds"]
    return [
        words,
        {"x1": "one", "x3": "three"}[sizes],
        f"{cost / 1e9:.2f}",
        *(_percent([one["sets"][name]["mean_ap"] for one in scores]) for name in scores[0]["sets"]),
        _percent(means),
        _shares([gap.closed(mean) for mean in means], 0),
        _shares([mean / gap.triple for mean in means], 1),
        f"{gap.multiply_adds / cost:.1f}x",
    ]


def _sets(references: Mapping[str, Result]) -> list[str]:
    return list(next(iter(references.values()))["x1"]["sets"])


def _seeds(results: Sequence[Result]) -> str:
    return ", ".join(map(str, sorted({result["seed"] for result in results})))


def _percent(values: Sequence[float]) -> str:
    return _spread([100 * value for value in values], ".1f")


def _shares(values: Sequence[float], digits: int) -> str:
    return _spread(values, f".{digits}%")


def _change(changes: Sequence[float]) -> str:
    return _spread(changes, "+.1f")


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def _verdict(margin: float, words: str) -> str:
    return "met" if margin >= 0 else f"**missed** by {-margin:.1%} {words}".rstrip()
