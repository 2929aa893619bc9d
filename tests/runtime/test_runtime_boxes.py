"""Boxes of a detector: read from JSON lines of several forms, refused with the number of the line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.errors import InputError
from deepir.runtime.boxes import Part, Parts
from deepir.runtime.frame import Frame

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*entries: dict[str, Any] | str) -> Path:
        path = tmp_path / "boxes.jsonl"
        path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in entries))
        return path

    return written


def frame(number: int, name: str = "walk.mp4") -> Frame:
    return Frame(number, np.zeros((4, 4, 3), np.uint8), 0.0, None, name)


def test_a_line_of_detections_gives_a_part_for_each_box(write: Write) -> None:
    entry = {
        "frame": 3,
        "xyxy": [[1, 2, 30, 40], [5.5, 6, 7, 8]],
        "confidence": [0.9, 0.5],
        "class_name": ["bottle", "box"],
        "tracker_id": [7, 9],
    }
    parts = Parts(write(entry))
    assert parts.of(frame(3)) == (
        Part((1.0, 2.0, 30.0, 40.0), 7, {"confidence": 0.9, "class_name": "bottle"}),
        Part((5.5, 6.0, 7.0, 8.0), 9, {"confidence": 0.5, "class_name": "box"}),
    )
    assert parts.of(frame(2)) == ()
    assert (parts.tracked, parts.frames, parts.used) == (True, 1, 1)


@pytest.mark.parametrize("as_array", [True, False])
def test_a_line_for_each_box_gives_the_boxes_of_a_frame_together(as_array: bool, write: Write) -> None:
    rows: list[dict[str, Any]] = [
        {"x_min": "1", "y_min": "2", "x_max": "3", "y_max": "4", "tracker_id": "", "class_id": "5", "frame_index": "0"},
        {"x_min": 2, "y_min": 2, "x_max": 9, "y_max": 4, "tracker_id": 4, "confidence": 0.25, "frame_index": 0},
    ]
    parts = Parts(write(json.dumps(rows)) if as_array else write(*rows))
    assert parts.of(frame(0)) == (
        Part((1.0, 2.0, 3.0, 4.0), None, {"class_id": "5"}),
        Part((2.0, 2.0, 9.0, 4.0), 4, {"confidence": 0.25}),
    )
    assert not parts.tracked


def test_pictures_are_found_by_their_name_too(write: Write) -> None:
    parts = Parts(write({"name": "b.jpg", "boxes": [[0, 0, 1, 1]]}, {"name": "shelf/c.jpg", "boxes": [[0, 0, 2, 2]]}))
    assert [part.box for part in parts.of(frame(0, "photos/b.jpg"))] == [(0, 0, 1, 1)]
    assert [part.box for part in parts.of(frame(1, "shelf/c.jpg"))] == [(0, 0, 2, 2)]
    assert parts.of(frame(2, "d.jpg")) == ()


@pytest.mark.parametrize(
    "line",
    [
        {"frame": 0},
        {"xyxy": [[0, 0, 1, 1]]},
        {"frame": 0, "xyxy": [[0, 0, 1]]},
        {"frame": 0, "xyxy": [[5, 0, 1, 1]]},
        {"frame": 0, "xyxy": [[0, 0, float("inf"), 1]]},
        {"frame": 0, "xyxy": [[0, 0, 1, 1]], "tracker_id": [1, 2]},
        {"frame": 0, "xyxy": 5},
        {"frame": "zero", "xyxy": []},
        "[1, 2]",
        "5",
        "{broken",
    ],
)
def test_a_line_that_is_no_set_of_boxes_is_named(line: dict[str, Any] | str, write: Write) -> None:
    path = write({"frame": 1, "xyxy": []}, line)
    with pytest.raises(InputError, match=r"boxes.jsonl:2 is no"):
        Parts(path)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the boxes in"):
        Parts(tmp_path / "missing.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the boxes in"):
        Parts(tmp_path / "binary.jsonl")


def test_a_record_passes_on_what_the_detector_said() -> None:
    assert Part((1, 2, 3.26, 4), 7, {"class_name": "box"}).record() == {
        "box": [1, 2, 3.3, 4],
        "tracker_id": 7,
        "detection": {"class_name": "box"},
    }
    assert Part((1, 2, 3, 4)).record() == {"box": [1, 2, 3, 4]}
