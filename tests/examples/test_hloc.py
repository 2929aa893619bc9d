"""hloc's calls of examples/hloc_deepir.py: Model(conf).eval().to(device), then model({"image": tensor})."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from deepir.errors import OptionError, ShapeError
from deepir.runtime.extractor import Extractor

torch = pytest.importorskip("torch", reason="needs torch")

FILE = Path(__file__).parents[2] / "examples" / "hloc_deepir.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hloc_deepir", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_hloc_reads(image: np.ndarray) -> Any:
    """(1, 3, H, W) float 0..1, as hloc's loader makes of a picture."""
    return torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1) / 255.0)[None]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_a_picture_gives_the_descriptor_of_deepir(tiny_model: Path, image: np.ndarray) -> None:
    model = load().DeepIR({"name": "deepir", "model": str(tiny_model)}).eval().to("cpu")
    with torch.no_grad():
        answer = model({"image": as_hloc_reads(image)})
    assert list(answer) == ["global_descriptor"]
    assert answer["global_descriptor"].shape == (1, 8)
    with Extractor.open(tiny_model) as extractor:
        np.testing.assert_array_equal(answer["global_descriptor"].numpy(), extractor.describe([image]))


def test_a_batch_gives_a_row_for_each(tiny_model: Path, image: np.ndarray) -> None:
    model = load().DeepIR({"model": tiny_model})
    both = torch.cat([as_hloc_reads(image), as_hloc_reads(image[::-1])])
    assert model({"image": both})["global_descriptor"].shape == (2, 8)


def test_values_beyond_the_range_are_cut(tiny_model: Path) -> None:
    model = load().DeepIR({"model": tiny_model})
    beyond, white = torch.full((1, 3, 48, 64), 1.01), torch.ones((1, 3, 48, 64))
    rows = [model({"image": image})["global_descriptor"] for image in (beyond, white)]
    assert torch.equal(*rows)


def test_without_a_model_the_configuration_is_shown() -> None:
    with pytest.raises(OptionError, match=r"'model': 'student\.onnx'"):
        load().DeepIR({"name": "deepir"})


def test_a_grey_picture_is_refused(tiny_model: Path) -> None:
    model = load().DeepIR({"model": tiny_model})
    with pytest.raises(ShapeError, match=r"got \(1, 1, 48, 64\): leave out 'grayscale'"):
        model({"image": torch.ones((1, 1, 48, 64))})


def test_with_hloc_its_own_base_class_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeBaseModel:
        """Stands for hloc's, which is not installed here."""

    fakes = {name: ModuleType(name) for name in ("hloc", "hloc.utils", "hloc.utils.base_model")}
    fakes["hloc.utils.base_model"].__dict__["BaseModel"] = FakeBaseModel
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    module = load()
    classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == "hloc_deepir"]
    # hloc takes the one class that its file defines
    assert classes == [module.DeepIR]
    assert issubclass(module.DeepIR, FakeBaseModel)
