"""What deepir-export does once its options are read."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.calib.calibrate import CalibrationConfig, calibrate_file, read_fp32
from deepir.calib.onnx_file import write_onnx
from deepir.datasets import read_picture_paths
from deepir.distill.checkpoint import Model, load_model
from deepir.errors import InputError, OptionError
from deepir.export.graph import build_onnx
from deepir.export.precision import to_fp16
from deepir.export.verify import FP16_TOLERANCE, FP32_TOLERANCE, prove, prove_against
from deepir.spec import Numerics, Size

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint, the pictures to calibrate it with, and more to prove it with."""

    numerics: Numerics
    out: Path
    calib: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    method: str = "auto"
    strict: bool = False
    size: Size | None = None


def export(source: Path, options: ExportOptions, report: Report) -> list[Path]:
    """Write the FP32 master beside the form that was asked for; gives the files written, that form last.

    Raises:
        InputError: INT8 without pictures.
        GateError: The file is not the same function, or, when strict, INT8 changes it too much.
    """
    if options.numerics is Numerics.INT8 and not options.calib:
        message = f"INT8 needs pictures to calibrate with: deepir-export {source} --int8 --calib path/to/pictures"
        raise InputError(message)
    if not options.out.is_dir():
        message = f"no such folder: {options.out}; create it or give another with -o"
        raise InputError(message)
    started = time.monotonic()
    written = [_master(source, options, report)]
    if options.numerics is Numerics.FP16:
        written.append(_fp16(written[0], options, report))
    if options.numerics is Numerics.INT8:
        written.append(_int8(written[0], options, report))
    for path in written:
        report(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    report(f"took {time.monotonic() - started:.0f} s")
    report(engine_advice(written[-1], options.numerics))
    report(f"next: deepir-index build things.usearch path/to/references --model {written[-1]}")
    return written


def engine_advice(onnx_file: Path, numerics: Numerics) -> str:
    """How to build a TensorRT engine of this file on the device that will run it."""
    flags = {Numerics.FP32: "", Numerics.FP16: " --stronglyTyped", Numerics.INT8: " --int8 --fp16"}[numerics]
    return (
        f"{onnx_file.name} runs as it is in ONNX Runtime; a TensorRT engine is built on the device that runs it: "
        f"trtexec --onnx={onnx_file.name}{flags} --saveEngine={onnx_file.with_suffix('.engine').name}"
    )


def _master(source: Path, options: ExportOptions, report: Report) -> Path:
    if source.suffix == ".onnx":
        if options.size is not None:
            message = f"--size needs a .safetensors checkpoint; {source} has its size built in"
            raise OptionError(message)
        read_fp32(source)
        return source
    model = load_model(source)
    if options.size is not None:
        spec = dataclasses.replace(model.spec, sizes=(options.size,), resize="stretch")
        model = Model(model.network, spec)
    model.network.eval()
    report(f"[1/3] torch to ONNX: {model.spec.backbone} at {model.spec.size}, model {model.spec.fingerprint}")
    proto = build_onnx(model)
    proof = prove(proto, model, _proof_pictures(options), FP32_TOLERANCE)
    report(f"[2/3] ONNX Runtime against torch: {proof}")
    path = options.out / f"{source.stem}.onnx"
    write_onnx(proto, path)
    return path


def _fp16(master: Path, options: ExportOptions, report: Report) -> Path:
    proto, _ = read_fp32(master)
    half = to_fp16(proto)
    proof = prove_against(half, proto, _proof_pictures(options), FP16_TOLERANCE)
    report(f"[3/3] FP16 against FP32: {proof}")
    path = options.out / f"{master.stem}.fp16.onnx"
    write_onnx(half, path)
    return path


def _int8(master: Path, options: ExportOptions, report: Report) -> Path:
    path = options.out / f"{master.stem}.int8.onnx"
    config = CalibrationConfig(method=options.method, strict=options.strict)
    calibrate_file(master, options.calib, path, config, lambda line: report(f"[3/3] {line}"))
    return path


def _proof_pictures(options: ExportOptions) -> list[Path]:
    return [path for source in (*options.images, *options.calib) for path in read_picture_paths(source)]


def summary(written: Sequence[Path]) -> str:
    """The files as JSON."""
    rows: list[dict[str, Any]] = [{"file": str(path), "bytes": path.stat().st_size} for path in written]
    return json.dumps({"written": rows})
