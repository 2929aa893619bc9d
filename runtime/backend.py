"""What runs a model: one protocol, and the program that is taken for a file on this machine."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import ModelError, OptionError
from deepir.runtime.choice import choose_backend
from deepir.runtime.engine_beside import ENGINE_SUFFIXES
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.progress import Report
from deepir.runtime.trt import TensorRTBackend
from deepir.runtime.trt_rebuild import REBUILDS, Rebuild

Device = Literal["auto", "cpu", "cuda"]

DEVICES: tuple[Device, ...] = get_args(Device)

BackendName = Literal["auto", "tensorrt", "cuda", "openvino", "onnxruntime"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

AUTO_VARIABLE = "DEEPIR_BACKEND"
"""The environment variable that says which program `auto` is, where it shall not be measured."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """Where and how a model runs.

    Attributes:
        device: `cpu` leaves engines and CUDA out, `cuda` leaves the CPU out.
        backend: `auto` takes an engine that fits, else CUDA, else the faster of OpenVINO and ONNX Runtime, which is
            measured once for a file on a machine and remembered.
        threads: CPU threads for one run; 0 lets the program choose.
        trust_engine: Load a TensorRT engine that is not the one its sidecar describes; an engine is code.
        rebuild: Whether an engine of another TensorRT or GPU is built again from the ONNX file beside it.
        report: Is told what takes long, line by line.
    """

    device: Device = "auto"
    backend: BackendName = "auto"
    threads: int = 0
    trust_engine: bool = False
    rebuild: Rebuild = "auto"
    report: Report | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, choices in (("device", DEVICES), ("backend", BACKENDS), ("rebuild", REBUILDS)):
            if getattr(self, name) not in choices:
                message = f"the {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                raise OptionError(message)
        if self.threads < 0:
            message = f"the number of threads must be 0 or more, got {self.threads}"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model and why this program runs it, in words."""

    backend: Backend
    why: str


def open_backend(path: Path, options: BackendOptions | None = None) -> Opened:
    """Load a model with the program that its suffix, the options and this machine call for.

    Args:
        path: An .onnx file written by deepir-export or deepir-calib, or an engine that deepir-export built.
        options: By default everything is `auto`; then the variable DEEPIR_BACKEND may name the program.

    Raises:
        ModelError: The file is missing, damaged or was not made by deepir.
        EngineError: An engine that this machine cannot run, or of unknown origin.
        GateError: The program that was asked for gives other descriptors than ONNX Runtime.
        OptionError: Options that contradict each other or the file.
        MissingDependency: What was asked for is not installed or does not load.
    """
    options = options or BackendOptions()
    if path.suffix.lower() not in (".onnx", *ENGINE_SUFFIXES):
        message = f"{path} is not a model: expected a file ending in .onnx or .engine, written by deepir-export"
        raise ModelError(message)
    wish = _wish(path, options)
    chosen = choose_backend(path, wish, options.device, options.threads, options.report or (lambda _: None))
    openers: dict[BackendName, Callable[[], Backend]] = {
        "tensorrt": lambda: TensorRTBackend(
            chosen.path, trust=options.trust_engine, rebuild=options.rebuild, report=options.report
        ),
        "cuda": lambda: OnnxBackend(path, "cuda", threads=options.threads),
        "openvino": lambda: OpenVinoBackend(path, threads=options.threads),
        # asked for by name it takes CUDA where that loads; chosen by auto it was tried on the CPU
        "onnxruntime": lambda: OnnxBackend(
            path, options.device if wish == "onnxruntime" else "cpu", threads=options.threads
        ),
    }
    return Opened(openers[chosen.backend](), chosen.why)


def _wish(path: Path, options: BackendOptions) -> BackendName:
    named = os.environ.get(AUTO_VARIABLE, "auto")
    if options.backend != "auto" or path.suffix.lower() in ENGINE_SUFFIXES:
        return options.backend
    for name in BACKENDS:
        if name == named:
            return name
    message = f"{AUTO_VARIABLE} must be one of {', '.join(BACKENDS)}, got {named!r}"
    raise OptionError(message)
