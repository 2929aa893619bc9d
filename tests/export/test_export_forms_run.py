"""Every form of file, through the extractor that a robot uses, gives what torch gives of the same pictures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.calib.onnx_file import write_onnx
from deepir.card import PixelType
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe
from deepir.export.graph import build_onnx
from deepir.runtime import Extractor, Index, Recogniser
from deepir.runtime.backend import BackendOptions
from deepir.runtime.recogniser import Judgement

MakeModel = Callable[..., Model]

FORMS: dict[str, dict[str, Any]] = {
    "one size": {"sizes": ((64, 96),)},
    "three resolutions": {"sizes": ((32, 48), (64, 96), (96, 144))},
    "alternatives": {"sizes": ((64, 96), (96, 64), (80, 80)), "resize": "nearest"},
    "free size": {"sizes": ((96, 96),), "resize": "longest"},
    "three free resolutions": {"sizes": ((48, 48), (96, 96), (144, 144)), "resize": "longest"},
}


def pictures() -> list[np.ndarray]:
    """Lying, standing and square ones."""
    rng = np.random.default_rng(5)
    sizes = [(60, 90), (90, 60), (75, 75), (60, 90), (50, 120)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(
    scope="module", params=[(form, pixels) for form in FORMS for pixels in ("float32", "uint8")], ids="-".join
)
def exported(
    request: pytest.FixtureRequest, make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Path]:
    """The torch model and its file."""
    form, pixels = request.param
    return _export(make_model, FORMS[form], pixels, tmp_path_factory.mktemp("form") / "model.onnx")


def _export(make_model: MakeModel, fields: dict[str, Any], pixels: PixelType, path: Path) -> tuple[Model, Path]:
    made = make_model(dim=6)
    model = Model(made.network, dataclasses.replace(made.spec, **fields))
    write_onnx(build_onnx(model, pixels=pixels), path)
    return model, path


@pytest.mark.parametrize(("backend", "tolerance"), [("onnxruntime", 1e-5), ("openvino", 1e-2)])
def test_the_extractor_gives_what_torch_gives(exported: tuple[Model, Path], backend: Any, tolerance: float) -> None:
    if backend == "openvino":
        # which may compute in bfloat16
        pytest.importorskip("openvino")
    model, path = exported
    with Extractor.open(path, BackendOptions(backend=backend), batch_size=4) as extractor:
        np.testing.assert_allclose(extractor.describe(pictures()), describe(model, pictures()), atol=tolerance)


def test_a_box_is_cut_out_as_in_torch(exported: tuple[Model, Path]) -> None:
    model, path = exported
    boxes = [(10.0, 5.0, 50.0, 45.0), None, (0.0, 0.0, 70.0, 40.0), (20.0, 0.0, 60.0, 60.0), None]
    with Extractor.open(path) as extractor:
        found = extractor.describe(pictures(), boxes)
    np.testing.assert_allclose(found, describe(model, pictures(), boxes), atol=1e-5)


def test_the_recogniser_names_what_it_was_shown(exported: tuple[Model, Path], tmp_path: Path) -> None:
    _, path = exported
    index_path = tmp_path / "shop.usearch"
    with Extractor.open(path) as extractor:
        index = Index.create(extractor.card, path)
        for number, picture in enumerate(pictures()):
            index.add(f"thing {number}", extractor.describe([picture]), [f"{number}.png"])
        index.save(index_path)
    with Recogniser.open(index_path, judgement=Judgement(threshold=0.9, margin=0)) as recogniser:
        named = [recogniser(picture).label for picture in pictures()]
    assert named == [f"thing {number}" for number in range(5)]
