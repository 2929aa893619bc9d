"""The demonstration runs from the rendering to the report, with the real commands."""

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "shop" / "run_demo.py"


@pytest.mark.slow
def test_the_quick_demonstration_runs_to_its_end(tmp_path: Path) -> None:
    words = [sys.executable, DEMO, tmp_path / "shop", "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of the gap closed" in done.stdout or "gained nothing" in done.stdout
    for name in ("report.html", "shop.usearch", "student.int8.onnx", "walk_annotated.webm", "walk_results.jsonl"):
        assert (tmp_path / "shop" / name).stat().st_size > 0
