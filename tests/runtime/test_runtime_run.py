"""deepir-run looks at boxes and regions, tells of its camera, and votes for each thing that a tracker follows."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.testing import Result

from deepir.image import Image
from deepir.runtime.model_file import ModelFile

Picture = Callable[..., Image]
Command = Callable[..., Result]
LEFT, RIGHT = [0, 0, 64, 48], [64, 0, 128, 48]


@pytest.fixture
def shelf(tmp_path: Path, rng: np.random.Generator, picture: Picture, write_video: Callable[..., Path]) -> Path:
    """Six frames: red on the left all the time, on the right green and, from the fourth on, blue."""
    rights = ["green"] * 3 + ["blue"] * 3
    frames = [np.concatenate([picture("red", rng), picture(right, rng)], axis=1) for right in rights]
    return write_video(tmp_path / "shelf.avi", frames)


def lines_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def write_boxes(path: Path, frames: dict[int, list[list[int]]], **columns: list[int]) -> Path:
    entries = [{"frame": number, "xyxy": boxes, **columns} for number, boxes in frames.items()]
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    return path


def test_each_box_is_a_line_with_its_place_and_what_the_detector_said(
    shop: Path, shelf: Path, tmp_path: Path, deepir_run: Command
) -> None:
    boxes = write_boxes(tmp_path / "boxes.jsonl", {0: [LEFT, RIGHT], 4: [RIGHT, LEFT]}, class_id=[3, 4])
    result = deepir_run(shelf, "--index", shop, "--boxes", boxes)
    lines = lines_of(result)
    assert [(line["frame"], line["box"], line["label"]) for line in lines] == [
        (0, LEFT, "red"),
        (0, RIGHT, "green"),
        (4, RIGHT, "blue"),
        (4, LEFT, "red"),
    ]
    assert [line["detection"]["class_id"] for line in lines] == [3, 4, 3, 4]
    assert "4 answers of 2 frames" in result.stderr


def test_each_thing_that_a_tracker_follows_has_a_vote_of_its_own(
    shop: Path, shelf: Path, tmp_path: Path, deepir_run: Command
) -> None:
    boxes = write_boxes(tmp_path / "b.jsonl", {number: [LEFT, RIGHT] for number in range(6)}, tracker_id=[1, 2])
    lines = lines_of(deepir_run(shelf, "--index", shop, "--boxes", boxes, "--vote", "2/3", "--margin", 0))
    labels = {tracker: [line["label"] for line in lines if line["tracker_id"] == tracker] for tracker in (1, 2)}
    assert labels == {1: [None] + ["red"] * 5, 2: [None, "green", "green", "green", "blue", "blue"]}


def test_the_saved_video_shows_every_box(shop: Path, shelf: Path, tmp_path: Path, deepir_run: Command) -> None:
    boxes = write_boxes(tmp_path / "b.jsonl", {0: [[10, 20, 50, 40], [70, 20, 110, 40]]})
    lines_of(deepir_run(shelf, "--index", shop, "--boxes", boxes, "--save", tmp_path / "out.avi"))
    capture = cv2.VideoCapture(str(tmp_path / "out.avi"))
    read, drawn = capture.read()
    _, before = cv2.VideoCapture(str(shelf)).read()
    assert read
    changed = np.abs(drawn.astype(int) - before).max(axis=2) > 30
    assert changed[30, 9:12].any()
    assert changed[30, 109:112].any()
    assert not changed[30, 25:45].any()


def test_the_saved_video_has_the_frames_without_boxes_too(
    shop: Path, shelf: Path, tmp_path: Path, deepir_run: Command
) -> None:
    boxes = write_boxes(tmp_path / "b.jsonl", {0: [LEFT], 4: [RIGHT]})
    lines = lines_of(deepir_run(shelf, "--index", shop, "--boxes", boxes, "--save", tmp_path / "out.avi"))
    assert [line["frame"] for line in lines] == [0, 4]
    capture = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert sum(iter(capture.grab, False)) == 6


def test_a_box_beside_the_picture_has_no_answer_and_ends_nothing(
    shop: Path, shelf: Path, tmp_path: Path, deepir_run: Command
) -> None:
    boxes = write_boxes(tmp_path / "b.jsonl", {0: [LEFT], 1: [[128, 0, 192, 48], LEFT], 2: [[-64, 0, 0, 48]]})
    lines = lines_of(deepir_run(shelf, "--index", shop, "--boxes", boxes))
    assert [(line["frame"], line["box"]) for line in lines] == [(0, LEFT), (1, LEFT)]


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (["--boxes", "missing.jsonl"], 3, "cannot read the boxes in missing.jsonl"),
        (["--boxes", "BOXES", "--vote", "2/3"], 2, "needs a tracker_id with each box"),
        (["--boxes", "BOXES", "--roi", "0,0,1,1"], 2, "leave out --roi and --mode place"),
        (["--boxes", "BOXES", "--mode", "place"], 2, "leave out --roi and --mode place"),
        (["--roi", "1,2,3"], 2, "--roi takes x,y,width,height"),
        (["--roi", "100,0,100,10"], 3, "does not lie within a frame of 128x48 pixels"),
        (["--fps-max", "0"], 2, "--fps-max must be above 0"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(
    *,
    words: list[str],
    exit_code: int,
    sentence: str,
    shop: Path,
    shelf: Path,
    tmp_path: Path,
    deepir_run: Command,
) -> None:
    boxes = write_boxes(tmp_path / "b.jsonl", {0: [LEFT]})
    result = deepir_run(shelf, "--index", shop, *[str(boxes) if word == "BOXES" else word for word in words])
    assert result.exit_code == exit_code
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_boxes_of_another_video_are_told(shop: Path, shelf: Path, tmp_path: Path, deepir_run: Command) -> None:
    boxes = write_boxes(tmp_path / "b.jsonl", {1000: [LEFT], 1001: [LEFT]})
    result = deepir_run(shelf, "--index", shop, "--boxes", boxes)
    assert lines_of(result) == []
    assert f"warning: none of the 2 frames that {boxes} names came" in result.stderr


def test_only_the_region_of_interest_is_recognised(shop: Path, shelf: Path, deepir_run: Command) -> None:
    lines = lines_of(deepir_run(shelf, "--index", shop, "--roi", "0.5,0,0.5,1"))
    assert [line["label"] for line in lines] == ["green"] * 3 + ["blue"] * 3


@pytest.mark.parametrize("events", [True, False])
def test_a_camera_that_is_lost_and_comes_back_is_told(
    events: bool, shop: Path, deepir_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = click.echo

    def end_with_the_news(message: str, **words: Any) -> None:
        echo(message, **words)
        if message.endswith(" is live"):
            os.kill(os.getpid(), signal.SIGTERM)

    # no number of frames would do: a loop that is away while the camera is lost hears of a later loss
    monkeypatch.setattr(click, "echo", end_with_the_news)
    words = ["--events"] if events else []
    result = deepir_run("test://64x48@50?drop=300ms", "--index", shop, "--on-lost", "wait", *words)
    lines = lines_of(result)
    assert [line["status"] for line in lines if "event" in line] == (["lost", "live"] if events else [])
    assert all(("event" in line) != ("frame" in line) for line in lines)
    assert "camera  test://64x48@50?drop=300ms is lost: " in result.stderr
    assert "camera  test://64x48@50?drop=300ms is live" in result.stderr
    assert all({"kind", "sentence"} == set(line["trouble"]) for line in lines if line.get("status") == "lost")


def test_sigterm_while_the_model_is_loaded_ends_the_program_at_once(
    shop: Path, shelf: Path, deepir_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelFile, "open", lambda *_words: os.kill(os.getpid(), signal.SIGTERM))
    result = deepir_run(shelf, "--index", shop)
    assert (result.exit_code, result.output) == (0, "")
