"""The doctor's questions about files: are models, engines and indexes whole, and do they belong together?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepir.errors import DeepIRError, EngineError, IndexModelError, InputError, ModelError
from deepir.files import file_sha256
from deepir.gate import verdict_text
from deepir.runtime.child import kind_of
from deepir.runtime.doctor_gpu import extra_of
from deepir.runtime.engine_beside import ENGINE_SUFFIXES
from deepir.runtime.finding import Finding, fail, ok, warn
from deepir.runtime.index_file import read_index
from deepir.runtime.index_verify import verify_index
from deepir.runtime.machine import Machine
from deepir.runtime.openvino_vnni import fp32_beside, lacks_vnni
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.sidecar import EngineRecord, GpuInfo, read_record
from deepir.runtime.tensorrt_library import Flavour
from deepir.runtime.trt_provenance import Machine as EngineMachine
from deepir.runtime.trt_provenance import library_name, stale_reasons
from deepir.spec import Numerics

INDEX_SUFFIX = ".usearch"


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a file.

    Attributes:
        findings: In order.
        fingerprint: Of its model; None where it could not be read.
    """

    findings: list[Finding]
    fingerprint: str | None = None


def check_files(paths: list[Path], machine: Machine) -> list[Finding]:
    """Each file by itself, then whether all are of one model."""
    looked = [(path, _look(path, machine)) for path in paths]
    findings = [finding for _, one in looked for finding in one.findings]
    known = [(path, one.fingerprint) for path, one in looked if one.fingerprint is not None]
    return findings + ([_agreement(known)] if len(known) > 1 else [])


def _look(path: Path, machine: Machine) -> Looked:
    looks: dict[str, Callable[[Path, Machine], Looked]] = {
        ".onnx": _look_at_model,
        INDEX_SUFFIX: lambda index, _: _look_at_index(index),
        **dict.fromkeys(ENGINE_SUFFIXES, _look_at_engine),
    }
    look = looks.get(path.suffix.lower())
    if look is None:
        text = f"neither a model (.onnx), an engine ({', '.join(ENGINE_SUFFIXES)}) nor an index ({INDEX_SUFFIX})"
        return Looked([fail(path.name, text, "deepir-doctor --help", InputError)])
    if not path.is_file():
        return Looked([fail(path.name, f"no such file: {path}", f"ls {path.parent}", InputError)])
    try:
        return look(path, machine)
    except DeepIRError as error:
        return Looked([fail(path.name, str(error), _CURES[path.suffix.lower()].format(path), kind_of(error.exit_code))])
    except OSError as error:
        return Looked([fail(path.name, f"cannot be read: {error.strerror}", f"ls -l {path}", InputError)])


_CURES = {
    ".onnx": "deepir-export CHECKPOINT -o {}",
    INDEX_SUFFIX: "deepir-index repair {} --dry-run",
    **dict.fromkeys(ENGINE_SUFFIXES, "deepir-export MODEL.onnx --backend tensorrt"),
}


def _look_at_model(path: Path, machine: Machine) -> Looked:
    if machine.imported("onnxruntime").version is None:
        cure = f"pip install 'deepir[{extra_of(machine)}]'"
        return Looked([warn(path.name, "cannot be opened without ONNX Runtime", cure)])
    with OnnxBackend(path, "cpu", threads=1) as backend:
        card = backend.card
    text = f"{card.numerics.value} model {card.spec.fingerprint}, {card.spec.dim} values"
    if card.gate is not None and not card.gate.passed:
        cure = f"deepir-calib {path} --images photos/"
        finding = warn(path.name, f"{text}; its gate: {verdict_text(card.gate)}", cure)
    else:
        finding = ok(path.name, text)
    slow = card.numerics is Numerics.INT8 and extra_of(machine) == "cpu" and lacks_vnni(machine.root)
    return Looked([finding, *([_slow(path)] if slow else [])], card.spec.fingerprint)


def _slow(path: Path) -> Finding:
    master = fp32_beside(path) or path.with_name("MODEL.onnx")
    text = "this CPU has no VNNI: OpenVINO hardly runs INT8 files here, and ONNX Runtime runs them slower than FP32"
    return warn(f"{path.name} speed", text, f"deepir-run camera0 --index shop.usearch --model {master}")


