"""What the tests of the engine builder share: small ONNX files, FakeTensorRT, the real bindings of TensorRT."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepir.calib.calibrate import CalibrationConfig, calibrate
from deepir.calib.images import choose_images
from deepir.calib.onnx_file import Describer, read_card, write_onnx
from deepir.calib.precision import to_fp16
from deepir.distill.checkpoint import Model
from deepir.export import engine_blueprint
from deepir.export.engine_machine import Gpu
from deepir.export.graph import build_onnx
from deepir.runtime.sidecar import GpuInfo

FAKE_FOLDER = Path(__file__).with_name("fake_tensorrt")


@pytest.fixture(scope="session")
def onnx_files(
    make_model: Callable[..., Model], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The files tiny.onnx, tiny.fp16.onnx and tiny.int8.onnx of one model at 64x64, by precision."""
    folder = tmp_path_factory.mktemp("onnx")
    master = build_onnx(make_model(dim=6))
    card = read_card(master)
    chosen = choose_images([pictures], Describer(master, card), spec=card.spec)
    int8 = calibrate(master, card, chosen, CalibrationConfig()).proto
    protos = {"fp32": master, "fp16": to_fp16(master), "int8": int8}
    files = {name: folder / ("tiny.onnx" if name == "fp32" else f"tiny.{name}.onnx") for name in protos}
    for name, path in files.items():
        write_onnx(protos[name], path)
    return files


@dataclass(frozen=True)
class FakeTensorRT:
    """FakeTensorRT, set up for this process and its children."""

    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def use(self, version: str = "10.3.0", does: str = "build") -> Any:
        """Make `import tensorrt` give the form of a version that does so when it builds."""
        self.monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
        self.monkeypatch.setenv("FAKE_TENSORRT_DOES", does)
        self.monkeypatch.setenv("FAKE_TENSORRT_TRACE", str(self.folder / "trace.json"))
        self.monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        return importlib.import_module("tensorrt")

    def trace(self) -> dict[str, Any]:
        """What the last build was told."""
        fields: dict[str, Any] = json.loads((self.folder / "trace.json").read_text())
        return fields


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeTensorRT:
    """FakeTensorRT on the path, a GPU that is not there, and a cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("fake")
    monkeypatch.syspath_prepend(str(FAKE_FOLDER))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FAKE_FOLDER), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    gpu = Gpu(GpuInfo("Fake Orin", "8.7", 7620), "12.6")
    monkeypatch.setattr(engine_blueprint, "this_gpu", lambda: gpu)
    return FakeTensorRT(monkeypatch, folder)
