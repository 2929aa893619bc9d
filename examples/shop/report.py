"""Report: writes what a run of the demonstration measured into one HTML file that needs nothing else."""

from collections.abc import Mapping
from pathlib import Path

from report_facts import ReportFacts
from report_html import page, tag
from report_rankings import show_confusions, show_rankings, show_similarities
from report_style import STYLE
from report_summary import SHOWN, SHOWN_NAME, headline, show_notes, show_table, show_tiles
from report_training import read_calibration, show_calibration, show_steps, show_training
from report_walk import show_walk
from table import SET_NAME, build_rows, read_scores
from walk_score import score_walk

TITLE = "deepir: image retrieval on edge devices, demonstrated in a synthetic shop"
FAILED = "The INT8 model did not pass its check: see “Is INT8 close enough?” before you use its numbers."


def write_report(run: Path, seconds: Mapping[str, float], facts: ReportFacts | None = None) -> Path:
    """Write report.html into the folder of a run and return its path.

    Args:
        run: Holds shop/, scores/, the logs of the trainings, the calibration and the results of the walk.
        seconds: How long each step took, in order.
        facts: What the files do not tell.
    """
    facts = facts or ReportFacts()
    scores = read_scores(run / "scores")
    rows = build_rows(scores, student_parameters=facts.student_parameters)
    rankings = scores[SHOWN]["sets"][SET_NAME]["rankings"]
    calibration = read_calibration(run)
    walk = score_walk(run / "shop" / "walk.jsonl", run / "walk_results.jsonl")
    content = page(
        TITLE,
        STYLE,
        tag("h1", TITLE),
        tag("p", headline(rows, scores[SHOWN]["sets"][SET_NAME]), class_="headline"),
        *([] if calibration["verdict"]["passed"] else [tag("p", FAILED, class_="bad")]),
        show_tiles(rows, walk),
        show_table(rows),
        show_steps(seconds, facts.commands),
        show_training(run),
        show_calibration(calibration),
        show_rankings(run, rankings, SHOWN_NAME),
        show_confusions(run, rankings),
        show_similarities(rankings, facts.threshold),
        show_walk(run, walk),
        show_notes(rows, scores, facts),
    )
    path = run / "report.html"
    path.write_text(content, encoding="utf-8")
    return path