def _look_at_index(path: Path) -> Looked:
    bad = [check for check in verify_index(path) if check.status != "ok"]
    cures = {"fail": f"deepir-index repair {path} --dry-run", "warn": f"deepir-index verify {path} --deep"}
    findings = [
        Finding(
            name=f"{path.name} {check.name}",
            status=check.status,
            text=check.text,
            cure=cures[check.status],
            error=kind_of(IndexModelError.exit_code),
        )
        for check in bad
    ]
    if any(finding.status == "fail" for finding in findings):
        return Looked(findings)
    footer = read_index(path).footer if not any(check.name == "footer" for check in bad) else None
    if footer is None:
        return Looked(findings)
    text = f"whole, generation {footer.generation}, of model {footer.model.fingerprint}"
    return Looked([ok(path.name, text), *findings], footer.model.fingerprint)


def _look_at_engine(path: Path, machine: Machine) -> Looked:
    record = read_record(path)
    fingerprint = record.card.spec.fingerprint
    build = f"deepir-export {path.parent / record.onnx_file} --backend {'rtx' if _is_rtx(record) else 'tensorrt'}"
    if file_sha256(path) != record.engine_sha256:
        text = "not the engine that its sidecar was written for, and an engine is code"
        return Looked([fail(path.name, text, build, EngineError)], fingerprint)
    library = library_name(record.flavour)
    made = f"{record.card.numerics.value} engine of {fingerprint}, {library} {record.tensorrt_version}"
    return Looked([_here(path, record, machine, made, build), *_origin(path, record, build)], fingerprint)


def _here(path: Path, record: EngineRecord, machine: Machine, made: str, build: str) -> Finding:
    """Whether an engine runs on this machine, as far as that is known without loading it."""
    library = machine.imported("tensorrt_rtx_bindings" if _is_rtx(record) else "tensorrt")
    gpu = machine.imported("cuda").details
    if library.version is None or not gpu:
        lacking = f"{library_name(record.flavour)} is not usable" if library.version is None else "no GPU is usable"
        return warn(path.name, f"{made}; {lacking} here, so it cannot run", "deepir-doctor")
    here = GpuInfo(str(gpu["gpu"]), str(gpu["capability"]), int(gpu["memory_mib"]))
    reasons = stale_reasons(record, EngineMachine(library.version, here, machine.architecture))
    if reasons:
        return fail(path.name, f"{made}: {' and '.join(reasons)}", build, EngineError)
    if record.gate is None or not record.gate.passed:
        why = record.not_run if record.gate is None else verdict_text(record.gate)
        return warn(path.name, f"{made}, not proven: {why}", build)
    return ok(path.name, f"{made}, made for this machine")


def _origin(path: Path, record: EngineRecord, build: str) -> list[Finding]:
    """Whether the ONNX file that it was built from still lies beside it."""
    onnx = path.parent / record.onnx_file
    name = f"{path.name} origin"
    if not onnx.is_file():
        return [
            warn(name, f"{onnx.name} is not beside it, so it cannot be built again", f"cp {onnx.name} {path.parent}")
        ]
    if file_sha256(onnx) != record.onnx_sha256:
        return [warn(name, f"{onnx.name} was changed since; deepir-run passes the engine over", build)]
    return [ok(name, f"built from {onnx.name}")]


def _agreement(known: list[tuple[Path, str]]) -> Finding:
    """Whether all files are of one model."""
    if len({fingerprint for _, fingerprint in known}) == 1:
        return ok("agreement", f"all of model {known[0][1]}")
    listed = ", ".join(f"{path.name} of {fingerprint}" for path, fingerprint in known)
    index = next((path for path, _ in known if path.suffix.lower() == INDEX_SUFFIX), None)
    other = next((path for path, _ in known if path.suffix.lower() == ".onnx"), Path("MODEL.onnx"))
    if index is None:
        return fail("agreement", f"different models: {listed}", f"deepir-export {other} --backend tensorrt", ModelError)
    return fail(
        "agreement", f"different models: {listed}", f"deepir-index rebuild {index} --model {other}", IndexModelError
    )


def _is_rtx(record: EngineRecord) -> bool:
    return record.flavour == Flavour.RTX.value
