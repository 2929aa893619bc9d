"""What deepir-run writes and where: nothing over its own inputs, nothing lost by a restart, and no reader is needed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from deepir.image import Image
from deepir.runtime import run_report

Command = Callable[..., Result]


@pytest.fixture
def walk(
    tmp_path: Path, rng: np.random.Generator, picture: Callable[..., Image], write_video: Callable[..., Path]
) -> Path:
    """Nine frames."""
    return write_video(tmp_path / "walk.avi", [picture("red", rng) for _ in range(9)])


@pytest.fixture
def things(shop: Path, model: Path, walk: Path, tmp_path: Path) -> dict[str, Path]:
    """What a run reads, by what it is."""
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text(json.dumps({"frame": 0, "xyxy": [[0, 0, 10, 10]]}) + "\n")
    return {"source": walk, "index": shop, "model": model, "boxes": boxes}


@pytest.mark.parametrize(
    ("option", "over"),
    [
        ("--save", "source"),
        *((option, over) for option in ("--jsonl", "--health-file") for over in ("source", "index", "model", "boxes")),
    ],
)
def test_what_is_read_is_not_written_over(things: dict[str, Path], deepir_run: Command, option: str, over: str) -> None:
    before = {name: path.read_bytes() for name, path in things.items()}
    words = [things["source"], "--index", things["index"], "--model", things["model"], "--boxes", things["boxes"]]
    result = deepir_run(*words, option, things[over])
    assert result.exit_code == 2, result.output
    assert f"error: {option} {things[over]} would overwrite" in result.stderr
    assert {name: path.read_bytes() for name, path in things.items()} == before


def test_two_outputs_are_two_files(things: dict[str, Path], deepir_run: Command, tmp_path: Path) -> None:
    same = tmp_path / "out"
    result = deepir_run(things["source"], "--index", things["index"], "--jsonl", same, "--health-file", same)
    assert (result.exit_code, "--health-file" in result.stderr, same.exists()) == (2, True, False)


def test_answers_of_a_camera_are_added_and_those_of_a_file_begin_anew(
    shop: Path, walk: Path, deepir_run: Command, tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    for expected in (2, 4):
        assert deepir_run("test://64x48@100", "--index", shop, "--jsonl", out, "--max-frames", 2).exit_code == 0
        assert len(out.read_text().splitlines()) == expected
    assert deepir_run(walk, "--index", shop, "--jsonl", out, "--max-frames", 3).exit_code == 0
    assert len(out.read_text().splitlines()) == 3


def test_the_loss_that_ends_the_program_is_an_event(shop: Path, deepir_run: Command) -> None:
    result = deepir_run("test://64x48@100?drop=0.3s", "--index", shop, "--events")
    assert result.exit_code == 7
    events = [record for record in map(json.loads, result.stdout.splitlines()) if "event" in record]
    assert [(event["event"], event["status"]) for event in events] == [("camera", "lost")]


def test_sinks_hear_that_the_camera_is_well_and_that_it_is_lost(
    shop: Path, deepir_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(run_report, "tell_camera", lambda _sinks, facts: heard.append(facts["status"]))
    assert deepir_run("test://64x48@100?drop=1s", "--index", shop).exit_code == 7
    assert (heard[0], heard[-1], set(heard)) == ("live", "lost", {"live", "lost"})


def test_a_log_whose_reader_left_does_not_end_the_program(shop: Path, walk: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    words = [sys.executable, "-m", "deepir.runtime.cli", str(walk), "--index", str(shop), "--jsonl", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(120) == 0
    assert len(out.read_text().splitlines()) == 9


def test_a_file_that_is_no_index_is_not_replaced_by_one(
    catalogue: Path, model: Path, tmp_path: Path, deepir_index: Command
) -> None:
    photograph = next(catalogue.rglob("*.png"))
    before = photograph.read_bytes()
    result = deepir_index("build", photograph, catalogue, "--model", model)
    assert (result.exit_code, photograph.read_bytes() == before) == (3, True), result.output
    assert f"error: {photograph} is there and is no index, so it stays: give another name" in result.stderr
    empty = tmp_path / "empty.usearch"
    empty.touch()
    assert deepir_index("build", empty, catalogue, "--model", model).exit_code == 0


@pytest.mark.parametrize("words", [("confusions", "--sheet"), ("export", "--format", "npz", "-o")])
def test_an_index_is_not_written_over_by_what_is_made_of_it(
    shop: Path, deepir_index: Command, words: tuple[str, ...]
) -> None:
    before = shop.read_bytes()
    result = deepir_index(words[0], shop, *words[1:], shop)
    assert (result.exit_code, shop.read_bytes() == before) == (2, True), result.output
    assert f"{shop} would overwrite the index" in result.stderr


def test_answers_that_no_server_took_are_told_also_with_quiet(shop: Path, walk: Path, deepir_run: Command) -> None:
    result = deepir_run(walk, "--index", shop, "--webhook", "http://127.0.0.1:1/x", "--send", "all", "-q")
    assert result.exit_code == 0
    assert "warning: webhook: " in result.stderr
    assert "warning: webhook: 9 answers were given up" in result.stderr
