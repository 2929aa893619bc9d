"""NAME.engine.json beside NAME.engine: what was built, of what, for which machine, and how true it is."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepir.card import OUTPUT_NAME, GateVerdict, ModelCard
from deepir.errors import EngineError, ModelError
from deepir.files import write_text
from deepir.spec import Size

_SCHEMA = "deepir.engine/1"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Portable = Literal["none", "version", "arch", "both"]
"""What else than the machine of the build may run an engine: newer TensorRT, other GPUs, or both."""

PORTABLE: tuple[Portable, ...] = ("none", "version", "arch", "both")
FLAVOURS = ("tensorrt", "rtx")
PLUGINS = ("native", "python")


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """A GPU: its name, its compute capability such as "8.7", its memory in MiB (1 MiB = 2**20 bytes)."""

    name: str
    compute_capability: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class PrecisionCount:
    """How many convolutions the built engine has, and how many of them compute in each precision."""

    convolutions: int
    int8: int
    fp16: int
    fp32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What the sidecar says of an engine; checked when it is made.

    Attributes:
        card: The model's description, the precision that was asked for, the inputs.
        engine_sha256, engine_bytes: The plan's content.
        onnx_file, onnx_sha256: Name (no folder) and content of the file it was built from.
        calibration_sha256: Of the calibration file; None where the model is not INT8 or it is not known.
        flavour: "tensorrt" or "rtx".
        tensorrt_version, cuda_version: What built it; CUDA None where it is not known.
        portable: See `Portable`.
        gpu: The GPU of the build; None for a TensorRT-RTX build without one.
        compute_capabilities: What TensorRT-RTX built for, such as "8.6"; empty otherwise.
        precision: Read back from the built engine, not from what was wished.
        plugin: "python" when the engine needs our plugin registered, "native" when it needs none.
        batch: Smallest, usual and largest number of pictures.
        shapes: (height, width) in pixels, one for each optimisation profile; smallest, usual and largest of the one
            profile where the pictures keep their aspect.
        gate: The comparison with FP32 ONNX Runtime; None when it was not run, and `not_run` says why.
        not_run: Empty when there is a gate.
        build_seconds, peak_mib: Cost of the build; memory None where it is not known.
        built_at: ISO 8601, UTC.
        command: What was typed.
        host: "os", "arch", and "jetpack" where it is one.
    """

    card: ModelCard
    engine_sha256: str
    engine_bytes: int
    onnx_file: str
    onnx_sha256: str
    calibration_sha256: str | None
    flavour: str
    tensorrt_version: str
    cuda_version: str | None
    portable: str
    gpu: GpuInfo | None
    compute_capabilities: tuple[str, ...]
    precision: PrecisionCount
    plugin: str
    batch: tuple[int, int, int]
    shapes: tuple[Size, ...]
    gate: GateVerdict | None
    not_run: str
    build_seconds: float
    peak_mib: float | None
    built_at: str
    command: tuple[str, ...]
    host: dict[str, str]

    def __post_init__(self) -> None:
        for name in ("engine_sha256", "onnx_sha256"):
            _check(_SHA256.fullmatch(getattr(self, name)) is not None, name, getattr(self, name))
        _check(self.flavour in FLAVOURS, "flavour", self.flavour)
        _check(self.portable in PORTABLE, "portable", self.portable)
        _check(self.plugin in PLUGINS, "plugin", self.plugin)
        # the name is looked up beside the engine, so it must not lead elsewhere
        inside = self.onnx_file not in ("", "..") and Path(self.onnx_file).name == self.onnx_file
        _check(inside, "onnx_file", self.onnx_file)
        _check(len(self.batch) == 3 and 1 <= self.batch[0] <= self.batch[1] <= self.batch[2], "batch", self.batch)
        _check(bool(self.shapes) and min(side for size in self.shapes for side in size) > 0, "shapes", self.shapes)
        _check(math.isfinite(self.build_seconds) and self.build_seconds >= 0, "build_seconds", self.build_seconds)
        _check((self.gate is None) == bool(self.not_run), "not_run", self.not_run)

    def to_json(self) -> str:
        """JSON of schema deepir.engine/1, indented for people."""
        fields = {name: getattr(self, name) for name in _PLAIN}
        nested = {name: _plain(getattr(self, name)) for name in ("gpu", "precision", "gate")}
        stated = {
            "schema": _SCHEMA,
            "card": json.loads(self.card.to_json()),
            "io": {"inputs": list(self.card.inputs()), "output": OUTPUT_NAME, "dim": self.card.spec.dim},
        }
        return json.dumps({**stated, **fields, **nested}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "EngineRecord":
        """Read what `to_json` wrote.

        Raises:
            ModelError: Damaged, of another schema, or with a value that cannot be.
        """
        try:
            fields = json.loads(text)
            schema = fields["schema"]
            if schema != _SCHEMA:
                message = f"expected schema {_SCHEMA}, got {schema!r}"
                raise ValueError(message)
            return cls(card=ModelCard.from_json(json.dumps(fields["card"])), **_read(fields))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ModelError) as error:
            message = f"the engine's description is damaged or foreign ({error}): build the engine again"
            raise ModelError(message) from error


