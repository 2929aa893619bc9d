"""The record of a calibration, OUT.calib.json: the recipe of the INT8 file, how it was judged, and on what."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepir.calib.images import CalibrationSet
from deepir.calib.recipe import Channels, Recipe
from deepir.card import GateVerdict
from deepir.errors import InputError
from deepir.files import file_sha256, write_text
from deepir.spec import Numerics

_SCHEMA = "deepir.calib/2"


@dataclass(frozen=True, slots=True)
class BlockDamage:
    """What a block of the trunk costs.

    Attributes:
        block: Its name.
        convolutions: The names of its convolutions.
        damage: How much nearer to FP32 descriptors come, in the mean cosine, when this block alone stays FP16.
    """

    block: str
    convolutions: tuple[str, ...]
    damage: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A recipe that was tried on calibration pictures before the gate saw one.

    Attributes:
        recipe: The method in words: "max", "max, equalised", "max, 3 convolutions FP16".
        cosine_min, cosine_mean: Similarity with FP32.
    """

    recipe: str
    cosine_min: float
    cosine_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that is known of an INT8 file.

    Attributes:
        model: The FP32 file that it was made from.
        quantiser: `deepir`, or the library that placed the nodes; only files of `deepir` can be derived again.
        recipe: From which the INT8 file is derived.
        numerics: Of the file; FP16 where no INT8 file passed the gate.
        verdicts: Of the gate, one for each program.
        images: The pictures that were measured and those that judged.
        trials: What was tried, in order.
        damage: By block, the worst first; empty where it was not measured.
        saturation: The share of each quantised tensor's values, 0..1, that lie beyond its range.
    """

    model: Path
    recipe: Recipe
    verdicts: tuple[GateVerdict, ...]
    images: CalibrationSet
    numerics: Numerics = Numerics.INT8
    quantiser: str = "deepir"
    trials: tuple[Trial, ...] = ()
    damage: tuple[BlockDamage, ...] = ()
    saturation: Mapping[str, float] = field(default_factory=dict)


def record_path(int8_file: Path) -> Path:
    """Where the record of an INT8 file lies."""
    return int8_file.with_suffix(".calib.json")


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all; pictures that are gone by now are listed without their hash."""
    fields = {
        "schema": _SCHEMA,
        "model": record.model.name,
        "model_sha256": file_sha256(record.model),
        "numerics": record.numerics.value,
        "quantiser": record.quantiser,
        "recipe": asdict(record.recipe),
        "verdicts": [asdict(verdict) for verdict in record.verdicts],
        "trials": [asdict(trial) for trial in record.trials],
        "damage": [asdict(damage) for damage in record.damage],
        "saturation": dict(record.saturation),
        "pictures": dict(record.images.counts),
        "measured_on": _hashes(record.images.measure),
        "judged_on": _hashes(record.images.judge),
        "labels": {str(path): label for path, label in record.images.labels.items()},
    }
    write_text(path, json.dumps(fields, indent=1))


def read_record(path: Path, model: Path) -> Record:
    """Read what `write_record` wrote for an FP32 file.

    Raises:
        InputError: Missing, damaged, of another schema, or made of another file.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["schema"] != _SCHEMA:
            message = f"schema {fields['schema']!r}, expected {_SCHEMA}"
            raise ValueError(message)
        record = Record(
            model=model,
            numerics=Numerics(fields["numerics"]),
            quantiser=str(fields["quantiser"]),
            recipe=_recipe(fields["recipe"]),
            verdicts=tuple(GateVerdict(**verdict) for verdict in fields["verdicts"]),
            trials=tuple(Trial(**trial) for trial in fields["trials"]),
            damage=tuple(_damage(**damage) for damage in fields["damage"]),
            saturation={str(name): _share(value) for name, value in fields["saturation"].items()},
            images=CalibrationSet(
                measure=tuple(map(Path, fields["measured_on"])),
                judge=tuple(map(Path, fields["judged_on"])),
                labels={Path(name): str(label) for name, label in fields["labels"].items()},
                counts={str(name): int(count) for name, count in fields["pictures"].items()},
            ),
        )
        made_of = (fields["model"], fields["model_sha256"])
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{path} is not the record of a calibration ({error}): write one with deepir-calib"
        raise InputError(message) from error
    if made_of[1] != file_sha256(model):
        message = (
            f"{path} was made of another file ({made_of[0]}, SHA-256 {str(made_of[1])[:12]}...) than {model}: "
            "calibrate again, with --calib and a folder of pictures"
        )
        raise InputError(message)
    return record


def _recipe(fields: dict[str, Any]) -> Recipe:
    return Recipe(
        method=str(fields["method"]),
        ranges={str(name): _range(value) for name, value in fields["ranges"].items()},
        factors=_channels(fields["factors"]),
        biases=_channels(fields["biases"]),
        skips=_flag(fields["skips"]),
        kept=tuple(map(str, fields["kept"])),
    )


def _damage(*, block: str, convolutions: list[str], damage: float) -> BlockDamage:
    return BlockDamage(str(block), tuple(map(str, convolutions)), _finite(damage))


def _channels(values: dict[str, list[float]]) -> Channels:
    return {str(name): [_finite(value) for value in channels] for name, channels in values.items()}


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        message = f"expected true or false, got {value!r}"
        raise TypeError(message)
    return value


def _share(value: Any) -> float:
    if not 0 <= _finite(value) <= 1:
        message = f"a share of {value}"
        raise ValueError(message)
    return float(value)


def _range(value: Any) -> float:
    if _finite(value) < 0:
        message = f"a range of {value}"
        raise ValueError(message)
    return float(value)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        message = f"a value of {value}"
        raise ValueError(message)
    return number


def _hashes(paths: tuple[Path, ...]) -> dict[str, str | None]:
    return {str(path): file_sha256(path) if path.is_file() else None for path in paths}
