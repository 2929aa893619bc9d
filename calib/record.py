"""The record of a calibration, OUT.calib.json: everything from which the INT8 file can be derived again."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepir.calib.images import CalibrationSet
from deepir.calib.ranges import Ranges
from deepir.card import GateVerdict
from deepir.errors import InputError
from deepir.files import file_sha256, write_text

_SCHEMA = "deepir.calib/1"


@dataclass(frozen=True, slots=True)
class Record:
    """Ranges, the method and the FP32 file they came from, the verdict, and the pictures of both."""

    model: Path
    method: str
    ranges: Ranges
    verdict: GateVerdict
    images: CalibrationSet


def record_path(int8_file: Path) -> Path:
    """Where the record of an INT8 file lies."""
    return int8_file.with_suffix(".calib.json")


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all; pictures that are gone by now are listed without their hash."""
    fields = {
        "schema": _SCHEMA,
        "model": record.model.name,
        "model_sha256": file_sha256(record.model),
        "method": record.method,
        "ranges": record.ranges,
        "verdict": asdict(record.verdict),
        "measured_on": _hashes(record.images.measure),
        "judged_on": _hashes(record.images.judge),
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
        ranges = {str(name): _range(value) for name, value in fields["ranges"].items()}
        images = CalibrationSet(tuple(map(Path, fields["measured_on"])), tuple(map(Path, fields["judged_on"])))
        record = Record(model, str(fields["method"]), ranges, GateVerdict(**fields["verdict"]), images)
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


def _range(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        message = f"a range of {value}"
        raise ValueError(message)
    return number


def _hashes(paths: tuple[Path, ...]) -> dict[str, str | None]:
    return {str(path): file_sha256(path) if path.is_file() else None for path in paths}
