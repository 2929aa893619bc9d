"""What benchmarks/export.py times in ONNX Runtime and OpenVINO, each in a process of its own and without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.optional import need
from deepir.regions import Windows, map_windows
from deepir.runtime.backend import Backend
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.openvino_model import PrecisionHint
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.self_check import proof_inputs
from deepir.spec import Size

Run = Callable[[], object]

WEIGHT_SUFFIXES = (".safetensors", ".pth")
ONLY_FATAL = 4


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture at its sizes."""

    trunk: str
    sizes: tuple[Size, ...]

    @property
    def words(self) -> str:
        sides = "+".join(str(height) for height, _ in self.sizes)
        return f"{self.trunk.partition(':')[2]} at {sides}"


@dataclass(frozen=True, slots=True)
class PoolShape:
    """A map of side x side cells, and the levels of the grid pooled from it."""

    channels: int
    side: int
    levels: int

    @property
    def windows(self) -> Windows:
        return map_windows(self.side, self.side, self.levels)

    @property
    def cells(self) -> NDArray[np.float32]:
        generator = np.random.default_rng(0)
        return generator.random((1, self.channels, self.side, self.side), dtype=np.float32)


def weights_of(trunk: str, folder: Path | None) -> Path | None:
    """FOLDER/NAME.safetensors or .pth with a state dict of the library's own model, where there is one."""
    name = trunk.partition(":")[2]
    candidates = [] if folder is None else [folder / f"{name}{suffix}" for suffix in WEIGHT_SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def pool_path(folder: Path, name: str) -> Path:
    """Where the form of this name lies."""
    return folder / f"{name.replace(' ', '_').replace(',', '')}.onnx"


def onnx_model(path: Path, device: str) -> Run:
    """A file in ONNX Runtime, on `cpu` or `cuda`."""
    return _backend(OnnxBackend(path, device))


def openvino_model(path: Path, hint: PrecisionHint, cache: Path) -> Run:
    """A file in OpenVINO; whether its descriptors pass the proof is not asked here."""
    return _backend(OpenVinoBackend(path, hint=hint, cache=cache))


def onnx_pool(path: Path, shape: PoolShape) -> Run:
    """A pooling on its own in ONNX Runtime, on the CPU."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    cells = shape.cells
    return lambda: session.run(None, {"x": cells})


def openvino_pool(path: Path, shape: PoolShape) -> Run:
    """A pooling on its own in OpenVINO, in FP32."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request: Any = need("openvino").Core().compile_model(path, "CPU", options).create_infer_request()
    cells = shape.cells
    return lambda: request.infer([cells], share_inputs=True)


def _backend(backend: Backend) -> Run:
    arrays = next(proof_inputs(backend.card))
    return lambda: backend.run(*arrays)
