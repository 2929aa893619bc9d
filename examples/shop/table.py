"""Table: what each of the five models costs and how well it ranks, and how much of the gap the student closed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SET_NAME = "photo2reference"
MODELS = {
    "teacher_x3": "teacher, three resolutions",
    "teacher_x1": "teacher, one resolution",
    "student_start": "student, undistilled",
    "student": "student",
    "student_int8": "student INT8",
}
COLUMNS = ("model", "resolutions", "numerics", "runs in", "parameters (M)", "MB", "ms per image", "mAP", "recall@1")


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of the table.

    Attributes:
        resolutions: What it looks at, as in "64+128+192".
        runner: What it was timed in.
        parameters: None where nothing states it.
        milliseconds: For one picture on this machine, preparation included.
    """

    key: str
    resolutions: str
    numerics: str
    runner: str
    parameters: int | None
    bytes: int
    milliseconds: float
    mean_ap: float
    recall_at_1: float

    @property
    def name(self) -> str:
        return MODELS[self.key]

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands under `COLUMNS`."""
        return (
            self.name,
            self.resolutions,
            self.numerics,
            self.runner,
            "not stated" if self.parameters is None else f"{self.parameters / 1e6:.2f}",
            f"{self.bytes / 1e6:.2f}",
            f"{self.milliseconds:.2f}",
            f"{self.mean_ap:.3f}",
            f"{self.recall_at_1:.3f}",
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """What a student has of the mAP that the teacher gains from three resolutions.

    Attributes:
        teacher_gain: mAP of the teacher at three resolutions above the same teacher at one.
        student_gain: mAP of the student above the teacher at one resolution.
    """

    name: str
    teacher_gain: float
    student_gain: float

    @property
    def closed(self) -> float | None:
        """1 is the teacher at three resolutions, 0 the one at one, below 0 is worse; None when there was no gap."""
        return self.student_gain / self.teacher_gain if self.teacher_gain > 0 else None

    def line(self) -> str:
        """One sentence for people."""
        against = f"{self.student_gain:+.3f} mAP against the teacher at one resolution"
        if self.closed is None:
            return (
                f"{self.name}: {against}; there is no gap to close, "
                f"for the teacher gained nothing from three resolutions ({self.teacher_gain:+.3f} mAP)"
            )
        return (
            f"{self.name}: {against}, where three resolutions give the teacher {self.teacher_gain:+.3f}: "
            f"{self.closed:.0%} of the gap closed{' (worse than where it began)' if self.closed < 0 else ''}"
        )


def read_scores(scores: Path) -> dict[str, dict[str, Any]]:
    """What `deepir-eval --json` printed for each of `MODELS`, from files named after them."""
    return {key: json.loads((scores / f"{key}.json").read_text(encoding="utf-8")) for key in MODELS}


def build_rows(scores: dict[str, dict[str, Any]], *, student_parameters: int | None = None) -> list[ModelRow]:
    """One row for each model; where a file states no parameters they are `student_parameters`.

    None takes those of the undistilled student, which is right when both have the same head.
    """
    if student_parameters is None:
        student_parameters = scores["student_start"]["parameters"]
    return [_build_row(key, scores[key], student_parameters) for key in MODELS]


def gap_closed(rows: Sequence[ModelRow], key: str) -> Gap:
    """How far the student of that key came from the teacher at one resolution to the one at three."""
    mean_ap = {row.key: row.mean_ap for row in rows}
    low = mean_ap["teacher_x1"]
    return Gap(MODELS[key], mean_ap["teacher_x3"] - low, mean_ap[key] - low)


def text_table(rows: Sequence[ModelRow]) -> str:
    """The table in aligned columns, for a terminal."""
    lines = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column > 3 else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(cells, widths, strict=True)) for cells in lines)
    )


def markdown_table(rows: Sequence[ModelRow]) -> str:
    """The table for a README."""
    rules = ["---"] * 4 + ["---:"] * (len(COLUMNS) - 4)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, rules, *(row.cells for row in rows)))


def _build_row(key: str, score: dict[str, Any], student_parameters: int | None) -> ModelRow:
    result = score["sets"][SET_NAME]
    return ModelRow(
        key=key,
        resolutions="+".join(_size_text(height, width) for height, width in score["sizes"]),
        numerics=score["numerics"],
        runner=score["runner"],
        parameters=student_parameters if score["parameters"] is None else score["parameters"],
        bytes=score["bytes"],
        milliseconds=score["milliseconds_per_image"],
        mean_ap=result["mean_ap"],
        recall_at_1=result["recall_at"]["1"],
    )


def _size_text(height: int, width: int) -> str:
    return str(height) if height == width else f"{height}x{width}"
