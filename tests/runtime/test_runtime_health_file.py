"""The health file: written by the loop once a second, and read by whoever watches it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from deepir.errors import DeepIRError, InputError
from deepir.runtime import Recogniser
from deepir.runtime.health_file import HealthFile, check_health, status_of
from deepir.runtime.recording import ImageFiles
from deepir.runtime.vitals import Vitals

Command = Callable[..., Result]


@pytest.fixture
def vitals(shop: Path) -> Iterator[Vitals]:
    with Recogniser.open(shop) as recogniser:
        yield Vitals(recogniser, ImageFiles([], "pictures"))


def read(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def test_it_is_written_once_a_second_and_always_whole(
    tmp_path: Path, vitals: Vitals, make_answer: Callable[..., Any]
) -> None:
    seconds = [0.0]
    path = tmp_path / "health.json"
    health = HealthFile(path, lambda: seconds[0])
    assert read(path)["status"] == "starting"
    written = []
    for moment in (0.0, 0.4, 0.9, 1.0, 1.5, 2.1):
        seconds[0] = moment
        vitals.note(make_answer(len(written)))
        health.beat(vitals)
        written.append(read(path)["results"])
    assert written == [1, 1, 1, 4, 4, 6]
    assert read(path)["status"] == "running"
    health.end(vitals)
    assert read(path)["status"] == "stopped"
    assert os.listdir(tmp_path).count("health.json") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".health")]


def test_a_folder_that_is_missing_is_refused_at_once_and_one_that_vanishes_is_no_end(
    tmp_path: Path, vitals: Vitals
) -> None:
    with pytest.raises(InputError, match="cannot write"):
        HealthFile(tmp_path / "missing" / "health.json")
    (tmp_path / "run").mkdir()
    health = HealthFile(tmp_path / "run" / "health.json")
    (tmp_path / "run" / "health.json").unlink()
    (tmp_path / "run").rmdir()
    health.beat(vitals)


@pytest.mark.parametrize(
    ("results", "camera", "status"),
    [
        (0, {}, "starting"),
        (1, {}, "running"),
        (0, {"status": "connecting", "outages": 0}, "starting"),
        (0, {"status": "lost", "outages": 1}, "waiting"),
        (5, {"status": "lost", "outages": 1}, "waiting"),
        (5, {"status": "stale", "outages": 0}, "waiting"),
        (5, {"status": "live", "outages": 3}, "running"),
    ],
)
def test_the_status_says_whether_frames_come(results: int, camera: dict[str, Any], status: str) -> None:
    report = {"results": results, "source": camera, "loop_s": 0.2, "stuck_s": 29.0}
    assert status_of(report) == status
    assert status_of({**report, "loop_s": 10.1}) == "hanging"
    assert status_of({**report, "stuck_s": 30.1}) == "hanging"


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"status": "running", "written": -60}, "was written 60 seconds ago: the program hangs or was killed"),
        (
            {"status": "waiting", "written": 0, "source": {"trouble": {"kind": "lost", "sentence": "unplugged"}}},
            "deepir-run is waiting: unplugged",
        ),
        ({"status": "running", "written": 3600}, "seconds in the future and not again"),
        ({"status": "stopped", "written": 0}, "deepir-run is stopped"),
        ({"status": "stopped", "written": -3600}, "deepir-run is stopped"),
        ({"status": "stopped", "written": 3600}, "deepir-run is stopped"),
    ],
)
def test_what_is_not_well_is_one_sentence(facts: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_text(json.dumps({**facts, "written": time.time() + facts["written"]}))
    with pytest.raises(DeepIRError, match=sentence):
        check_health(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"status": "running", "written": "today"}'])
def test_what_is_no_health_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(InputError, match="is not a health file"):
        check_health(tmp_path / "other.json")
    with pytest.raises(InputError, match="started with --health-file"):
        check_health(tmp_path / "missing.json")


def test_a_run_writes_it_and_the_check_of_a_container_understands_it(
    shop: Path, catalogue: Path, tmp_path: Path, deepir_run: Command
) -> None:
    path = tmp_path / "health.json"
    assert deepir_run(catalogue, "--index", shop, "--health-file", path).exit_code == 0
    assert read(path)["status"] == "stopped"
    assert read(path)["results"] == 12
    words = [sys.executable, "-m", "deepir.runtime.health_file", str(path)]
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (1, "error: deepir-run is stopped\n")
    path.write_text(json.dumps({**read(path), "status": "running", "written": time.time()}))
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "running\n")


def test_a_folder_in_its_place_is_refused_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "health.json").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        HealthFile(tmp_path / "health.json")
    assert os.listdir(tmp_path) == ["health.json"]
