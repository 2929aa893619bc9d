"""What an export makes of an ONNX file beyond it: engines and proofs for the programs that this machine has."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deepir.card import GateVerdict
from deepir.errors import GateError, MissingDependency
from deepir.export.engine import BuildConfig, build_engine, plan_build
from deepir.export.engine_names import engine_name
from deepir.export.masters import OnnxFiles
from deepir.export.options import ExportOptions
from deepir.files import file_sha256, write_text
from deepir.gate import verdict_text
from deepir.image import read_image
from deepir.optional import need
from deepir.runtime.backend import Backend
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.progress import Report
from deepir.runtime.self_check import PROOF_PICTURES, proof_inputs, prove_backend
from deepir.runtime.sidecar import sidecar_path, write_record
from deepir.runtime.tensorrt_library import Flavour
from deepir.runtime.trt import TensorRTBackend

_MOST_PICTURES = 64
_SCHEMA = "deepir.proof/1"
_FLAVOURS = {"tensorrt": Flavour.TENSORRT, "rtx": Flavour.RTX}


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one program: its words, the files it left, and the verdict where it ran."""

    program: str
    files: tuple[Path, ...]
    verdict: GateVerdict | None


def make_engines(files: OnnxFiles, options: ExportOptions, report: Report, command: Sequence[str]) -> list[Made]:
    """Build for and prove in the programs that `options.target` names.

    A machine without TensorRT is no error where nobody named it: the file is built on the device that will run it.

    Raises:
        MissingDependency: Of what was asked for by name, nothing is here.
        GateError: A program gives other descriptors than ONNX Runtime; what it built is not kept.
        EngineError: A build failed.
        MemoryLimitError: A build ran out of memory.
    """
    made: list[Made] = []
    lacking = ""
    for program in _programs(options):
        try:
            made.append(_make(program, files, options, report, command))
        except MissingDependency as error:
            lacking = f"{program}: not on this machine: {error}"
            if options.target != "auto":
                report(lacking)
    if lacking and not made and options.target != "auto":
        message = f"nothing was built for --backend {options.target}; {lacking}"
        raise MissingDependency(message)
    return made


def plan_engines(model: Path, options: ExportOptions) -> list[str]:
    """What `make_engines` would do with a file, in words; nothing is written."""
    return [_plan(program, model, options) for program in _programs(options)]


def _programs(options: ExportOptions) -> tuple[str, ...]:
    if options.target == "all":
        return ("cuda", "openvino", "tensorrt", "rtx")
    return {"auto": ("tensorrt",), "onnx": ()}.get(options.target, (options.target,))


def _make(program: str, files: OnnxFiles, options: ExportOptions, report: Report, command: Sequence[str]) -> Made:
    flavour = _FLAVOURS.get(program)
    if flavour is None:
        return _prove_onnx(program, files, options, report)
    return _build(flavour, files, options, report, command)


def _plan(program: str, model: Path, options: ExportOptions) -> str:
    flavour = _FLAVOURS.get(program)
    if flavour is None:
        return f"{program}: prove {model.name} on {PROOF_PICTURES} pictures or more"
    if not model.exists():
        return f"{program}: build an engine of {model.name} and prove it; more can be said once that file is there"
    try:
        return plan_build(model, options.out, _config(flavour, options))
    except MissingDependency as error:
        return f"{program}: not on this machine: {error}"


def _prove_onnx(program: str, files: OnnxFiles, options: ExportOptions, report: Report) -> Made:
    """A program that runs the .onnx file itself: the verdict goes into a file beside it."""
    opened = OnnxBackend(files.model, "cuda") if program == "cuda" else OpenVinoBackend(files.model)
    with opened as backend:
        verdict = _verdict(backend, files, options)
        name = backend.name
    report(f"{name} against {_reference(files).name} in ONNX Runtime: {verdict_text(verdict)}")
    _check(verdict, name)
    proof = options.out / f"{files.model.stem}.{program}.proof.json"
    fields = {
        "schema": _SCHEMA,
        "file": files.model.name,
        "sha256": file_sha256(files.model),
        "program": name,
        "version": (need("openvino") if program == "openvino" else need("onnxruntime")).__version__,
        "reference_sha256": file_sha256(_reference(files)),
        "verdict": asdict(verdict),
    }
    write_text(proof, json.dumps(fields, indent=1))
    return Made(name, (proof,), verdict)


def _build(flavour: Flavour, files: OnnxFiles, options: ExportOptions, report: Report, command: Sequence[str]) -> Made:
    """Build beside the place and move it there once it is proven: an older engine stays until then."""
    with tempfile.TemporaryDirectory(prefix=".deepir-", dir=options.out) as folder:
        record = build_engine(files.model, Path(folder), _config(flavour, options), report, command=command)
        built = Path(folder) / engine_name(files.model, record.tensorrt_version, record.gpu, flavour)
        verdict, why = _run_once(built, files, options)
        if verdict is not None:
            report(f"{built.name} against {_reference(files).name} in ONNX Runtime: {verdict_text(verdict)}")
            _check(verdict, built.name)
            record = dataclasses.replace(record, gate=verdict, not_run="")
        else:
            report(f"{built.name}: not run here, so its list of kernels was checked instead ({why})")
            record = dataclasses.replace(record, not_run=why)
        write_record(built, record)
        engine = options.out / built.name
        os.replace(built, engine)
        os.replace(sidecar_path(built), sidecar_path(engine))
    return Made(engine.name, (engine, sidecar_path(engine)), verdict)


def _run_once(engine: Path, files: OnnxFiles, options: ExportOptions) -> tuple[GateVerdict | None, str]:
    """The verdict; or None and why the engine cannot run here: TensorRT-RTX builds without a GPU too."""
    try:
        backend = TensorRTBackend(engine, rebuild="never")
    except MissingDependency as error:
        return None, str(error)
    with backend:
        return _verdict(backend, files, options), ""


def _config(flavour: Flavour, options: ExportOptions) -> BuildConfig:
    return BuildConfig(
        flavour=flavour,
        pool=options.pool,
        batch=options.batch,
        workspace_mib=options.workspace_mib,
        portable=options.portable,
        compute_capabilities=options.capabilities if flavour is Flavour.RTX else (),
    )


def _verdict(backend: Backend, files: OnnxFiles, options: ExportOptions) -> GateVerdict:
    """The comparison with ONNX Runtime on the CPU."""
    pictures = [read_image(path) for path in files.pictures[:_MOST_PICTURES]]
    with OnnxBackend(_reference(files), "cpu") as reference:
        return prove_backend(backend, reference, proof_inputs(backend.card, pictures), options.limits)


def _reference(files: OnnxFiles) -> Path:
    """What a program is compared with: the FP32 form, where it is at hand and there are enough real pictures.

    With made-up pictures among them it is the same file in ONNX Runtime: what INT8 makes of pictures of no world says
    nothing about it, and calibration has judged it on real ones.
    """
    enough = len(files.pictures) >= PROOF_PICTURES
    return files.master if files.master is not None and enough else files.model


def _check(verdict: GateVerdict, name: str) -> None:
    if not verdict.passed:
        message = (
            f"{name} gives other descriptors than ONNX Runtime ({verdict_text(verdict)}) and is not kept: "
            "try --fp16 or --fp32, or a lower --gate if that is good enough for you"
        )
        raise GateError(message)
