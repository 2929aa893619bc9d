"""The model card: what an ONNX file says of itself in its metadata."""

import json
import math
from dataclasses import dataclass
from typing import Literal, get_args

from deepir.errors import ModelError, SpecError
from deepir.spec import ModelSpec, Numerics

PixelType = Literal["float32", "uint8"]

PIXEL_TYPES: tuple[PixelType, ...] = get_args(PixelType)

METADATA_KEY = "deepir"
"""The entry of the ONNX file's metadata_props that holds the card as JSON."""

INPUT_NAME = "images"
"""float32 (N, 3, H, W), as `deepir.image.prepare` gives it; N is free. Several resolutions: images_0, images_1, ..."""

REGIONS_INPUT = "rois"
"""int32 (R, 4), the windows of a map, where height and width are free; see `ModelCard.inputs`."""

OUTPUT_NAME = "descriptors"
"""float32 (N, D), each row of length 1."""

ONNX_RUNTIME = "ONNX Runtime"

_SCHEMA = "deepir.model/2"
_FIRST_SCHEMA = "deepir.model/1"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """How the file compares with its FP32 form on pictures that calibration did not see.

    Attributes:
        passed: Whether every figure is within its limit.
        cosine_min, cosine_mean: Similarity of the two descriptors of each picture.
        agreement: Share of pictures whose nearest neighbour is the same.
        images: How many pictures were compared.
        program: What ran the file, for example "ONNX Runtime".
        map_loss, recall_loss: What FP32 has more of mean average precision and of recall@1, -1..1; None where fewer
            than two pictures have a label.
        queries: How many of the pictures have a label that another one shares.
    """

    passed: bool
    cosine_min: float
    cosine_mean: float
    agreement: float
    images: int
    program: str = ONNX_RUNTIME
    map_loss: float | None = None
    recall_loss: float | None = None
    queries: int = 0

    def __post_init__(self) -> None:
        figures = (self.cosine_min, self.cosine_mean, self.agreement, self.map_loss or 0.0, self.recall_loss or 0.0)
        counted = isinstance(self.passed, bool) and type(self.images) is type(self.queries) is int
        if not (counted and isinstance(self.program, str) and all(map(math.isfinite, figures))):
            message = f"a verdict of passed={self.passed!r} on {self.images!r} pictures with the figures {figures}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The model's description, how this file computes and what it takes, and the verdict of its gate if one was held.

    Attributes:
        gates: The verdicts on an INT8 file, one for each program that ran it.
        pixels: `float32` for prepared pictures (N, 3, H, W); `uint8` for resized ones (N, H, W, 3), RGB, which the
            file normalises itself.
        strides: Where height and width are free, the pixels for each cell of each map that is pooled, the middle
            maps first; the windows are then inputs too. Empty for files of fixed size.
    """

    spec: ModelSpec
    numerics: Numerics = Numerics.FP32
    gates: tuple[GateVerdict, ...] = ()
    pixels: PixelType = "float32"
    strides: tuple[int, ...] = ()

    @property
    def gate(self) -> GateVerdict | None:
        """The verdict that decides: the first that failed, else the first; None where no gate was held."""
        return next((verdict for verdict in self.gates if not verdict.passed), next(iter(self.gates), None))

    @property
    def free_size(self) -> bool:
        """Whether height and width are free."""
        return bool(self.strides)

    def inputs(self) -> tuple[str, ...]:
        """The names of the file's inputs in order: the images of each resolution, then, where height and width are
        free, the windows of each map: `rois` of the last one, `rois_0`, ... of the middle ones, and with several
        resolutions `rois@0`, `rois_0@1`, ..., resolution by resolution.
        """
        count = len(self.spec.resolutions)
        images = (INPUT_NAME,) if count == 1 else tuple(f"{INPUT_NAME}_{number}" for number in range(count))
        maps = [*(f"{REGIONS_INPUT}_{number}" for number in range(len(self.strides) - 1)), REGIONS_INPUT]
        marks = [""] if count == 1 else [f"@{number}" for number in range(count)]
        return (*images, *(f"{name}{mark}" for mark in marks for name in maps)) if self.free_size else images

    def to_json(self) -> str:
        """JSON for metadata_props."""
        gates = [{name: getattr(verdict, name) for name in GateVerdict.__slots__} for verdict in self.gates]
        return json.dumps(
            {
                "schema": _SCHEMA,
                "fingerprint": self.spec.fingerprint,
                "numerics": self.numerics.value,
                "spec": json.loads(self.spec.to_json()),
                "gates": gates,
                "pixels": self.pixels,
                "strides": self.strides,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Read what `to_json` wrote.

        Raises:
            ModelError: Damaged, of another schema, or its fingerprint is not that of its description.
        """
        try:
            fields = json.loads(text)
            spec = ModelSpec.from_json(json.dumps(fields["spec"]))
            # files of the first schema have one verdict or none
            gates = [fields["gate"]] if fields["schema"] == _FIRST_SCHEMA else fields["gates"]
            verdicts = tuple(GateVerdict(**verdict) for verdict in gates if verdict is not None)
            # files written before there was a choice take prepared pictures of a fixed size
            pixels, strides = fields.get("pixels", "float32"), tuple(fields.get("strides", ()))
            if pixels not in PIXEL_TYPES or not all(type(stride) is int and stride > 0 for stride in strides):
                message = f"pixels {pixels!r}, strides {strides}"
                raise ValueError(message)
            card = cls(spec, Numerics(fields["numerics"]), verdicts, pixels, strides)
            stated = (fields["schema"].replace(_FIRST_SCHEMA, _SCHEMA), fields["fingerprint"])
        except (AttributeError, KeyError, TypeError, ValueError, SpecError) as error:
            message = f"the model's card cannot be read ({error}): export the model again"
            raise ModelError(message) from error
        if stated != (_SCHEMA, spec.fingerprint):
            message = f"the model's card says {stated}, expected {(_SCHEMA, spec.fingerprint)}: export the model again"
            raise ModelError(message)
        return card
