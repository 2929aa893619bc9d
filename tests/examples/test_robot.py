"""examples/robot.py over pictures in a folder: it announces what several of them in a row show."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest

ROBOT = Path(__file__).parents[2] / "examples" / "robot.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROBOT, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def walk(tmp_path: Path, colour: Callable[..., np.ndarray]) -> Path:
    """Four pictures of a red thing, one of a blue one, four of a green one."""
    folder, rng = tmp_path / "walk", np.random.default_rng(5)
    folder.mkdir()
    for number, name in enumerate(["red"] * 4 + ["blue"] + ["green"] * 4):
        cv2.imwrite(str(folder / f"{number}.png"), np.ascontiguousarray(colour(name, rng)[:, :, ::-1]))
    return folder


def test_what_several_frames_show_is_announced_once(walk: Path, shop_index: Path) -> None:
    done = run(walk, shop_index)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == ["I see red", "I see green"]


def test_a_missing_index_is_one_sentence(walk: Path) -> None:
    done = run(walk, walk / "none.usearch")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_it_without_a_traceback(
    walk: Path, shop_index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_text: str) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("deepir.runtime.open_source", interrupted)
    monkeypatch.setattr(sys, "argv", ["robot.py", str(walk), str(shop_index)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROBOT), run_name="__main__")
    assert (ended.value.code, capsys.readouterr()) == (130, ("", ""))


def test_without_its_words_it_says_how_it_is_called() -> None:
    assert run().stderr == "usage: python robot.py SOURCE INDEX\n"
