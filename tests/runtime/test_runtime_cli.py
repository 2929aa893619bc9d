"""deepir-run from the outside: JSON lines, exit codes, sentences instead of tracebacks."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from deepir.card import ModelCard
from deepir.image import Image
from deepir.runtime.result import Result as Answer
from deepir.runtime.source import open_source
from deepir.runtime.vitals import Vitals

Picture = Callable[..., Image]
Command = Callable[..., Result]

KEYS = {"seen_at", "frame", "time", "name", "age_ms", "status", "label", "similarity", "margin", "topk", "ms"}


@pytest.fixture
def walk(tmp_path: Path, rng: np.random.Generator, picture: Picture, write_video: Callable[..., Path]) -> Path:
    colours = ["red"] * 3 + ["green"] * 3 + ["blue"] * 3
    return write_video(tmp_path / "walk.avi", [picture(colour, rng) for colour in colours])


def lines_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_video_gives_a_json_line_for_each_frame(shop: Path, walk: Path, deepir_run: Command) -> None:
    result = deepir_run(walk, "--index", shop)
    assert result.exit_code == 0, result.output
    lines = lines_of(result)
    assert [line["label"] for line in lines] == ["red"] * 3 + ["green"] * 3 + ["blue"] * 3
    assert [line["frame"] for line in lines] == list(range(9))
    assert all(set(line) == KEYS for line in lines)
    assert lines[3]["time"] == pytest.approx(0.3)
    assert lines[0]["topk"][0] == ["red", lines[0]["similarity"]]


def test_stderr_tells_what_runs_and_what_came_out(shop: Path, walk: Path, deepir_run: Command) -> None:
    stderr = deepir_run(walk, "--index", shop).stderr
    assert "ONNX Runtime, CPU" in stderr
    assert "12 items, 4 labels" in stderr
    assert "64x48, 10 frames per second" in stderr
    assert "9 frames in" in stderr
    assert "9 match, 0 ambiguous, 0 unknown" in stderr


def test_quiet_says_nothing(shop: Path, walk: Path, deepir_run: Command) -> None:
    result = deepir_run(walk, "--index", shop, "-q")
    assert (result.exit_code, result.stderr, len(lines_of(result))) == (0, "", 9)


def test_every_and_max_frames_choose_frames(shop: Path, walk: Path, deepir_run: Command) -> None:
    result = deepir_run(walk, "--index", shop, "--every", 2, "--max-frames", 3)
    assert [line["frame"] for line in lines_of(result)] == [0, 2, 4]


def test_topk_and_threshold_are_obeyed(shop: Path, walk: Path, deepir_run: Command) -> None:
    lines = lines_of(deepir_run(walk, "--index", shop, "--topk", 1, "--threshold", "1.0"))
    assert {(line["status"], line["label"], len(line["topk"])) for line in lines} == {("unknown", None, 1)}
    assert all(line["margin"] > 0 for line in lines)


def test_a_folder_of_images_is_a_source(shop: Path, catalogue: Path, deepir_run: Command) -> None:
    lines = lines_of(deepir_run(catalogue, "--index", shop))
    assert all(line["label"] == Path(line["name"]).parent.name for line in lines)
    assert len(lines) == 12


def test_lines_go_to_a_file_when_asked(shop: Path, walk: Path, tmp_path: Path, deepir_run: Command) -> None:
    result = deepir_run(walk, "--index", shop, "--jsonl", tmp_path / "out.jsonl")
    assert result.stdout == ""
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9


def test_the_annotated_video_has_every_frame(shop: Path, walk: Path, tmp_path: Path, deepir_run: Command) -> None:
    result = deepir_run(walk, "--index", shop, "--save", tmp_path / "out.webm")
    assert f"wrote {tmp_path / 'out.webm'}" in result.stderr
    with open_source(tmp_path / "out.webm") as source:
        assert len(list(source)) == 9


def test_options_can_come_from_the_environment(
    shop: Path, walk: Path, deepir_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPIR_RUN_INDEX_PATH", str(shop))
    monkeypatch.setenv("DEEPIR_RUN_MAX_FRAMES", "2")
    assert len(lines_of(deepir_run(walk))) == 2


def test_an_index_of_one_label_is_a_match_with_one_warning(
    shop: Path, walk: Path, deepir_run: Command, deepir_index: Command
) -> None:
    for label in ("green", "blue", "yellow"):
        assert deepir_index("remove", shop, label).exit_code == 0
    result = deepir_run(walk, "--index", shop, "-q")
    assert {line["status"] for line in lines_of(result)} == {"match"}
    assert result.stderr.count("warning:") == 1
    assert deepir_run(walk, "--index", shop, "-q", "--threshold", "0.5").stderr == ""


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_end_cleanly(
    *,
    number: signal.Signals,
    exit_code: int,
    shop: Path,
    tmp_path: Path,
    deepir_run: Command,
    step_by_step: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    step_by_step(np.full((48, 64, 3), 200, np.uint8), 1000, {})
    note = Vitals.note

    def noted(vitals: Vitals, answer: Answer) -> None:
        note(vitals, answer)
        if vitals.results == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Vitals, "note", noted)
    result = deepir_run("anything", "--index", shop, "--save", tmp_path / "out.webm")
    assert result.exit_code == exit_code
    assert len(lines_of(result)) == 2
    assert "2 frames in" in result.stderr
    assert (tmp_path / "out.webm").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def _bad_inputs(folder: Path, shop: Path, walk: Path) -> dict[str, tuple[list[object], int, str]]:
    (folder / "bad.mp4").write_bytes(b"nonsense" * 500)
    (folder / "bad.usearch").write_bytes(shop.read_bytes()[:-1])
    (folder / "bad.onnx").write_bytes(b"nonsense")
    (folder / "a.engine").write_bytes(b"plan")
    (folder / "nothing").mkdir()
    good: list[object] = [walk, "--index", shop]
    return {
        "no camera": (["camera987", "--index", shop], 7, "camera987"),
        "no network": (["rtsp://u:secret@127.0.0.1:1/x", "--index", shop], 7, "rtsp://***@127.0.0.1:1/x"),
        "no file": ([folder / "no.mp4", "--index", shop], 3, "no such source"),
        "no video": ([folder / "bad.mp4", "--index", shop], 3, "cannot decode"),
        "no images": ([folder / "nothing", "--index", shop], 3, "no images"),
        "no index": ([walk, "--index", folder / "no.usearch"], 3, "cannot read the index"),
        "torn index": ([walk, "--index", folder / "bad.usearch"], 8, "deepir-index build"),
        "no model": ([*good, "--model", folder / "no.onnx"], 3, "no such model"),
        "torn model": ([*good, "--model", folder / "bad.onnx"], 3, "truncated or not an ONNX model"),
        "a plan": ([*good, "--model", folder / "a.engine"], 5, "an engine is code"),
        "other model": ([*good, "--model", folder / "other.onnx"], 8, "deepir-index rebuild"),
        "no cuda": ([*good, "--device", "cuda"], 4, "onnxruntime-gpu"),
        "no container": ([*good, "--save", folder / "out.gif"], 2, ".webm"),
        "no folder": ([*good, "--save", folder / "no" / "out.webm"], 3, "create the folder"),
        "no step": ([*good, "--every", 0], 2, "--every"),
        "no label": ([*good, "--topk", 0], 2, "1 or more"),
        "no similarity": ([*good, "--threshold", 7], 2, "between -1 and 1"),
        "no margin": ([*good, "--margin", 2], 2, "between 0 and 1"),
    }


def test_every_bad_input_is_one_sentence_with_its_exit_code(
    shop: Path,
    walk: Path,
    tmp_path: Path,
    write_model: Callable[..., Path],
    make_card: Callable[..., ModelCard],
    deepir_run: Command,
) -> None:
    write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    for name, (words, exit_code, part) in _bad_inputs(tmp_path, shop, walk).items():
        result = deepir_run(*words, "-q")
        assert (result.exit_code, result.stdout) == (exit_code, ""), (name, result.output)
        assert result.stderr.startswith("error: "), name
        assert result.stderr.count("\n") == 1, name
        assert part in result.stderr, name
        assert "secret" not in result.stderr


@pytest.mark.parametrize("source", ["bad.mp4", "camera987", "rtsp://u:secret@127.0.0.1:1/x"])
def test_no_library_adds_its_own_lines(shop: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nonsense" * 500)
    words = [sys.executable, "-m", "deepir.runtime.cli", source, "--index", str(shop)]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode in {3, 7}
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(shop: Path, walk: Path) -> None:
    words = [sys.executable, "-m", "deepir.runtime.cli", str(walk), "--index", str(shop), "-q"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_still_picture_is_a_frozen_camera_or_what_there_is_to_see(shop: Path, deepir_run: Command) -> None:
    still = "test://64x48@100?freeze=0"
    frozen = deepir_run(still, "--index", shop, "--frozen", "0.2")
    assert frozen.exit_code == 7
    assert re.search(r"same picture for \d+ seconds: restart the camera; where it looks at a still", frozen.stderr)
    seen = deepir_run(f"{still}&frames=50", "--index", shop, "--frozen", "off", "--on-lost", "wait")
    assert seen.exit_code == 0, seen.stderr
    assert lines_of(seen)
    for word in ("0", "nan", "soon"):
        wrong = deepir_run(still, "--index", shop, "--frozen", word)
        assert (wrong.exit_code, word in wrong.stderr) == (2, True), wrong.stderr


def test_a_camera_that_is_not_there_yet_is_waited_for_or_ends_the_program(shop: Path, deepir_run: Command) -> None:
    late = "test://64x48@30?absent=0.1s"
    waited = deepir_run(late, "--index", shop, "--on-lost", "wait", "--max-frames", 2)
    assert (waited.exit_code, len(lines_of(waited))) == (0, 2), waited.stderr
    # the seconds count from before the first try, which may come late on a busy machine
    absent = late.replace("0.1s", "60s")
    assert deepir_run(absent, "--index", shop, "--max-frames", 1).exit_code == 7


def test_cameras_are_listed_without_an_index(deepir_run: Command) -> None:
    result = deepir_run("--list-cameras")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(("camera", "no cameras"))