def sidecar_path(engine: Path) -> Path:
    """Where an engine's description lies: shop.engine.json beside shop.engine."""
    return engine.with_name(engine.name + ".json")


def read_record(engine: Path) -> EngineRecord:
    """The description of an engine; the engine itself is not opened.

    Raises:
        EngineError: There is no description, or it cannot be read.
        ModelError: It is damaged.
    """
    path = sidecar_path(engine)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = (
            f"{engine} has no {path.name} beside it, so nobody knows where it comes from, and an engine is code: "
            "build it here with deepir-export"
        )
        raise EngineError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {path} ({error}): build the engine again with deepir-export"
        raise EngineError(message) from error
    try:
        return EngineRecord.from_json(text)
    except ModelError as error:
        message = f"{path}: {error}"
        raise ModelError(message) from error


def write_record(engine: Path, record: EngineRecord) -> None:
    """Put the description beside the engine, whole or not at all."""
    write_text(sidecar_path(engine), record.to_json())


_TEXTS = ("engine_sha256", "onnx_file", "onnx_sha256", "flavour", "tensorrt_version", "portable", "plugin", "not_run")
_PLAIN = (
    *_TEXTS,
    *("engine_bytes", "calibration_sha256", "cuda_version", "compute_capabilities", "batch", "shapes"),
    *("build_seconds", "peak_mib", "built_at", "command", "host"),
)


def _read(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of EngineRecord but the card, each of its type."""
    gpu, gate = fields["gpu"], fields["gate"]
    return {
        **{name: _text(fields, name) for name in (*_TEXTS, "built_at")},
        **{name: _text(fields, name, none=True) for name in ("calibration_sha256", "cuda_version")},
        "engine_bytes": _whole(fields["engine_bytes"]),
        "gpu": None if gpu is None else _gpu(gpu),
        "compute_capabilities": tuple(map(str, fields["compute_capabilities"])),
        "precision": PrecisionCount(*(_whole(fields["precision"][name]) for name in PrecisionCount.__slots__)),
        "batch": tuple(map(_whole, fields["batch"])),
        "shapes": tuple((_whole(height), _whole(width)) for height, width in fields["shapes"]),
        "gate": None if gate is None else GateVerdict(**gate),
        "build_seconds": float(fields["build_seconds"]),
        "peak_mib": None if fields["peak_mib"] is None else float(fields["peak_mib"]),
        "command": tuple(map(str, fields["command"])),
        "host": {str(name): str(value) for name, value in fields["host"].items()},
    }


def _gpu(fields: Mapping[str, Any]) -> GpuInfo:
    name, capability = (str(_text(fields, field)) for field in ("name", "compute_capability"))
    return GpuInfo(name, capability, _whole(fields["memory_mib"]))


def _text(fields: Mapping[str, Any], name: str, *, none: bool = False) -> str | None:
    value = fields[name]
    if not isinstance(value, str) and not (none and value is None):
        message = f"{name} is {value!r}, not text"
        raise TypeError(message)
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"{value!r} is not a whole number of 0 or more"
        raise TypeError(message)
    return value


def _plain(value: Any) -> Any:
    return None if value is None else dataclasses.asdict(value)


def _check(holds: bool, name: str, value: object) -> None:
    if not holds:
        message = f"an engine's {name} cannot be {value!r}"
        raise ModelError(message)
