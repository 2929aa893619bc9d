"""Boxes of pictures that a detector found, read from a file of JSON lines, or from what supervision's sinks write."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.image import Box
from deepir.runtime.frame import Frame

_FRAME = ("frame", "frame_index", "frame_number", "frame_id")
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_OF_ONE = ("confidence", "class_id", "class_name", "tracker_id")


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


class Parts:
    """The boxes of each frame of a source.

    A frame is named by `frame`, its number from 0, or by `name`, the file's name. Its boxes are `xyxy` (or `boxes`), a
    list of [x1, y1, x2, y2], with lists `confidence`, `class_id`, `class_name` and `tracker_id` of the same length
    where there are such (the fields of supervision's Detections); or one line holds one box as x_min, y_min, x_max,
    y_max, as supervision's sinks write it.

    Attributes:
        frames: How many frames the file names.
        used: Of how many frames, so far, the boxes were asked for.
        beside: How many boxes, so far, had nothing of the picture in them and were left out.

    Raises:
        InputError: A file that is missing or holds a line that is not understood; names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._of: dict[int | str, list[Part]] = {}
        for number, entry in _entries(path):
            try:
                self._of.setdefault(_frame_of(entry), []).extend(_parts_of(entry))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                message = f"{path}:{number} is no set of boxes: {_said(error)}; expected {_EXAMPLE}"
                raise InputError(message) from error
        self.frames = len(self._of)
        self.used = 0
        self.beside = 0

    @property
    def tracked(self) -> bool:
        """Whether each box has the number of a tracker."""
        return all(part.tracker is not None for parts in self._of.values() for part in parts)

    def of(self, frame: Frame) -> tuple[Part, ...]:
        """The boxes of a frame; none where the detector found none."""
        found = self._of.get(frame.number) or self._of.get(Path(frame.name).name) or self._of.get(frame.name) or ()
        self.used += bool(found)
        return tuple(found)


_EXAMPLE = '{"frame": 0, "xyxy": [[x1, y1, x2, y2]], "tracker_id": [7]}'


def _entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the boxes in {path}: {_said(error)}"
        raise InputError(message) from error
    number = 1
    try:
        if text.lstrip().startswith("["):
            entries = list(enumerate(json.loads(text), 1))
        else:
            entries = []
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    entries.append((number, json.loads(line)))
    except ValueError as error:
        message = f"{path}:{number} is not JSON: {error}"
        raise InputError(message) from error
    yield from entries


def _frame_of(entry: Mapping[str, Any]) -> int | str:
    if not isinstance(entry, dict):
        message = "it holds no names"
        raise TypeError(message)
    for key in _FRAME:
        if key in entry:
            return int(entry[key])
    if isinstance(entry.get("name"), str):
        return str(entry["name"])
    message = "neither frame nor name says which picture"
    raise ValueError(message)


def _parts_of(entry: Mapping[str, Any]) -> Iterator[Part]:
    if all(corner in entry for corner in _CORNERS):
        known = {*_FRAME, "name", *_CORNERS, "tracker_id"}
        facts = {key: value for key, value in entry.items() if key not in known and value not in (None, "")}
        yield Part(_box([entry[corner] for corner in _CORNERS]), _tracker(entry.get("tracker_id")), facts)
        return
    boxes = entry["xyxy"] if "xyxy" in entry else entry["boxes"]
    columns = {key: _column(entry, key, len(boxes)) for key in _OF_ONE if entry.get(key) is not None}
    for row, corners in enumerate(boxes):
        facts = {key: values[row] for key, values in columns.items() if key != "tracker_id"}
        tracker = columns["tracker_id"][row] if "tracker_id" in columns else None
        yield Part(_box(corners), _tracker(tracker), facts)


def _column(entry: Mapping[str, Any], key: str, count: int) -> Sequence[Any]:
    values = entry[key]
    if not isinstance(values, list) or len(values) != count:
        message = f"{key} must list {count} values, one for each box"
        raise ValueError(message)
    return values


def _box(corners: Sequence[Any]) -> Box:
    left, top, right, bottom = (float(side) for side in corners)
    if not all(math.isfinite(side) for side in (left, top, right, bottom)) or right <= left or bottom <= top:
        message = f"the box {list(corners)} has no area"
        raise ValueError(message)
    return left, top, right, bottom


def _tracker(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return getattr(error, "strerror", None) or str(error)
