"""The ONNX files of an export: the FP32 master of a checkpoint, and its FP16 or INT8 form."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepir.calib.calibrate import CalibrationConfig, apply_record, calibrate_file, read_fp32
from deepir.calib.onnx_file import read_card, read_onnx, write_onnx
from deepir.calib.precision import to_fp16
from deepir.calib.record import read_record, record_path
from deepir.calib.sources import read_sources
from deepir.card import ModelCard
from deepir.datasets import read_picture_paths
from deepir.errors import InputError, ModelError, OptionError
from deepir.export.options import ExportOptions
from deepir.export.verify import FP16_TOLERANCE, prove_against
from deepir.runtime.progress import Report
from deepir.spec import Numerics

_SUFFIXES = (".safetensors", ".onnx")


@dataclass(frozen=True, slots=True)
class OnnxFiles:
    """What an export is about.

    Attributes:
        model: The file of the precision that was asked for.
        master: Its FP32 form, the reference of every proof; None when it was not at hand.
        written: The files that were written, in order.
        pictures: Pictures to prove with, none of which the calibration measured.
    """

    model: Path
    master: Path | None
    written: tuple[Path, ...]
    pictures: tuple[Path, ...]


def write_onnx_files(source: Path, options: ExportOptions, report: Report) -> OnnxFiles:
    """Write the FP32 master beside the form that was asked for.

    Raises:
        OptionError: INT8 without pictures, or options for a checkpoint with an .onnx file.
        GateError: A file is not the same function, or, when strict, INT8 changes it too much.
    """
    check_source(source, options)
    pictures = tuple(path for folder in options.images for path in read_picture_paths(folder))
    if source.suffix == ".onnx" and options.numerics is None:
        master = find_master(source, read_card(read_onnx(source)))
        measured = _measured(source, master)
        return OnnxFiles(source, master, (), tuple(path for path in pictures if path.resolve() not in measured))
    master = _master(source, options, pictures, report)
    files = OnnxFiles(master, master, () if master == source else (master,), pictures)
    if options.numerics is Numerics.FP16:
        return _with(files, _fp16(files, options, report))
    if options.numerics is Numerics.INT8:
        return _int8(files, options, report)
    return files


def find_source(given: Path) -> Path:
    """The file that is meant: itself, or with the suffix left out its checkpoint, else its .onnx file.

    Raises:
        InputError: There is none, or it is of another kind.
    """
    if given.suffix in _SUFFIXES:
        return given
    for suffix in _SUFFIXES:
        if (found := given.with_name(given.name + suffix)).is_file():
            return found
    if given.is_file():
        message = (
            f"{given} is neither a .safetensors checkpoint nor an .onnx file: bring it in with deepir-distill import"
        )
    else:
        message = f"no such model: {given}; expected {given.name}.safetensors or {given.name}.onnx"
    raise InputError(message)


def check_source(source: Path, options: ExportOptions) -> None:
    """Refuse what cannot be, before any work: INT8 without pictures, a new size for a file that has one."""
    if options.numerics is Numerics.INT8 and not options.calib:
        message = f"INT8 needs pictures to calibrate with: deepir-export {source} --int8 --calib path/to/pictures"
        raise OptionError(message)
    if source.suffix == ".onnx" and (options.sizes or options.free or options.pixels != "float32"):
        message = f"--size and --input need a .safetensors checkpoint; {source} has its inputs built in"
        raise OptionError(message)


def find_master(path: Path, card: ModelCard) -> Path | None:
    """The FP32 file that a file was made from, by name beside it and by the model in it; itself when it is FP32."""
    if card.numerics is Numerics.FP32:
        return path
    master = path.with_name(path.name.removesuffix(f".{card.numerics.value}.onnx") + ".onnx")
    try:
        found = read_card(read_onnx(master))
    except ModelError:
        return None
    same = (found.spec, found.pixels, found.numerics) == (card.spec, card.pixels, Numerics.FP32)
    return master if same else None


def _with(files: OnnxFiles, path: Path) -> OnnxFiles:
    return dataclasses.replace(files, model=path, written=(*files.written, path))


def _master(source: Path, options: ExportOptions, pictures: Sequence[Path], report: Report) -> Path:
    if source.suffix == ".onnx":
        read_fp32(source)
        return source
    # torch is loaded for checkpoints alone: a Jetson builds engines of .onnx files without it
    from deepir.export.from_checkpoint import write_master

    return write_master(source, options, pictures or _calibration_pictures(options), report)


def _measured(source: Path, master: Path | None) -> set[Path]:
    """The pictures on which an INT8 file was calibrated, where its record lies beside it: they prove nothing."""
    if master is None or master == source:
        return set()
    try:
        return {path.resolve() for path in read_record(record_path(source), master).images.measure}
    except InputError:
        return set()


def _calibration_pictures(options: ExportOptions) -> list[Path]:
    return list(read_sources([source for source in options.calib if not _is_record(source)]))


def _fp16(files: OnnxFiles, options: ExportOptions, report: Report) -> Path:
    proto, _ = read_fp32(files.model)
    half = to_fp16(proto)
    proof = prove_against(half, proto, files.pictures, FP16_TOLERANCE)
    report(f"[3/3] FP16 against FP32: {proof}")
    path = options.out / f"{files.model.stem}.fp16.onnx"
    write_onnx(half, path)
    return path


def _int8(files: OnnxFiles, options: ExportOptions, report: Report) -> OnnxFiles:
    out = options.out / f"{files.model.stem}.int8.onnx"
    config = CalibrationConfig(method=options.method, keep=options.keep, strict=options.strict, limits=options.limits)

    def say(line: str) -> None:
        report(f"[3/3] {line}")

    if any(_is_record(source) for source in options.calib):
        path, judged = apply_record(files.model, _only_record(options.calib), out, say)
    else:
        path, calibrated = calibrate_file(files.model, options.calib, out, config, say)
        judged = calibrated.images.judge
    measured = _measured(path, files.model)
    unseen = [picture for picture in files.pictures if picture.resolve() not in measured]
    return dataclasses.replace(_with(files, path), pictures=tuple(dict.fromkeys((*unseen, *judged))))


def _is_record(source: Path) -> bool:
    return source.name.endswith(".calib.json")


def _only_record(sources: Sequence[Path]) -> Path:
    if len(sources) > 1:
        message = f"--calib takes pictures, or one record of a calibration; got {', '.join(map(str, sources))}"
        raise OptionError(message)
    return sources[0]
