"""Markdown tables of what int8.py found."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Result = dict[str, Any]
"""Of one trunk, pooling, form and program: what `int8_scores.compare` gives, with their names."""

GOAL = 0.003
"""Of mean average precision that INT8 may lose."""


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table; all columns but the first `words` to the right."""
    ruler = ["---"] * words + ["---:"] * (len(columns) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ruler, *rows])


def quality_table(results: Sequence[Result], measure: str) -> str:
    """FP32's score and, for each form, the points it gains or loses: a row for each trunk and pooling.

    Args:
        results: Of all forms, those of one trunk and pooling together, in the order of the cells.
        measure: `mean_ap` or `recall_at_1`.
    """
    names = max((list(result["sets"]) for result in results), key=len)
    forms = list(dict.fromkeys(_form(result) for result in results))
    rows = []
    for group in _groups(results, "trunk", "pooling"):
        # what is scored on most sets knows what FP32 scores on them
        found, widest = {_form(one): one for one in group}, max(group, key=lambda one: len(one["sets"]))
        cells = [
            " / ".join([_percent(widest["sets"][name]["fp32"][measure]), *_gains(found, forms, name, measure)])
            for name in names
        ]
        means = [_mean_gain(found.get(form), names, measure) for form in forms]
        mean = " / ".join([_percent(_mean_fp32(widest, measure)), *means])
        rows.append([group[0]["trunk"], group[0]["pooling"], *cells, mean])
    title = f"A cell: {_title(measure)} of FP32 in percent / points that change with {' / '.join(forms)}."
    return f"{title}\n\n{markdown(['trunk', 'pooling', *names, 'mean'], rows, words=2)}"


def closeness_table(results: Sequence[Result]) -> str:
    """Cosine to FP32 and agreement of nearest neighbours over all scored pictures: a row for each result."""
    rows = [
        [
            result["trunk"],
            result["pooling"],
            _form(result),
            f"{result['all']['cosine_min']:.4f}",
            f"{result['all']['cosine_mean']:.4f}",
            f"{result['all']['agreement']:.1%}",
            "passed" if result["all"]["passed"] else "failed",
        ]
        for result in results
    ]
    columns = ["trunk", "pooling", "form", "cosine min", "cosine mean", "agreement", "gate's limits"]
    return markdown(columns, rows, words=3)


def forms_table(results: Sequence[Result]) -> str:
    """A row for each form: points of mAP that change on each set, the mean of them, and closeness to FP32."""
    names = list(results[0]["sets"])
    rows = [
        [
            result["trunk"],
            _form(result),
            *(_gain(result, name, "mean_ap") for name in names),
            _mean_gain(result, names, "mean_ap"),
            f"{result['all']['cosine_min']:.4f} / {result['all']['cosine_mean']:.4f}",
            f"{result['all']['agreement']:.1%}",
        ]
        for result in results
    ]
    return markdown(["trunk", "form", *names, "mean", "cosine min / mean", "agreement"], rows, words=2)


def goal_lines(results: Sequence[Result]) -> list[str]:
    """For each result whether every set stays within GOAL, and by how much, with its standard error, where not."""
    lines = []
    for result in results:
        gains = {name: one["found"]["mean_ap"] - one["fp32"]["mean_ap"] for name, one in result["sets"].items()}
        missed = [
            f"{name} {100 * gain:+.2f} (standard error {100 * result['sets'][name]['standard_error']:.2f})"
            for name, gain in gains.items()
            if gain < -GOAL
        ]
        lines.append(
            f"- {result['trunk']}, {result['pooling']}, {_form(result)}: a loss of at most {100 * GOAL:.1f} points is "
            + (f"**missed** on {', '.join(missed)}" if missed else "met on every set")
            + f"; the largest change either way is {100 * max(map(abs, gains.values())):.2f}"
        )
    return lines


def _form(result: Result) -> str:
    return f"{result['form']} ({result['program']})"


def _gains(found: Mapping[str, Result], forms: Sequence[str], name: str, measure: str) -> list[str]:
    return [_gain(found.get(form), name, measure) for form in forms]


def _groups(results: Sequence[Result], *keys: str) -> list[list[Result]]:
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result[key] for key in keys), []).append(result)
    return list(groups.values())


def _title(measure: str) -> str:
    return {"mean_ap": "mAP", "recall_at_1": "recall@1"}[measure]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _gain(result: Result | None, name: str, measure: str) -> str:
    if result is None or name not in result["sets"]:
        return "-"
    one = result["sets"][name]
    return f"{100 * (one['found'][measure] - one['fp32'][measure]):+.1f}"


def _mean_fp32(result: Result, measure: str) -> float:
    return float(np.mean([one["fp32"][measure] for one in result["sets"].values()]))


def _mean_gain(result: Result | None, names: Sequence[str], measure: str) -> str:
    if result is None or set(names) != set(result["sets"]):
        return "-"
    gains = [one["found"][measure] - one["fp32"][measure] for one in result["sets"].values()]
    return f"{100 * float(np.mean(gains)):+.2f}"
