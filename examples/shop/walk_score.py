"""Walk score: compares what was recognised in the video with the truth, frame by frame and stretch by stretch."""

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any


class Outcome(str, Enum):
    """What became of one frame."""

    CORRECT = "correct"  # it has a label, and that was the answer
    WRONG = "wrong"  # it has a label, and the answer was another
    MISSED = "missed"  # it has a label, and the answer was unknown
    REJECTED = "rejected"  # no known product is visible, and the answer was unknown
    FALSE_MATCH = "false match"  # no known product is visible, and the answer was a label
    UNSCORED = "not scored"  # known products are visible, but none of them is the subject


GOOD = (Outcome.CORRECT, Outcome.REJECTED)
BAD = (Outcome.WRONG, Outcome.FALSE_MATCH)


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One frame of the video.

    Attributes:
        truth: The label of the product in the middle; None when there is none.
        visible: Every known product of which at least a corner is in the frame.
        answer: The label that was recognised; None is unknown.
    """

    number: int
    truth: str | None
    visible: frozenset[str]
    answer: str | None
    similarity: float

    @property
    def outcome(self) -> Outcome:
        if self.truth is not None:
            if self.answer is None:
                return Outcome.MISSED
            return Outcome.CORRECT if self.answer == self.truth else Outcome.WRONG
        if self.visible:
            return Outcome.UNSCORED
        return Outcome.REJECTED if self.answer is None else Outcome.FALSE_MATCH


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames in a row that are scored and have the same truth."""

    frames: tuple[FrameScore, ...]

    @property
    def truth(self) -> str | None:
        return self.frames[0].truth

    @property
    def answer(self) -> str | None:
        """What most of its frames answered; of equals the first."""
        return Counter(frame.answer for frame in self.frames).most_common(1)[0][0]

    def count(self, *outcomes: Outcome) -> int:
        """How many of its frames ended so."""
        return sum(frame.outcome in outcomes for frame in self.frames)


@dataclass(frozen=True, slots=True)
class WalkScore:
    """Every frame that has both a truth and a result, in order."""

    frames: tuple[FrameScore, ...]

    def count(self, *outcomes: Outcome) -> int:
        """How many frames ended so."""
        return sum(frame.outcome in outcomes for frame in self.frames)

    @property
    def stretches(self) -> list[Stretch]:
        groups = itertools.groupby(
            self.frames, key=lambda frame: (frame.outcome is Outcome.UNSCORED, frame.truth or "", bool(frame.visible))
        )
        return [Stretch(tuple(group)) for (unscored, _, _), group in groups if not unscored]

    @property
    def recognised(self) -> dict[str, bool]:
        """For each product that is the subject of a frame: was it the answer to any of them?"""
        found: dict[str, bool] = {}
        for frame in self.frames:
            if frame.truth is not None:
                found[frame.truth] = found.get(frame.truth, False) or frame.outcome is Outcome.CORRECT
        return found

    def line(self) -> str:
        """The score in one line; the frames that are not scored are named too."""
        correct, wrong, missed = (self.count(o) for o in (Outcome.CORRECT, Outcome.WRONG, Outcome.MISSED))
        rejected, false = self.count(Outcome.REJECTED), self.count(Outcome.FALSE_MATCH)
        stretches, recognised = self.stretches, self.recognised
        right = sum(stretch.answer == stretch.truth for stretch in stretches)
        return (
            f"{correct + wrong + missed} frames of a known product: "
            f"{correct} correct, {wrong} wrong, {missed} unknown; "
            f"{rejected + false} frames without one: {rejected} rejected, {false} false matches; "
            f"{self.count(Outcome.UNSCORED)} frames between products are not scored; "
            f"by majority {right} of {len(stretches)} stretches are right; "
            f"{sum(recognised.values())} of {len(recognised)} products were recognised at least once"
        )


def score_walk(truth: Path, results: Path) -> WalkScore:
    """Compare the lines of deepir-run with the truth; frames that it left out (--every) are left out here."""
    results_by_frame = {line["frame"]: line for line in _read_lines(results)}
    pairs = [(line, results_by_frame.get(line["frame"])) for line in _read_lines(truth)]
    frames = tuple(_score_frame(line, result) for line, result in pairs if result is not None)
    if not frames:
        message = f"no frame of {truth.name} is in {results.name}: is it the result of another video?"
        raise ValueError(message)
    return WalkScore(frames)


def _score_frame(truth: dict[str, Any], result: dict[str, Any]) -> FrameScore:
    answer = result["label"] if result["status"] == "match" else None
    return FrameScore(truth["frame"], truth["label"], frozenset(truth["visible"]), answer, result["similarity"])


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
