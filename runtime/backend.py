"""What runs a model: one protocol, and the choice by the file's suffix."""

from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import EngineError, ModelError
from deepir.runtime.ort import OnnxBackend

Device = Literal["auto", "cpu", "cuda"]

DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

_PLAN_SUFFIXES = (".engine", ".plan")


class Backend(Protocol):
    """A loaded model.

    Attributes:
        card: What the model file says of itself.
        name: The program and the device that really run it, for example "ONNX Runtime, CPU".
    """

    card: ModelCard
    name: str

    def run(self, *arrays: NDArray[Any]) -> Descriptors:
        """What `deepir.inputs.model_inputs` makes of pictures, in its order, gives (N, D) descriptors of length 1."""

    def close(self) -> None:
        """Give the memory back; the backend cannot run any more."""

    def __enter__(self) -> "Backend": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_backend(path: Path, device: Device = "auto", *, threads: int = 0) -> Backend:
    """Load a model with the program that its suffix asks for.

    Args:
        path: An .onnx file written by deepir-export or deepir-calib.
        device: `auto` takes CUDA where it really loads, else the CPU.
        threads: CPU threads for one run; 0 lets the program choose.

    Raises:
        ModelError: The file is missing, damaged or was not made by deepir.
        EngineError: A TensorRT plan.
        MissingDependency: `cuda` was asked for and does not load.
    """
    suffix = path.suffix.lower()
    if suffix in _PLAN_SUFFIXES:
        message = f"{path}: TensorRT plans are not run yet by this version; run the .onnx it was built from"
        raise EngineError(message)
    if suffix != ".onnx":
        message = f"{path} is not a model: expected a file ending in .onnx, written by deepir-export"
        raise ModelError(message)
    return OnnxBackend(path, device, threads=threads)
