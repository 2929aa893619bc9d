"""Summary of the report: the result in one sentence and in a table, and what to keep in mind about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from report_chance import difference_interval
from report_charts import bar_chart
from report_facts import ReportFacts
from report_html import Html, section, table, tag
from table import COLUMNS, SET_NAME, ModelRow, gap_closed
from walk_score import BAD, GOOD, Outcome, WalkScore

SHOWN = "student_int8"  # the model whose rankings are shown: the one a device would run
SHOWN_NAME = "INT8 student"
BAR_COLOURS = {"teacher_x3": "f-teacher", "teacher_x1": "f-teacher", "student_start": "f-pale"}


def headline(rows: Sequence[ModelRow], result: dict[str, Any]) -> str:
    """Return the result in one sentence."""
    by_key = {row.key: row for row in rows}
    shown, teacher = by_key[SHOWN], by_key["teacher_x3"]
    return (
        f"For {shown.recall_at_1:.1%} of {result['queries']} shop photographs, "
        f"the {SHOWN_NAME} finds the right product first "
        f"among {result['database']} pictures, in {shown.milliseconds:.1f} ms and {shown.bytes / 1e6:.1f} MB; "
        f"the teacher it learned from does so for {teacher.recall_at_1:.1%}, in {teacher.milliseconds:.1f} ms and "
        f"{teacher.bytes / 1e6:.1f} MB."
    )


def show_tiles(rows: Sequence[ModelRow], walk: WalkScore) -> Html:
    """Return the numbers to remember."""
    by_key = {row.key: row for row in rows}
    shown, teacher = by_key[SHOWN], by_key["teacher_x3"]
    closed = gap_closed(rows, SHOWN).closed
    right, scored = walk.count(*GOOD), walk.count(*GOOD, *BAD, Outcome.MISSED)
    tiles = [
        (f"{shown.mean_ap:.3f}", f"mAP of the {SHOWN_NAME}; teacher {teacher.mean_ap:.3f}"),
        ("no gap" if closed is None else f"{closed:.0%}", "of the teacher's gain from three resolutions kept"),
        (f"{teacher.milliseconds / shown.milliseconds:.1f} times", "as fast as the teacher, on this machine"),
        (f"{shown.bytes / teacher.bytes:.0%}", "of the teacher's size on disk"),
        (f"{right / max(scored, 1):.0%}", f"of {scored} scored video frames right"),
    ]
    return tag("div", *(tag("div", tag("b", big), tag("span", small), class_="tile") for big, small in tiles),
               class_="tiles")  # fmt: skip


def show_table(rows: Sequence[ModelRow]) -> Html:
    """Return the section with the table of the models."""
    marked = [row.key for row in rows].index(SHOWN)
    return section(
        "The five models",
        table(COLUMNS, [row.cells for row in rows], words=4, marked=marked),
        tag("ul", *(tag("li", gap_closed(rows, key).line() + ".") for key in ("student", "student_int8"))),
        tag(
            "div",
            _show_bars("mAP: higher is better", [(row, row.mean_ap, f"{row.mean_ap:.3f}") for row in rows]),
            _show_bars(
                "Milliseconds per image: lower is better",
                [(row, row.milliseconds, f"{row.milliseconds:.1f}") for row in rows],
            ),
            class_="charts",
        ),
    )


def show_notes(rows: Sequence[ModelRow], scores: Mapping[str, dict[str, Any]], facts: ReportFacts) -> Html:
    """Return the section on what the numbers do not say."""
    runners = "; ".join(f"{row.name}: {row.runner}" for row in rows)
    kept = {key: scores[key]["sets"][SET_NAME]["rankings"] for key in (SHOWN, "teacher_x1", "teacher_x3")}
    lead, gain = (difference_interval(kept[key], kept["teacher_x1"]) for key in (SHOWN, "teacher_x3"))
    seed = "" if facts.seed is None else f" (seed {facts.seed})"
    notes = [
        f"The shop is synthetic{seed}: drawn packages, drawn clutter. It shows that the parts work together and what "
        "each step changes; it says nothing about the accuracy in a real shop.",
        f"Had other products been drawn, the lead of the {SHOWN_NAME} over the teacher at one resolution would lie "
        f"between {lead[0]:+.3f} and {lead[1]:+.3f} mAP in 95 of 100 cases, and what three resolutions give the "
        f"teacher between {gain[0]:+.3f} and {gain[1]:+.3f} (bootstrap over products). "
        "Another training of the same models would move both further: each was trained once.",
        f"Times are medians for one decoded picture at a time, measured {facts.date} on: {facts.processor}. "
        f"They compare programs as well as models ({runners}).",
        "mAP is the mean average precision by the trapezoid rule of the Oxford protocol; recall@1 is the share of "
        "photographs whose most similar reference is right.",
    ]
    return section("Notes", tag("ul", *(tag("li", note) for note in notes)))


def _show_bars(title: str, values: Sequence[tuple[ModelRow, float, str]]) -> Html:
    bars = [(row.name, value, text, BAR_COLOURS.get(row.key, "f-accent")) for row, value, text in values]
    return tag("figure", tag("h3", title), bar_chart(bars, title=title))
