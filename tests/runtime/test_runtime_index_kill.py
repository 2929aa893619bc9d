"""Writers of an index that are killed with SIGKILL: what was acknowledged stays, the rest is whole or not there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("crash_index.py")

KILLS = 120
"""Of each of two loops: with the flushes to the disk, and without, when more happens before each kill."""

FILES = {"shop.usearch", "shop.usearch.bak", "shop.usearch.bak.journal", ".shop.usearch.lock", "model.onnx", "log"}


def drive(*words: object) -> dict[str, Any]:
    """Run the driver, which checks everything after each kill, and give what it counted."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.parametrize("seed", [1, 2], ids=["without flushes", "with flushes"])
def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(seed: int, tmp_path: Path) -> None:
    facts = drive(tmp_path, KILLS, seed)
    assert facts["kills"] == KILLS
    assert facts["acknowledged"] > 0
    assert facts["under_way"] > 0


def test_files_that_killed_writers_left_half_written_go_with_the_next_save(tmp_path: Path) -> None:
    assert set(drive(tmp_path, 12, 3)["left"]) <= FILES


def test_a_kill_before_or_within_any_call_to_the_system_leaves_the_state_before_or_after(tmp_path: Path) -> None:
    facts = drive(tmp_path)
    assert min(facts.values()) > 4
    assert sum(facts.values()) > 100
