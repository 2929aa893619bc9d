"""RTAB-Map's calls of examples/rtabmap_deepir.py: init(dim), then extract(image) with OpenCV's pictures."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deepir.errors import EngineError, OptionError, ShapeError
from deepir.runtime.extractor import Extractor

FILE = Path(__file__).parents[2] / "examples" / "rtabmap_deepir.py"


@pytest.fixture
def script(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The file imported by its path, as RTAB-Map does, with its model named by the environment."""
    monkeypatch.setenv("DEEPIR_MODEL", str(tiny_model))
    spec = importlib.util.spec_from_file_location("rtabmap_deepir", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for extractor in module._opened:
        extractor.close()


def test_a_bgr_picture_gives_one_row_of_float32(script: ModuleType, tiny_model: Path) -> None:
    bgr = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    script.init(8)
    row = script.extract(bgr)
    assert (row.dtype, row.shape, row.flags.c_contiguous) == (np.float32, (1, 8), True)
    with Extractor.open(tiny_model) as extractor:
        np.testing.assert_allclose(row, extractor.describe([np.ascontiguousarray(bgr[:, :, ::-1])]), atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1)])
def test_a_grey_picture_is_taken_too(script: ModuleType, shape: tuple[int, ...]) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (48, 64), dtype=np.uint8)
    script.init(8)
    np.testing.assert_array_equal(script.extract(grey.reshape(shape)), script.extract(np.dstack([grey, grey, grey])))


def test_bytes_that_are_declared_as_signed_are_the_same_picture(script: ModuleType) -> None:
    bgr = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    script.init(8)
    np.testing.assert_array_equal(script.extract(bgr.view(np.int8)), script.extract(bgr))


def test_a_later_init_takes_the_place_of_the_first(script: ModuleType) -> None:
    script.init(8)
    first = script._opened[0]
    script.init(8)
    assert len(script._opened) == 1
    with pytest.raises(EngineError, match="was closed"):
        first.describe([np.zeros((48, 64, 3), np.uint8)])


def test_another_dimension_than_the_models_is_refused_with_the_right_one(script: ModuleType) -> None:
    with pytest.raises(OptionError, match="gives 8 values, RTAB-Map expects 4096: --PyDescriptor/Dim 8"):
        script.init(4096)


def test_without_a_model_the_variable_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPIR_MODEL")
    with pytest.raises(OptionError, match="set DEEPIR_MODEL to the model file"):
        script.init(8)


def test_extract_before_init_says_so(script: ModuleType) -> None:
    with pytest.raises(EngineError, match=r"call init\(dim\) first"):
        script.extract(np.zeros((48, 64, 3), np.uint8))


def test_what_is_no_picture_is_refused(script: ModuleType) -> None:
    script.init(8)
    with pytest.raises(ShapeError, match="float32"):
        script.extract(np.zeros((48, 64, 3), np.float32))
