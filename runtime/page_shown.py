"""What the live page showed in the last seconds: pictures and answers, so that a person can still enrol one of them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.image import Image, decode_image
from deepir.runtime.boxes import Part
from deepir.runtime.pictures import encode_thumbnail
from deepir.runtime.result import Result
from deepir.runtime.vitals import Vitals

WIDEST = 1280
"""Longest side in pixels of a picture on the page."""

_KEPT = 50
"""Five seconds of the fastest page."""

_HELD = 4


@dataclass(frozen=True, slots=True, eq=False)
class ShownAnswer:
    """What is kept of a result: neither its pixels nor its index, which may be large and another one by now.

    Attributes:
        record: As a JSON line has it.
        query_1d: (D,) The model's descriptor; None for a blank picture.
        fingerprint: Of that model.
        part: The box; None for the whole picture.
        seen_at: When its frame was captured, in seconds since 1970.
    """

    record: dict[str, Any]
    query_1d: NDArray[np.float32] | None
    fingerprint: str
    part: Part | None
    seen_at: float

    @classmethod
    def of(cls, result: Result) -> "ShownAnswer":
        """What is kept of this result."""
        fingerprint = result.index.model.fingerprint
        return cls(result.record(), result.query_1d, fingerprint, result.part, result.frame.seen_at)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A frame as the page shows it.

    Attributes:
        number: Of the frame.
        captured: When, by the clock that never jumps.
        answers: To it, one for each box.
        picture: JPEG.
        size: (height, width) of the frame, which boxes are counted in.
    """

    number: int
    captured: float
    answers: tuple[ShownAnswer, ...]
    picture: bytes
    size: tuple[int, int]

    def record(self) -> dict[str, Any]:
        """As a JSON object; every answer as a JSON line has it, and how it is told to people."""
        return {"number": self.number, "size": list(self.size), "answers": [answer.record for answer in self.answers]}

    def part(self, number: int) -> Image:
        """The pixels of one answer."""
        image = decode_image(self.picture, f"frame {self.number}")
        part = self.answers[number].part
        if part is None:
            return image
        scale = image.shape[1] / self.size[1]
        left, top, right, bottom = (max(0, round(side * scale)) for side in part.box)
        left, top = min(left, image.shape[1] - 1), min(top, image.shape[0] - 1)
        return image[top : max(bottom, top + 1), left : max(right, left + 1)]


class Showcase:
    """The frames that were shown last; asked from any thread.

    A picture is encoded once, when the first one asks for it; nothing is encoded while nobody looks.

    Args:
        vitals: Of the loop.
    """

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Shown] = OrderedDict()
        self._held: OrderedDict[int, Shown] = OrderedDict()

    def newest(self) -> Shown | None:
        """The newest frame that was answered; None before the first."""
        with self._lock:
            results = self._vitals.latest_of_frame
            if not results:
                return None
            frame = results[0].frame
            before = self._kept.get(frame.number)
            again = before is not None and before.captured == frame.captured
            if before is not None and again and len(before.answers) == len(results):
                return before
            picture = before.picture if before is not None and again else encode_thumbnail(frame.image, WIDEST)
            height, width = frame.image.shape[:2]
            answers = tuple(ShownAnswer.of(result) for result in results)
            shown = Shown(frame.number, frame.captured, answers, picture, (height, width))
            self._kept[frame.number] = shown
            self._kept.move_to_end(frame.number)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return shown

    def of(self, number: int) -> Shown | None:
        """The frame of this number; None when it was not shown, or too long ago."""
        with self._lock:
            return self._held.get(number) or self._kept.get(number)

    def hold(self, number: int) -> Shown | None:
        """Keep a frame though newer ones come; the last few that were asked for."""
        with self._lock:
            shown = self._held.get(number) or self._kept.get(number)
            if shown is not None:
                self._held[number] = shown
                self._held.move_to_end(number)
                while len(self._held) > _HELD:
                    self._held.popitem(last=False)
            return shown
