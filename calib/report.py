"""What is known of a calibrated file, gathered from its card, its record and the FP32 file beside it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.calib.blocks import find_blocks
from deepir.calib.onnx_file import describe, read_card, read_onnx
from deepir.calib.programs import TrialDescriber
from deepir.calib.quantise import int8_share
from deepir.calib.record import BlockDamage, Record, Trial, read_record, record_path
from deepir.calib.search import for_trials, measure_damage
from deepir.card import GateVerdict
from deepir.errors import InputError
from deepir.runtime.progress import Report
from deepir.spec import Numerics

_FEWEST = 2


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block of the trunk.

    Attributes:
        block: Its name.
        convolutions, kept: How many convolutions it has, and how many of them are FP16.
        damage: See `deepir.calib.record.BlockDamage`; None where it was not measured.
    """

    block: str
    convolutions: int
    kept: int
    damage: float | None


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A quantised tensor.

    Attributes:
        tensor: Its name.
        readers: The nodes that read it, convolutions and residual sums.
        largest: The magnitude with which its codes end.
        beyond: The share of its values, 0..1, that are larger; None where it is not known.
    """

    tensor: str
    readers: tuple[str, ...]
    largest: float
    beyond: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything a report shows; see `deepir.calib.record.Record` for the fields that are named alike.

    Attributes:
        file, model: The names of the calibrated file and of the FP32 file.
        share: The share of the convolutions that are INT8, 0..1.
        equalised, corrected: How many tensors were equalised, of how many convolutions the bias was corrected.
        blocks, tensors: In the order of the network.
        damage_from: How the damage of the blocks came to be known, or why it is not.
        pictures: Counts of what became of the pictures.
        measured_on, judged_on: How many pictures fixed the ranges, and how many judged the file.
    """

    file: str
    model: str
    numerics: Numerics
    quantiser: str
    method: str
    share: float
    equalised: int
    corrected: int
    verdicts: tuple[GateVerdict, ...]
    blocks: tuple[BlockRow, ...]
    damage_from: str
    tensors: tuple[TensorRow, ...]
    trials: tuple[Trial, ...]
    pictures: Mapping[str, int]
    measured_on: int
    judged_on: int

    @property
    def passed(self) -> bool:
        """Whether there is a verdict, and none that failed."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)


def read_findings(file: Path, images: Sequence[Path] = (), report: Report = lambda _: None) -> Findings:
    """Gather what a report shows; where nobody measured what the blocks damage, it is measured now.

    Args:
        file: Written by deepir-calib, its record beside it, and beside that the FP32 file that it was made of.
        images: Pictures to measure the damage on; without them, those of the calibration that still exist.
        report: Is told how far it is.

    Raises:
        InputError: The record or the FP32 file is missing or damaged, or is of another file; or a picture is.
        ModelError: Not a file of deepir.
    """
    proto = read_onnx(file)
    card = read_card(proto)
    path = record_path(file)
    model = path.with_name(_model_name(path))
    record = read_record(path, model)
    if (card.gates, card.numerics) != (record.verdicts, record.numerics):
        message = f"{path} tells of another file than {file}, their verdicts differ: calibrate again with deepir-calib"
        raise InputError(message)
    master = read_onnx(model)
    damage, damage_from = _damage(master, record, images, report)
    return Findings(
        file=file.name,
        model=model.name,
        numerics=record.numerics,
        quantiser=record.quantiser,
        method=record.recipe.method,
        share=int8_share(proto),
        equalised=len(record.recipe.factors),
        corrected=len(record.recipe.biases),
        verdicts=card.gates,
        blocks=_block_rows(master, record, damage),
        damage_from=damage_from,
        tensors=_tensor_rows(master, record),
        trials=record.trials,
        pictures=record.images.counts,
        measured_on=len(record.images.measure),
        judged_on=len(record.images.judge),
    )


def findings_json(findings: Findings) -> str:
    """The findings for programs."""
    return json.dumps({**dataclasses.asdict(findings), "passed": findings.passed})


def _model_name(path: Path) -> str:
    """The name of the FP32 file in a record, which is not worth reading without that file.

    Raises:
        InputError: No such record, or damaged.
    """
    try:
        return Path(json.loads(path.read_text(encoding="utf-8"))["model"]).name
    except FileNotFoundError as error:
        message = f"there is no record {path}: keep the .calib.json that deepir-calib writes beside the file"
        raise InputError(message) from error
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path} is not the record of a calibration ({error}): write one with deepir-calib"
        raise InputError(message) from error


def _damage(master: Any, record: Record, images: Sequence[Path], report: Report) -> tuple[tuple[BlockDamage, ...], str]:
    if record.damage and not images:
        return record.damage, "measured when the model was calibrated"
    if record.quantiser != "deepir":
        return (), f"not measured: the nodes are of {record.quantiser}, whose files cannot be derived again"
    pictures = for_trials(images or [path for path in record.images.measure if path.is_file()])
    if len(pictures) < _FEWEST:
        return (), "not measured: the pictures of the calibration are gone; give others with --images"
    report(f"measuring what each block damages, on {len(pictures)} pictures")
    card = read_card(master)
    reference_nd = describe(master, card, pictures)
    damage = measure_damage(master, card, record.recipe, TrialDescriber(pictures, report), reference_nd, report)
    return tuple(damage), f"measured for this report on {len(pictures)} pictures"


def _block_rows(master: Any, record: Record, damage: Sequence[BlockDamage]) -> tuple[BlockRow, ...]:
    damages = {one.block: one.damage for one in damage}
    kept = set(record.recipe.kept) if record.numerics is Numerics.INT8 else set()
    return tuple(
        BlockRow(block.name, len(block.convolutions), len(kept & set(block.convolutions)), damages.get(block.name))
        for block in find_blocks(master)
    )


def _tensor_rows(master: Any, record: Record) -> tuple[TensorRow, ...]:
    readers: dict[str, list[str]] = {}
    for node in master.graph.node:
        for name in dict.fromkeys(node.input):
            if node.op_type in ("Conv", "Add"):
                readers.setdefault(name, []).append(node.name)
    return tuple(
        TensorRow(name, tuple(readers.get(name, ())), largest, record.saturation.get(name))
        for name, largest in record.recipe.ranges.items()
    )
