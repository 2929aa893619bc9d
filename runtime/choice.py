"""--backend: which program runs a model here, and why; measured once where two would serve, then remembered."""

import datetime
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepir.errors import EngineError, ModelError, OptionError
from deepir.files import file_sha256
from deepir.optional import need
from deepir.runtime import choice_probe
from deepir.runtime.cache import cache_folder, cache_key, keep_record, kept_record, machine_name
from deepir.runtime.choice_probe import Probe, read_probe
from deepir.runtime.engine_beside import ENGINE_SUFFIXES, find_engine
from deepir.runtime.openvino_vnni import fp32_beside, lacks_vnni
from deepir.runtime.progress import Report

if TYPE_CHECKING:
    from deepir.runtime.backend import BackendName, Device

_SCHEMA = "deepir.choice/1"
_PACKAGES = ("deepir", "openvino", "onnxruntime", "onnxruntime-gpu")
_GPU_FILES = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu", "/dev/dxg")))
_WORDS = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "cuda": "ONNX Runtime, CUDA"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What runs a model.

    Attributes:
        backend: "tensorrt", "cuda", "openvino" or "onnxruntime".
        path: The file to open: the model, or the engine found beside it.
        why: One line for people.
    """

    backend: "BackendName"
    path: Path
    why: str


def choose_backend(
    path: Path, wish: "BackendName", device: "Device", threads: int, report: Report = lambda _: None
) -> Chosen:
    """An engine that fits, else CUDA where it loads, else the faster of OpenVINO and ONNX Runtime on the CPU.

    Where two programs would serve, each is tried in a process of its own: seconds, the first time for a file on a
    machine. The outcome is remembered in `cache_folder()`, by the file's content, the processor and the versions.

    Args:
        path: An .onnx file or an engine.
        wish: What is not "auto" is taken, or refused.
        device: "cpu" leaves engines and CUDA out; "cuda" leaves the CPU out.
        threads: CPU threads; 0 lets the programs choose.
        report: Is told when programs are about to be tried.

    Raises:
        OptionError: A wish that contradicts the file or the device.
        EngineError: TensorRT was wished and there is no engine that fits.
        ModelError: There is no such file.
        InputError: It cannot be read.
    """
    _check(path, wish, device)
    if not path.is_file():
        message = f"no such model: {path}"
        raise ModelError(message)
    if path.suffix.lower() in ENGINE_SUFFIXES:
        return Chosen("tensorrt", path, f"TensorRT: {path.name} is an engine")
    if wish == "tensorrt":
        return _engine(path)
    if wish != "auto":
        return Chosen(wish, path, f"{_WORDS[wish]}: asked for")
    note = ""
    if device != "cpu" and _has_gpu():
        beside = find_engine(path)
        if beside.engine is not None:
            return Chosen("tensorrt", beside.engine, f"TensorRT: {beside.engine.name} was built from {path.name}")
        note = beside.note
    if device == "cuda":
        return Chosen("cuda", path, _joined("ONNX Runtime, CUDA: asked for with --device cuda", note))
    backend, why = _measured_choice(path, device, threads, report)
    faster = _faster_form(path) if backend == "onnxruntime" else ""
    return Chosen(backend, path, _joined(_joined(why, faster), note))


def decide(probes: Mapping[str, Probe], measured: str) -> "tuple[BackendName, str]":
    """The program to take and why, from what came of trying.

    Args:
        probes: By "cuda", "openvino", "onnxruntime"; what was not tried is not there.
        measured: The day.
    """
    day = f"measured {measured}"
    cuda, openvino, plain = (probes.get(name, Probe(None)) for name in ("cuda", "openvino", "onnxruntime"))
    if cuda.milliseconds is not None:
        return "cuda", f"ONNX Runtime, CUDA: {cuda.milliseconds:.1f} ms ({day})"
    if plain.note:
        return "onnxruntime", f"ONNX Runtime: {plain.note}"
    if openvino.milliseconds is None:
        refused = f"OpenVINO is passed over: {openvino.note} ({day})" if openvino.note else "the one program for this"
        return "onnxruntime", f"ONNX Runtime: {refused}"
    proven = f", {openvino.note}" if openvino.note else ""
    ours, theirs = openvino.milliseconds, plain.milliseconds
    if theirs is None:
        return "openvino", f"OpenVINO: {ours:.1f} ms{proven} ({day})"
    if theirs < ours:
        return "onnxruntime", f"ONNX Runtime: {theirs:.1f} ms against {ours:.1f} ms in OpenVINO ({day})"
    return "openvino", f"OpenVINO: {ours:.1f} ms against {theirs:.1f} ms in ONNX Runtime{proven} ({day})"


def choice_path(path: Path, device: str, threads: int) -> Path | None:
    """Where the choice for a file is remembered; None without a cache.

    Raises:
        InputError: The file cannot be read.
    """
    folder = cache_folder()
    if folder is None:
        return None
    versions = [_version(package) for package in _PACKAGES]
    return folder / "choice" / f"{cache_key(file_sha256(path), versions, device, threads, _has_gpu())}.json"


def _check(path: Path, wish: str, device: str) -> None:
    is_engine = path.suffix.lower() in ENGINE_SUFFIXES
    if is_engine and (wish not in ("auto", "tensorrt") or device == "cpu"):
        asked = f"--device {device}" if device == "cpu" else f"--backend {wish}"
        message = f"{path} is a TensorRT engine and runs on its GPU alone: leave out {asked}, or give the .onnx"
        raise OptionError(message)
    contradicts = {"cpu": ("tensorrt", "cuda"), "cuda": ("openvino",)}.get(device, ())
    if wish in contradicts:
        message = f"--backend {wish} and --device {device} contradict each other: leave one of them out"
        raise OptionError(message)


def _engine(path: Path) -> Chosen:
    beside = find_engine(path)
    if beside.engine is None:
        why = beside.note or f"no engine built from {path.name} lies beside it"
        message = f"{why}: build one on this machine with deepir-export {path} --backend tensorrt"
        raise EngineError(message)
    return Chosen("tensorrt", beside.engine, f"TensorRT: asked for, {beside.engine.name} was built from {path.name}")


def _measured_choice(path: Path, device: str, threads: int, report: Report) -> "tuple[BackendName, str]":
    has_openvino = importlib.util.find_spec("openvino") is not None
    has_gpu = device != "cpu" and _has_gpu()
    if not has_openvino and not has_gpu:
        return decide({}, "")
    record = choice_path(path, device, threads)
    remembered = None if record is None else _remembered(record)
    if remembered is not None:
        return decide(*remembered)
    report(f"trying which program runs {path.name} best here; the outcome is remembered")
    probes = _probe_all(path, threads, cuda=has_gpu and _lists_cuda(), openvino=has_openvino)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    choice, why = decide(probes, today)
    # where nothing runs, the file is to blame and not the programs
    if record is not None and any(probe.milliseconds is not None for probe in probes.values()):
        fields = {"file": path.name, "machine": machine_name(), "versions": {p: _version(p) for p in _PACKAGES}}
        tried = {name: asdict(probe) for name, probe in probes.items()}
        if not keep_record(record, _SCHEMA, {**fields, "measured": today, "probes": tried}):
            why += f"; measured anew at each start, for {record.parent} cannot be written: set XDG_CACHE_HOME"
    return choice, why


def _probe_all(path: Path, threads: int, *, cuda: bool, openvino: bool) -> dict[str, Probe]:
    """Try one after the other, until it is clear which to take."""
    probes: dict[str, Probe] = {}
    if cuda:
        probes["cuda"] = choice_probe.probe(path, "cuda", threads)
        if probes["cuda"].milliseconds is not None:
            return probes
    if openvino:
        probes["onnxruntime"] = choice_probe.probe(path, "onnxruntime", threads)
        # OpenVINO is proven with it, so there is no point without
        if probes["onnxruntime"].milliseconds is not None:
            probes["openvino"] = choice_probe.probe(path, "openvino", threads)
    return probes


def _remembered(record: Path) -> tuple[dict[str, Probe], str] | None:
    fields = kept_record(record, _SCHEMA)
    try:
        return None if fields is None else (_probes(fields["probes"]), str(fields["measured"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _probes(fields: dict[str, Any]) -> dict[str, Probe]:
    return {name: read_probe(probe) for name, probe in fields.items()}


def _faster_form(path: Path) -> str:
    beside = fp32_beside(path)
    return "" if beside is None or not lacks_vnni() else f"INT8 is slower here than FP32: give {beside.name}"


def _lists_cuda() -> bool:
    return "CUDAExecutionProvider" in need("onnxruntime").get_available_providers()


def _has_gpu() -> bool:
    return any(path.exists() for path in _GPU_FILES) or shutil.which("nvidia-smi") is not None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _joined(why: str, note: str) -> str:
    return f"{why}; {note}" if note else why
