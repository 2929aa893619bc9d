"""What a model is: the description that travels with its weights, its ONNX file and its index."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from deepir.errors import SpecError
from deepir.head import Head, check_choice, check_range

Size = tuple[int, int]
"""Height and width of a prepared image, in pixels."""

Triple = tuple[float, float, float]

_SCHEMA = "deepir.spec/1"
_RESIZES = ("stretch", "longest", "nearest")
INTERPOLATIONS = ("area", "bilinear")
_SMALLEST_SIDE = 32
_LARGEST_SIDE = 8192
_FINGERPRINT_LENGTH = 16


class Numerics(str, Enum):
    """How a model computes. It is not part of the fingerprint: all forms give comparable descriptors."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Architecture, preprocessing, whitening and weights of an R-MAC model; checked when it is made.

    Attributes:
        backbone: The trunk, as `library:name`, for example `timm:resnet18`.
        sizes: (height, width) in pixels, one for each resolution; several make a multi-resolution model.
        resize: `stretch` gives exactly `sizes`; `longest` keeps the aspect and makes the longest side max(size);
            `nearest` takes `sizes` as alternatives and stretches a picture to the one of the nearest aspect.
        interpolation: `area` (averages when it shrinks) or `bilinear` (method.md 2.2, as the Caffe models did).
        mean, std: Subtracted from, then divided into, RGB values in 0..1.
        stride: Input pixels for each cell of the trunk's map.
        channels: Values for each cell of the map.
        head: What turns the map into a descriptor.
        dim: Values of a descriptor.
        whitening: What the whitening was fitted on, in words; `none` before it is fitted.
        weights: Hex SHA-256 of all weights, the whitening among them.
    """

    backbone: str
    sizes: tuple[Size, ...]
    mean: Triple
    std: Triple
    stride: int
    channels: int
    dim: int
    resize: str = "stretch"
    interpolation: str = "area"
    head: Head = field(default_factory=Head)
    whitening: str = "none"
    weights: str = ""

    def __post_init__(self) -> None:
        _check_sizes(self.sizes)
        check_choice("resize", self.resize, _RESIZES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_range("stride", self.stride, 1, _SMALLEST_SIDE)
        check_range("channels", self.channels, 1, 1 << 16)
        check_range("dim", self.dim, 1, 1 << 16)
        three_each = len(self.mean) == len(self.std) == 3
        if not (three_each and all(map(math.isfinite, self.mean + self.std)) and min(self.std) > 0):
            message = f"mean and std need three finite values each, std above 0; got {self.mean} and {self.std}"
            raise SpecError(message)

    @property
    def size(self) -> Size:
        """The middle resolution: the one a single-resolution model of this kind uses."""
        return self.sizes[len(self.sizes) // 2]

    @property
    def resolutions(self) -> tuple[Size | None, ...]:
        """At which sizes a picture is described; None where the picture decides which."""
        return (None,) if self.resize == "nearest" else self.sizes

    @property
    def fingerprint(self) -> str:
        """Names the model: equal for its FP32, FP16 and INT8 forms, different for any other model."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:_FINGERPRINT_LENGTH]

    def at_sizes(self, sizes: tuple[Size, ...]) -> "ModelSpec":
        """The same weights at other resolutions."""
        return dataclasses.replace(self, sizes=sizes)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        fields = {"schema": _SCHEMA, **dataclasses.asdict(self)}
        # 0 and 0.0 are the same mean, so they must give the same text and the same fingerprint
        fields |= {"mean": [float(value) for value in self.mean], "std": [float(value) for value in self.std]}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Read what `to_json` wrote.

        Raises:
            SpecError: Not JSON, another schema, a field too many or too few, or a value out of range.
        """
        fields = _parse(text)
        schema = fields.pop("schema", None)
        if schema != _SCHEMA:
            message = (
                f"expected a model description of schema {_SCHEMA}, got {schema!r}: was it written by another version?"
            )
            raise SpecError(message)
        try:
            fields["sizes"] = tuple((height, width) for height, width in fields["sizes"])
            fields["mean"] = tuple(float(value) for value in fields["mean"])
            fields["std"] = tuple(float(value) for value in fields["std"])
            head = fields["head"]
            fields["head"] = Head(**{**head, "middle": tuple(head["middle"])})
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            message = f"the model description is incomplete or foreign: {error}"
            raise SpecError(message) from error


def scaled_sizes(size: Size, factors: tuple[float, ...]) -> tuple[Size, ...]:
    """The resolutions `size` times each factor, rounded to whole pixels (method.md 2.3)."""
    return tuple((round(size[0] * factor), round(size[1] * factor)) for factor in factors)


def parse_size(text: str) -> Size:
    """Read `320` as a square, `480x640` as height x width.

    Raises:
        SpecError: Anything else.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if match is None:
        message = f"expected a size such as 320 or 480x640 (height x width), got {text!r}"
        raise SpecError(message)
    height = int(match[1])
    return height, int(match[2]) if match[2] else height


def parse_scales(text: str, size: Size) -> tuple[Size, ...]:
    """Read `0.5,1,1.5` as factors of `size`, and `248,496,744` or `192x256,384x512` as sizes in pixels.

    Values below 16 are factors; with a sign, as in `-250,0,+250`, they are added to both sides of `size`
    (method.md 2.3). Raises SpecError for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if any(part[:1] in ("-", "+") for part in parts):
        return _offset_sizes(size, parts, text)
    try:
        factors = tuple(float(part) for part in parts)
    except ValueError:
        return tuple(parse_size(part) for part in parts)
    if all(0 < factor < 16 for factor in factors):
        return scaled_sizes(size, factors)
    return tuple(parse_size(part) for part in parts)


def _offset_sizes(size: Size, parts: list[str], text: str) -> tuple[Size, ...]:
    try:
        offsets = [int(part) for part in parts]
    except ValueError as error:
        message = f"expected pixels to add such as -250,0,+250, got {text!r}"
        raise SpecError(message) from error
    return tuple((size[0] + offset, size[1] + offset) for offset in offsets)


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        message = f"the model description is not JSON: {error}"
        raise SpecError(message) from error
    if not isinstance(fields, dict):
        message = f"the model description must be a JSON object, got {type(fields).__name__}"
        raise SpecError(message)
    return fields


def _check_sizes(sizes: tuple[Size, ...]) -> None:
    if not sizes:
        message = "a model needs at least one size"
        raise SpecError(message)
    for side in (side for size in sizes for side in size):
        check_range("image side", side, _SMALLEST_SIDE, _LARGEST_SIDE)
