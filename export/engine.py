"""Builds a TensorRT engine of an ONNX file: full TensorRT 10.3 to 11.4 and TensorRT-RTX, one way for all."""

import os
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deepir.calib.onnx_file import read_onnx
from deepir.calib.record import record_path
from deepir.errors import EngineError, GateError, MemoryLimitError
from deepir.export.engine_blueprint import Blueprint, blueprint_text, draw_blueprint
from deepir.export.engine_config import BuildConfig, int8_capabilities
from deepir.export.engine_machine import describe_host
from deepir.export.engine_memory import killed_message
from deepir.export.engine_process import run_build
from deepir.export.engine_progress import build_progress
from deepir.export.engine_request import BuildRequest, BuildResult
from deepir.export.routes import native_form, plugin_form
from deepir.files import file_sha256, replacing
from deepir.runtime.progress import Report
from deepir.runtime.sidecar import EngineRecord, write_record
from deepir.spec import Numerics

__all__ = ["BuildConfig", "build_engine", "plan_build"]

_NOT_PROVEN = "not yet compared with ONNX Runtime"


def build_engine(
    onnx: Path, out: Path, config: BuildConfig, report: Report, *, command: Sequence[str] = ()
) -> EngineRecord:
    """Build a plan, and write it with its sidecar; an engine that is there already is replaced whole.

    The build runs in a process of its own. The sidecar says that the engine was not compared with ONNX Runtime.

    Args:
        onnx: Written by deepir-export or deepir-calib.
        out: The engine's path, or an existing folder where it is named by `engine_name`.
        config: How to build it.
        report: Takes lines for people.
        command: What was typed, for the sidecar.

    Raises:
        InputError: The file or the folder is missing; ModelError when the file is damaged or not ours.
        OptionError: A batch that the file does not take.
        MissingDependency: No TensorRT here, or for full TensorRT no GPU.
        EngineError: TensorRT refuses or crashes, or the plugin was asked for and cannot be had.
        GateError: Too few convolutions of an INT8 file came out INT8.
        MemoryLimitError: The memory cannot suffice, or ran out.
    """
    proto = read_onnx(onnx)
    blueprint = draw_blueprint(onnx, out, config, proto)
    for note in blueprint.notes:
        report(note)
    started = time.monotonic()
    # beside the engine, so that the plan need only be renamed
    with tempfile.TemporaryDirectory(prefix=".deepir-build-", dir=blueprint.engine.parent) as name:
        folder = Path(name)
        request = _prepare(blueprint, proto, folder, report)
        del proto
        result = _run(blueprint, request, folder, report)
        for note in result.notes:
            report(note)
        _check(blueprint, result, report)
        if blueprint.timing is not None:
            _keep_timing(blueprint, Path(request.timing_out))
        with replacing(blueprint.engine) as temporary:
            os.replace(request.plan, temporary)
    record = _record(blueprint, result, round(time.monotonic() - started, 1), command)
    write_record(blueprint.engine, record)
    return record


def plan_build(onnx: Path, out: Path, config: BuildConfig) -> str:
    """What `build_engine` would do, as lines for people; nothing is written. Raises what it would raise at once."""
    return blueprint_text(draw_blueprint(onnx, out, config, read_onnx(onnx)))


def _prepare(blueprint: Blueprint, proto: Any, folder: Path, report: Report) -> BuildRequest:
    """The files that the process needs, and the request."""
    form = plugin_form(proto) if blueprint.plugin else native_form(proto)
    (folder / "model.onnx").write_bytes(form.SerializeToString())
    measured, note = (None, "") if blueprint.timing is None else blueprint.timing.read()
    if note:
        report(note)
    if measured is not None:
        (folder / "timing.in").write_bytes(measured)
    return blueprint.request(proto, folder, measured)


def _run(blueprint: Blueprint, request: BuildRequest, folder: Path, report: Report) -> BuildResult:
    try:
        with build_progress(report) as tick:
            return run_build(request, folder, tick)
    except MemoryLimitError as error:
        message = f"{killed_message(blueprint.needs.needed, blueprint.memory)} ({error})"
        raise MemoryLimitError(message) from error


def _check(blueprint: Blueprint, result: BuildResult, report: Report) -> None:
    """Refuse a plan that lacks convolutions, or an INT8 plan that mostly computes in something else."""
    if result.dropped:
        message = f"the plan has no kernel for {', '.join(result.dropped[:5])}: try another precision"
        raise EngineError(message)
    count = result.precision
    report(f"{count.convolutions} convolutions: {count.int8} INT8, {count.fp16} FP16, {count.fp32} FP32")
    if blueprint.card.numerics is not Numerics.INT8:
        return
    if blueprint.capabilities and not int8_capabilities(blueprint.capabilities):
        newest = blueprint.capabilities[-1]
        report(f"TensorRT-RTX has INT8 convolutions from compute capability 8.6 on, not for {newest}")
        return
    if not count.convolutions:
        report("TensorRT does not tell the precision of its convolutions: INT8 is not confirmed")
        return
    # a file without any INT8 has no such decision behind it: what it says of itself is wrong
    decided, share = blueprint.int8_share or 1.0, count.int8 / count.convolutions
    least = blueprint.config.least_int8_share * decided
    if share < least:
        kept = "" if decided == 1 else f" (of the {decided:.0%} that calibration left INT8)"
        message = (
            f"only {count.int8} of {count.convolutions} convolutions ({share:.0%}) came out INT8 and {least:.0%} must"
            f"{kept}: the engine is not kept; build it from the FP16 file, or calibrate again with deepir-calib"
        )
        raise GateError(message)


def _keep_timing(blueprint: Blueprint, measured: Path) -> None:
    content = measured.read_bytes() if measured.is_file() else b""
    if content and blueprint.timing is not None:
        blueprint.timing.write(content)


def _record(blueprint: Blueprint, result: BuildResult, seconds: float, command: Sequence[str]) -> EngineRecord:
    config, gpu = blueprint.config, blueprint.gpu
    calibration = record_path(blueprint.onnx)
    calibrated = blueprint.card.numerics is Numerics.INT8 and calibration.is_file()
    return EngineRecord(
        card=blueprint.card,
        engine_sha256=file_sha256(blueprint.engine),
        engine_bytes=blueprint.engine.stat().st_size,
        onnx_file=blueprint.onnx.name,
        onnx_sha256=file_sha256(blueprint.onnx),
        calibration_sha256=file_sha256(calibration) if calibrated else None,
        flavour=config.flavour.value,
        tensorrt_version=blueprint.version,
        cuda_version=None if gpu is None else gpu.cuda_version,
        portable=config.portable,
        gpu=None if gpu is None else gpu.info,
        compute_capabilities=blueprint.capabilities,
        precision=result.precision,
        plugin="python" if blueprint.plugin else "native",
        batch=config.batch,
        shapes=blueprint.profiles.sizes,
        gate=None,
        not_run=_NOT_PROVEN,
        build_seconds=seconds,
        peak_mib=result.peak_mib,
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=tuple(command),
        host=describe_host(),
    )
