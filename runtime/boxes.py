"""Boxes of pictures that a detector found, one set for each frame, read from JSON lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepir.image import Box


@dataclass(frozen=True, slots=True)
class Part:
    """A box in a picture.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the picture, ends exclusive.
        tracker: The number that a tracker gave the thing; None without a tracker.
        facts: What the detector says of it besides, passed on with the answer.
    """

    box: Box
    tracker: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As entries of a JSON line."""
        return {
            "box": [round(side, 1) for side in self.box],
            **({} if self.tracker is None else {"tracker_id": self.tracker}),
            **({"detection": dict(self.facts)} if self.facts else {}),
        }
