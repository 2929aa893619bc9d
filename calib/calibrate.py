"""Calibrate a model: pictures chosen, a recipe found, the INT8 file judged; FP16 where INT8 loses too much."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from deepir.calib.derive import derive
from deepir.calib.gate import judge_file, judged_text, passed
from deepir.calib.images import FEWEST, CalibrationSet, ChosenImages, choose_images
from deepir.calib.keep import Keep
from deepir.calib.modelopt import quantise_modelopt
from deepir.calib.onnx_file import Describer, prepared, read_card, read_onnx, write_card, write_onnx
from deepir.calib.precision import to_fp16
from deepir.calib.quantise import int8_share
from deepir.calib.ranges import METHODS
from deepir.calib.recipe import Recipe
from deepir.calib.record import BlockDamage, Record, Trial, read_record, record_path, write_record
from deepir.calib.search import Found, RecipeSearch
from deepir.calib.sources import read_sources
from deepir.card import GateVerdict, ModelCard
from deepir.errors import GateError, InputError, ModelError, OptionError
from deepir.gate import GateLimits, verdict_text
from deepir.runtime.progress import Report
from deepir.spec import Numerics

Quantiser = Literal["deepir", "modelopt"]

QUANTISERS: tuple[Quantiser, ...] = get_args(Quantiser)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """How a model is calibrated.

    Attributes:
        method: How ranges are chosen; `auto` takes what is nearest to FP32 on some of the measured pictures.
        keep: What stays FP16: None asks the gate, and may end in an FP16 file; 0 is INT8 whatever the gate says.
        most: Pictures used, at most; `seed` says which.
        gate_images: Judged on these instead of a quarter of the others.
        strict: Write nothing when no INT8 file passes the gate.
        quantiser: Who places the Q/DQ nodes. ModelOpt knows the methods max (for auto too) and entropy, and no blocks.
    """

    method: str = "auto"
    keep: Keep = None
    limits: GateLimits = field(default_factory=GateLimits)
    most: int = 500
    seed: int = 0
    gate_images: tuple[Path, ...] = ()
    strict: bool = False
    quantiser: Quantiser = "deepir"

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            message = f"the calibration method must be auto or one of {', '.join(METHODS)}, got {self.method!r}"
            raise OptionError(message)
        if isinstance(self.keep, int) and self.keep < 0:
            message = f"--keep-fp16 takes a number of blocks, 0 or more, got {self.keep}"
            raise OptionError(message)
        if self.quantiser not in QUANTISERS:
            message = f"the quantiser must be one of {', '.join(QUANTISERS)}, got {self.quantiser!r}"
            raise OptionError(message)
        if self.quantiser == "modelopt" and self.keep:
            message = (
                "--keep-fp16 takes auto or 0 with --quantiser modelopt: only our own quantiser keeps blocks in FP16"
            )
            raise OptionError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a calibration came to.

    Attributes:
        proto: The INT8 model, or the FP16 one where no INT8 model passed.
        numerics: Which of the two.
        recipe: Of the best INT8 model.
        verdicts: On `proto`, one for each program.
        images: The pictures used.
        trials, damage, saturation: As in `deepir.calib.record.Record`.
    """

    proto: Any
    numerics: Numerics
    recipe: Recipe
    verdicts: tuple[GateVerdict, ...]
    images: CalibrationSet
    trials: tuple[Trial, ...] = ()
    damage: tuple[BlockDamage, ...] = ()
    saturation: dict[str, float] = field(default_factory=dict)


def calibrate_file(
    model: Path, sources: Sequence[Path], out: Path, config: CalibrationConfig, report: Report
) -> tuple[Path, Calibrated]:
    """Write the INT8 form of an FP32 file, and the record of it as `OUT.calib.json`; gives what was written.

    Where no INT8 form passes the gate the file is FP16, and its name says so: `model.fp16.onnx` for `model.int8.onnx`.

    Args:
        model: An FP32 file of deepir.
        sources: Pictures, see `deepir.calib.images.choose_images`.
        out: The INT8 file.
        config: How it is calibrated.
        report: Is told what happens.

    Raises:
        InputError: Too few pictures, or too many that cannot be read.
        ModelError: Not an FP32 file of deepir.
        GateError: No INT8 file passes and the config is strict.
        OptionError: The config names blocks that the model does not have.
    """
    proto, card = read_fp32(model)
    chosen = _chosen_images(proto, card, sources, config, report)
    report(f"INT8: ranges from {len(chosen.images.measure)} pictures, judged on {len(chosen.images.judge)} others")
    result = calibrate(proto, card, chosen, config, report)
    path = out if result.numerics is Numerics.INT8 else fp16_path(out)
    if path != out:
        older = f"; {out} is of an earlier calibration, delete it" if out.exists() else ""
        report(f"warning: no INT8 form passes the gate: {path} computes in FP16{older}")
    elif not passed(result.verdicts):
        report("warning: INT8 changes the descriptors too much; the verdict is stored in the file")
    if result.numerics is Numerics.INT8:
        report(f"{int8_share(result.proto):.0%} of the convolutions are INT8")
    write_onnx(result.proto, path)
    write_record(record_path(path), _record(model, result, config.quantiser))
    return path, result


