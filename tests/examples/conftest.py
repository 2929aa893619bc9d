"""The tiny model, pictures and index of the runtime's tests, for programs that embed it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from deepir.runtime.index_cli import main as index_main


def _runtime_parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "runtime_parts", Path(__file__).parents[1] / "runtime" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = _runtime_parts()


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    path: Path = PARTS.write_model(tmp_path / "tiny.onnx", card=PARTS.make_card())
    return path


@pytest.fixture
def colour() -> object:
    """colour("red", rng) is a picture of that colour."""
    return PARTS.picture


@pytest.fixture
def shop_index(tmp_path: Path, tiny_model: Path) -> Path:
    """An index of red, green, blue and yellow things, three views each."""
    rng = np.random.default_rng(7)
    for name in PARTS.COLOURS:
        for number in range(3):
            PARTS.write_picture(tmp_path / "catalogue" / name / f"{number}.png", PARTS.picture(name, rng))
    path = tmp_path / "shop.usearch"
    words = ["build", str(path), str(tmp_path / "catalogue"), "--model", str(tiny_model)]
    done = CliRunner().invoke(index_main, words)
    assert done.exit_code == 0, done.output
    return path
