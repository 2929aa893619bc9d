"""The engine that lies beside an ONNX file and was built from it, for the TensorRT of this machine."""

import platform
from dataclasses import dataclass
from pathlib import Path

from deepir.errors import DeepIRError, MissingDependency
from deepir.files import file_sha256
from deepir.runtime.sidecar import EngineRecord, GpuInfo, read_record
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt, tensorrt_version
from deepir.runtime.trt_provenance import Machine, library_name, stale_reasons

ENGINE_SUFFIXES = (".engine", ".plan")


@dataclass(frozen=True, slots=True)
class Beside:
    """The newest engine that fits, if any, and why others of the same file do not."""

    engine: Path | None
    note: str = ""


def find_engine(onnx: Path) -> Beside:
    """Look for engines built from exactly this file; their sidecars are read, the engines are not opened.

    Raises:
        InputError: The ONNX file cannot be read.
    """
    engines = [path for suffix in ENGINE_SUFFIXES for path in onnx.parent.glob(f"*{suffix}")]
    described = [(path, record) for path in engines if (record := _record(path)) is not None]
    if not described:
        return Beside(None)
    content = file_sha256(onnx)
    ours = [(path, record) for path, record in described if record.onnx_sha256 == content]
    notes: list[str] = []
    for path, record in sorted(ours, key=lambda pair: pair[1].built_at, reverse=True):
        obstacle = _obstacle(record)
        if obstacle is None:
            return Beside(path)
        notes.append(f"{path.name} is passed over: {obstacle}")
    return Beside(None, "; ".join(notes))


def _record(engine: Path) -> EngineRecord | None:
    try:
        return read_record(engine)
    except DeepIRError:
        return None


def _obstacle(record: EngineRecord) -> str | None:
    """Why an engine is not for this machine; whether it is for this GPU is found when it is loaded."""
    if record.gate is None:
        return "it was never run and proven; build it again on this machine"
    try:
        installed = tensorrt_version(load_tensorrt(Flavour(record.flavour)))
    except MissingDependency:
        return f"{library_name(record.flavour)} is not installed here"
    gpu = record.gpu or GpuInfo("", next(iter(record.compute_capabilities), ""), 0)
    reasons = stale_reasons(record, Machine(installed, gpu, platform.machine()))
    return f"{' and '.join(reasons)}; build it again" if reasons else None
