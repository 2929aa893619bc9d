"""TensorRT: runs an engine that our builder made, of full TensorRT or of TensorRT-RTX."""

import os
import platform
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import DeepIRError, EngineError, ModelError
from deepir.runtime.cuda import Cuda, open_cuda
from deepir.runtime.progress import Report
from deepir.runtime.roi_plugin import register_plugin
from deepir.runtime.run_checks import check_arrays, check_descriptors
from deepir.runtime.sidecar import EngineRecord, GpuInfo, read_record
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt, make_logger, tensorrt_version
from deepir.runtime.trt_provenance import Machine, library_name, stale_reasons, trusted_plan
from deepir.runtime.trt_rebuild import Rebuild, rebuild_engine, rebuild_hint
from deepir.runtime.trt_session import EngineSession, Loaded, last_words
from deepir.runtime.trt_shapes import check_tensors


class TensorRTBackend:
    """An engine, ready to run.

    It may be opened in one thread and used in others: runs wait for each other, and each makes the GPU's primary
    context current in its own thread and the one before it afterwards.

    Attributes:
        card: What the engine's sidecar says of the model.
        record: The whole sidecar.
        name: Such as "TensorRT 10.3.0, Orin (8.7)".
    """

    def __init__(
        self,
        engine: Path,
        *,
        trust: bool = False,
        rebuild: Rebuild = "auto",
        graph: bool = True,
        report: Report | None = None,
    ) -> None:
        """Load an engine.

        Args:
            engine: Written by deepir-export; X.engine.json lies beside X.engine.
            trust: Load it although its content is not the one that the sidecar was written for. An engine is code.
            rebuild: Build it again from the ONNX file beside it: when it does not fit this machine, never, or now.
            graph: Run shapes that come again as CUDA graphs.
            report: Is told what a rebuild does, line by line.

        Raises:
            EngineError: No sidecar, another content, built for another TensorRT or GPU, or TensorRT refuses it.
            ModelError: The file or its sidecar is missing or damaged.
            MissingDependency: This machine lacks TensorRT, a GPU, or what a rebuild needs.
        """
        self._path, self._process = engine, os.getpid()
        self._lock = threading.Lock()
        if not engine.is_file():
            message = f"no such model: {engine}"
            raise ModelError(message)
        record = read_record(engine)
        trt = load_tensorrt(Flavour(record.flavour))
        self._cuda = open_cuda()
        machine = _machine(trt, self._cuda)
        self.record, plan = _ready_plan(engine, record, machine, _Wish(trust, rebuild, report))
        self.card: ModelCard = self.record.card
        gpu = machine.gpu
        library = library_name(self.record.flavour)
        self.name = f"{library} {machine.tensorrt_version}, {gpu.name} ({gpu.compute_capability})"
        with self._cuda.current():
            if self.record.plugin == "python":
                register_plugin(trt)
            loaded = _loaded(trt, plan, self.record, engine)
            self._session: EngineSession | None = EngineSession(loaded, self._cuda, graph=graph)

    def run(self, *arrays: NDArray[Any]) -> Descriptors:
        """The engine's inputs, in the order of `ModelCard.inputs`, give (N, D) descriptors of length 1.

        Raises:
            ShapeError: Not such inputs, or of a size that the engine was not built for.
            EngineError: TensorRT or the GPU refuses, the engine was closed, or this process is a fork of its owner.
            ModelError: The engine gives NaN or infinity.
        """
        check_arrays(self.card, arrays)
        # before the lock, which a fork may have copied while it was held
        if os.getpid() != self._process:
            message = (
                f"{self._path} was opened before this process was forked, and CUDA does not survive that: "
                "start the process by spawn and open the engine in it"
            )
            raise EngineError(message)
        with self._lock:
            if self._session is None:
                message = f"the engine {self._path} was closed"
                raise EngineError(message)
            with self._cuda.current():
                descriptors_nd = self._session.run(dict(zip(self.card.inputs(), arrays, strict=True)))
        return check_descriptors(descriptors_nd, self._path)

    def close(self) -> None:
        """Give the GPU's memory back; the backend cannot run any more. In a forked process this does nothing."""
        if os.getpid() != self._process:
            return
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                with self._cuda.current():
                    session.close()
                self._cuda.close()

    def __enter__(self) -> "TensorRTBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Wish:
    trust: bool
    rebuild: Rebuild
    report: Report | None


def _machine(trt: Any, cuda: Cuda) -> Machine:
    gpu = GpuInfo(cuda.device_name(), cuda.compute_capability(), cuda.memory_mib())
    return Machine(tensorrt_version(trt), gpu, platform.machine())


def _ready_plan(engine: Path, record: EngineRecord, machine: Machine, wish: _Wish) -> tuple[EngineRecord, bytes]:
    """The engine that is to be loaded, built again where that was wished or is needed."""
    if wish.rebuild == "always":
        record = rebuild_engine(engine, record, wish.report)
    hint = rebuild_hint(record, engine)
    plan = trusted_plan(engine, record, hint, trust=wish.trust)
    reasons = stale_reasons(record, machine)
    if reasons and wish.rebuild == "auto":
        try:
            record = rebuild_engine(engine, record, wish.report)
        except DeepIRError as error:
            message = f"{engine} was {' and '.join(reasons)}; {error}"
            raise type(error)(message) from error
        plan = trusted_plan(engine, record, hint)
        reasons = stale_reasons(record, machine)
    if reasons:
        message = f"{engine} was {' and '.join(reasons)}: build it again with: {hint}"
        raise EngineError(message)
    return record, plan


def _loaded(trt: Any, plan: bytes, record: EngineRecord, path: Path) -> Loaded:
    """Let TensorRT read a plan; it answers None, not an exception, when it cannot."""
    log, runtime = make_logger(trt), None
    try:
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(plan)
    except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer or a C++ exception
        log.lines.append(("ERROR", str(error)))
        engine = None
    if engine is None:
        message = (
            f"{library_name(record.flavour)} {tensorrt_version(trt)} cannot load {path} ({last_words(log)}): "
            f"build it again with: {rebuild_hint(record, path)}"
        )
        raise EngineError(message)
    check_tensors(trt, engine, record.card, path)
    return Loaded(trt, engine, record.card, log, runtime)
