"""A picture whose answer is known, what the index answered, and which kind of right or wrong that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deepir.datasets import LabelledImage
from deepir.runtime.recogniser import Recognition
from deepir.runtime.view_ranks import ViewRanks
from deepir.runtime.vote import Status
from deepir.score import average_precision

Outcome = Literal[
    "match right",
    "match wrong",
    "ambiguous right",
    "ambiguous wrong",
    "unknown",
    "false match",
    "false ambiguous",
    "true unknown",
]

KNOWN_OUTCOMES: tuple[Outcome, ...] = ("match right", "match wrong", "ambiguous right", "ambiguous wrong", "unknown")
"""Of queries whose label the index has; ambiguous is right where the label is among the candidates."""

UNKNOWN_OUTCOMES: tuple[Outcome, ...] = ("false match", "false ambiguous", "true unknown")
"""Of the other queries, which should be unknown."""

_OF_UNKNOWN: dict[Status, Outcome] = {
    "match": "false match",
    "ambiguous": "false ambiguous",
    "unknown": "true unknown",
}

WORST_FIRST: tuple[Outcome, ...] = ("match wrong", "false match", "ambiguous wrong", "false ambiguous", "unknown")


@dataclass(frozen=True, slots=True)
class Questions:
    """Pictures whose answer is known.

    Attributes:
        queries: With labels; those that the index lacks count as unknown things. One or more.
        unknown: More pictures of unknown things.
    """

    queries: Sequence[LabelledImage]
    unknown: Sequence[Path] = ()

    @property
    def labelled(self) -> list[tuple[Path, str | None]]:
        """All of them in order, each with its label where it has one."""
        return [(image.path, image.label) for image in self.queries] + [(path, None) for path in self.unknown]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredQuery:
    """A picture, the answer, and where the views of its label stand.

    Attributes:
        path: The picture.
        label: What it shows; None for something unknown without a name.
        known: Whether the index has that label.
        recognition: The answer; that of a blank picture has no hit.
        ranks: Among all views.
    """

    path: Path
    label: str | None
    known: bool
    recognition: Recognition
    ranks: ViewRanks

    @property
    def outcome(self) -> Outcome:
        """Which of the outcomes it is."""
        status, candidates = self.recognition.status, self.recognition.candidates
        if not self.known:
            return _OF_UNKNOWN[status]
        if status == "unknown":
            return "unknown"
        if status == "match":
            return "match right" if self.recognition.label == self.label else "match wrong"
        return "ambiguous right" if self.label in candidates else "ambiguous wrong"

    @property
    def fault(self) -> float:
        """How far from right, in similarity: what the wrong view has more, or the right one lacks; more is worse."""
        right = 0.0 if self.ranks.right is None else self.ranks.right.similarity
        if self.outcome == "unknown":
            return -right
        return self.recognition.similarity - right if self.known else self.recognition.similarity

    @property
    def average_precision(self) -> float:
        """Over the views, as `deepir.score` computes it; 0 for a blank picture."""
        ranks = self.ranks.ranks
        if not len(ranks):
            return 0.0
        relevant = np.zeros(int(ranks[-1]) + 1, bool)
        relevant[ranks] = True
        return average_precision(relevant, len(ranks))