def apply_record(model: Path, record: Path, out: Path, report: Report) -> tuple[Path, tuple[Path, ...]]:
    """Write the file that an earlier calibration came to, from its record; gives it and the pictures that judged it.

    Raises:
        InputError: The record is damaged, was made of another file, or of a library whose files cannot be derived.
        ModelError: Not an FP32 file of deepir.
    """
    proto, card = read_fp32(model)
    found = read_record(record, model)
    if found.quantiser != "deepir":
        message = f"{record} is of {found.quantiser}, whose file cannot be made again: use the INT8 file itself"
        raise InputError(message)
    path = out if found.numerics is Numerics.INT8 else fp16_path(out)
    made = derive(proto, found.recipe) if found.numerics is Numerics.INT8 else to_fp16(proto)
    write_card(made, dataclasses.replace(card, numerics=found.numerics, gates=found.verdicts))
    for verdict in found.verdicts:
        report(f"ranges of {record}; {verdict.program}: {verdict_text(verdict)}")
    write_onnx(made, path)
    write_record(record_path(path), found)
    return path, tuple(image for image in found.images.judge if image.is_file())


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
    proto: Any, card: ModelCard, chosen: ChosenImages, config: CalibrationConfig, report: Report = lambda _: None
) -> Calibrated:
    """Quantise a model and judge it; see `CalibrationConfig` for what wins.

    Raises:
        InputError: A picture that cannot be read.
        ModelError: No convolutions, or values that are not finite.
        GateError: No INT8 model passes and the config is strict.
        OptionError: The config names blocks that the model does not have.
    """
    search = RecipeSearch(proto, card, chosen.images, chosen.judge_nd, report)
    if config.quantiser == "modelopt":
        method = "max" if config.method == "auto" else config.method
        made = quantise_modelopt(proto, card, list(prepared(chosen.images.measure, card)), method=method)
        found = search.judged_model(made, Recipe(method=f"modelopt {method}", ranges={}), config.limits)
    else:
        recipe = search.best(METHODS if config.method == "auto" else (config.method,))
        if config.keep is not None:
            recipe = search.kept(recipe, config.keep)
        found = search.judged(recipe, config.limits)
        if config.keep is None and not passed(found.verdicts):
            found = _rescued(search, found, config.limits)
    numerics, made, verdicts = Numerics.INT8, found.proto, found.verdicts
    if not passed(verdicts):
        _refuse_if_strict(verdicts, config)
        if config.keep is None:
            numerics, made = Numerics.FP16, to_fp16(proto)
            verdicts = judge_file(made, read_card(made), chosen.images, chosen.judge_nd, config.limits, report)
            for verdict in verdicts:
                report(f"FP16: {judged_text(verdict, config.limits)}")
    write_card(made, dataclasses.replace(card, numerics=numerics, gates=verdicts))
    return Calibrated(
        proto=made,
        numerics=numerics,
        recipe=found.recipe,
        verdicts=verdicts,
        images=chosen.images,
        trials=tuple(search.trials),
        damage=search.damage,
        saturation=search.saturation,
    )


def _rescued(search: RecipeSearch, found: Found, limits: GateLimits) -> Found:
    """What passes, first with skips in float, then with blocks in FP16; what was found before where nothing does."""
    recipe = search.with_float_skips(found.recipe) or found.recipe
    if recipe is not found.recipe:
        found = search.judged(recipe, limits)
    return found if passed(found.verdicts) else search.rescued(recipe, limits) or found


def fp16_path(out: Path) -> Path:
    """Where the FP16 file goes when no INT8 file passes: `model.fp16.onnx` for `model.int8.onnx`."""
    return out.with_name(out.name.removesuffix(".onnx").removesuffix(".int8") + ".fp16.onnx")


def _chosen_images(
    proto: Any, card: ModelCard, sources: Sequence[Path], config: CalibrationConfig, report: Report
) -> ChosenImages:
    describe_paths = Describer(proto, card)
    chosen = choose_images(sources, describe_paths, most=config.most, seed=config.seed, spec=card.spec, report=report)
    if not config.gate_images:
        return chosen
    judges = read_sources(config.gate_images)
    apart = {path.resolve() for path in judges}
    images = dataclasses.replace(
        chosen.images,
        measure=tuple(path for path in (*chosen.images.measure, *chosen.images.judge) if path.resolve() not in apart),
        judge=tuple(judges),
        labels={path: label for path, label in judges.items() if label is not None},
    )
    if len(images.measure) < FEWEST:
        message = (
            f"without the {len(judges)} pictures of --gate-images {len(images.measure)} are left to calibrate with, "
            f"and it takes {FEWEST}: judge on others, or give more with --images"
        )
        raise InputError(message)
    return ChosenImages(images, describe_paths(images.judge))


def _refuse_if_strict(verdicts: Sequence[GateVerdict], config: CalibrationConfig) -> None:
    if config.strict:
        worst = next(verdict for verdict in verdicts if not verdict.passed)
        message = (
            f"INT8 changes the descriptors too much: {worst.program}: {verdict_text(worst)}; give more varied "
            "pictures, a lower --gate, or leave --strict out to get what passes"
        )
        raise GateError(message)


def _record(model: Path, result: Calibrated, quantiser: str) -> Record:
    shared = {item.name: getattr(result, item.name) for item in dataclasses.fields(Calibrated) if item.name != "proto"}
    return Record(model=model, quantiser=quantiser, **shared)
