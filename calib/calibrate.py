"""Calibrate a model: ranges, Q/DQ nodes, and the verdict of the gate, method after method until one passes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepir.calib.images import RECOMMENDED, CalibrationSet, choose_images
from deepir.calib.onnx_file import describe, prepared, read_card, read_onnx, write_card, write_onnx
from deepir.calib.quantise import int8_share, place, quantise
from deepir.calib.ranges import METHODS, Ranges, measure_ranges
from deepir.calib.record import Record, read_record, record_path, write_record
from deepir.card import GateVerdict, ModelCard
from deepir.errors import GateError, InputError, ModelError, OptionError
from deepir.gate import GateLimits, judge, verdict_text
from deepir.runtime.progress import Report
from deepir.spec import Numerics


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """How a model is calibrated.

    Attributes:
        method: `auto` tries METHODS in order and keeps the first that passes, else the best.
        most: Pictures used, at most; `seed` says which.
        strict: Write nothing when the gate fails.
    """

    method: str = "auto"
    limits: GateLimits = field(default_factory=GateLimits)
    most: int = 500
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            message = f"the calibration method must be auto or one of {', '.join(METHODS)}, got {self.method!r}"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """An INT8 model with the ranges it was made from and its verdict."""

    proto: Any
    method: str
    ranges: Ranges
    verdict: GateVerdict


def calibrate_file(
    model: Path, folders: Sequence[Path], out: Path, config: CalibrationConfig, report: Report
) -> Calibrated:
    """Write the INT8 form of an FP32 file, and the record of it as `OUT.calib.json`.

    Raises:
        InputError: Too few pictures, or one that cannot be read.
        ModelError: Not an FP32 file of deepir.
        GateError: The gate failed and the config is strict.
    """
    proto, card = read_fp32(model)
    images = choose_images(folders, most=config.most, seed=config.seed)
    report(f"INT8: ranges from {len(images.measure)} pictures, judged on {len(images.judge)} others")
    if len(images.measure) + len(images.judge) < RECOMMENDED:
        report(f"warning: fewer than {RECOMMENDED} pictures make the ranges uncertain")
    result = calibrate(proto, card, images, config, report)
    if not result.verdict.passed:
        message = f"INT8 changes the descriptors too much: {verdict_text(result.verdict)}; try more varied pictures"
        if config.strict:
            raise GateError(message)
        report(f"warning: {message}; the verdict is stored in the file")
    report(f"{int8_share(result.proto):.0%} of the convolutions are INT8")
    write_onnx(result.proto, out)
    write_record(record_path(out), Record(model, result.method, result.ranges, result.verdict, images))
    return result


def apply_record(model: Path, record: Path, out: Path, report: Report) -> tuple[Path, ...]:
    """Write the INT8 form of an FP32 file from the ranges of an earlier calibration; gives the pictures that judged it.

    Raises:
        InputError: The record is damaged, or was made of another file.
        ModelError: Not an FP32 file of deepir.
    """
    proto, card = read_fp32(model)
    found = read_record(record, model)
    placement = place(proto)
    if set(found.ranges) != set(placement.tensors):
        message = f"{record} has ranges for other tensors than {model}: calibrate again, with --calib and a folder"
        raise InputError(message)
    quantised = quantise(proto, placement, found.ranges)
    write_card(quantised, dataclasses.replace(card, numerics=Numerics.INT8, gate=found.verdict))
    report(f"INT8: ranges of {record}; {verdict_text(found.verdict)}")
    write_onnx(quantised, out)
    write_record(record_path(out), found)
    return tuple(path for path in found.images.judge if path.is_file())


def read_fp32(path: Path) -> tuple[Any, ModelCard]:
    """An FP32 ONNX file of deepir and its card.

    Raises:
        ModelError: Damaged, not made by deepir, or not FP32.
    """
    proto = read_onnx(path)
    card = read_card(proto)
    if card.numerics is not Numerics.FP32:
        message = f"{path} computes in {card.numerics.value}: calibrate the FP32 file that it was made from"
        raise ModelError(message)
    return proto, card


def calibrate(
    proto: Any,
    card: ModelCard,
    images: CalibrationSet,
    config: CalibrationConfig,
    report: Report = lambda _: None,
) -> Calibrated:
    """Quantise a model and judge it; see `CalibrationConfig` for which method wins.

    Raises:
        InputError: A picture that cannot be read.
        ModelError: No convolutions, or values that are not finite.
    """
    placement = place(proto)
    reference_nd = describe(proto, card, images.judge)
    tried: list[Calibrated] = []
    for method in METHODS if config.method == "auto" else (config.method,):
        ranges = measure_ranges(proto, placement.tensors, lambda: prepared(images.measure, card), METHODS[method])
        quantised = quantise(proto, placement, ranges)
        verdict = judge(reference_nd, describe(quantised, card, images.judge), config.limits)
        report(f"{method}: {verdict_text(verdict)}")
        tried.append(Calibrated(quantised, method, ranges, verdict))
        if verdict.passed:
            break
    best = max(tried, key=lambda result: (result.verdict.passed, result.verdict.cosine_mean))
    write_card(best.proto, dataclasses.replace(card, numerics=Numerics.INT8, gate=best.verdict))
    return best
