"""What deepir-export does once its options are read."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepir.errors import MissingDependency
from deepir.export.engines import Made, make_engines, plan_engines
from deepir.export.masters import OnnxFiles, check_source, find_source, write_onnx_files
from deepir.export.options import ExportOptions
from deepir.runtime.progress import Report
from deepir.spec import Numerics

__all__ = ["Exported", "device_command", "export", "find_source", "plan", "summary"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote and built, in order, and how long it took."""

    files: OnnxFiles
    made: tuple[Made, ...]
    seconds: float

    @property
    def written(self) -> list[Path]:
        """Every file, the engines' sidecars too."""
        return [*self.files.written, *(path for made in self.made for path in made.files)]


def export(source: Path, options: ExportOptions, report: Report, command: Sequence[str] = ()) -> Exported:
    """Write the ONNX files that were asked for, then build and prove what this machine can of them.

    Args:
        source: A checkpoint (.safetensors) or an .onnx file of deepir.
        options: What to make of it.
        report: Takes lines for people.
        command: What was typed, for the engines' sidecars.

    Raises:
        InputError: Pictures that cannot be read.
        OptionError: INT8 without pictures, or options that do not fit the source.
        GateError: A file or an engine is not the same function.
        EngineError: A build failed.
        MissingDependency: Of the programs that were asked for by name none is here; the ONNX files are written.
        MemoryLimitError: A build ran out of memory.
    """
    started = time.monotonic()
    files = write_onnx_files(source, options, report)
    made, lacking = _made(files, options, report, command)
    exported = Exported(files, made, time.monotonic() - started)
    for path in exported.written:
        report(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    report(f"took {exported.seconds:.0f} s")
    if not any(name.suffix == ".engine" for name in exported.written):
        report(f"on the device: {device_command(files.model)}")
    report(f"next: deepir-index build things.usearch path/to/references --model {files.model}")
    if lacking is not None:
        raise lacking
    return exported


def _made(
    files: OnnxFiles, options: ExportOptions, report: Report, command: Sequence[str]
) -> tuple[tuple[Made, ...], MissingDependency | None]:
    """What was made; or the error that tells that nothing could be, for after what was written has been told."""
    try:
        return tuple(make_engines(files, options, report, command)), None
    except MissingDependency as error:
        return (), error


def plan(source: Path, options: ExportOptions) -> list[str]:
    """What `export` would do, in words; nothing is computed or written.

    Raises:
        OptionError: INT8 without pictures, or options that do not fit the source.
    """
    check_source(source, options)
    master = source if source.suffix == ".onnx" else options.out / f"{source.stem}.onnx"
    lines = [] if master == source else [f"{source} would become {master}, FP32, proven against torch"]
    model = master
    if options.numerics not in (None, Numerics.FP32):
        model = options.out / f"{master.stem}.{options.numerics.value}.onnx"
        lines.append(f"{master.name} would become {model}, proven against FP32")
    return [*lines, *plan_engines(model, options)]


def device_command(model: Path) -> str:
    """How to build a TensorRT engine of this file on the device that will run it."""
    return shlex.join(["deepir-export", model.name, "--backend", "tensorrt", "--images", "PICTURES"])


def summary(exported: Exported) -> str:
    """The files and the verdicts as JSON."""
    rows: list[dict[str, Any]] = [{"file": str(path), "bytes": path.stat().st_size} for path in exported.written]
    programs = [
        {"program": made.program, "verdict": asdict(made.verdict) if made.verdict else None} for made in exported.made
    ]
    return json.dumps(
        {
            "model": str(exported.files.model),
            "written": rows,
            "programs": programs,
            "seconds": round(exported.seconds, 1),
        }
    )
