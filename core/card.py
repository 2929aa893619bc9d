"""The model card: what an ONNX file says of itself in its metadata."""

import json
from dataclasses import dataclass

from deepir.errors import ModelError, SpecError
from deepir.spec import ModelSpec, Numerics

METADATA_KEY = "deepir"
"""The entry of the ONNX file's metadata_props that holds the card as JSON."""

INPUT_NAME = "images"
"""float32 (N, 3, H, W), as `deepir.image.prepare` gives it; N is free."""

OUTPUT_NAME = "descriptors"
"""float32 (N, D), each row of length 1."""

_SCHEMA = "deepir.model/1"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """How the file compares with its FP32 form on pictures that calibration did not see.

    Attributes:
        passed: Whether every figure is within its limit.
        cosine_min, cosine_mean: Similarity of the two descriptors of each picture.
        agreement: Share of pictures whose nearest neighbour is the same.
        images: How many pictures were compared.
    """

    passed: bool
    cosine_min: float
    cosine_mean: float
    agreement: float
    images: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The model's description, how this file computes, and the verdict of its gate where one was held."""

    spec: ModelSpec
    numerics: Numerics = Numerics.FP32
    gate: GateVerdict | None = None

    def to_json(self) -> str:
        """JSON for metadata_props."""
        gate = None if self.gate is None else {name: getattr(self.gate, name) for name in GateVerdict.__slots__}
        return json.dumps(
            {
                "schema": _SCHEMA,
                "fingerprint": self.spec.fingerprint,
                "numerics": self.numerics.value,
                "spec": json.loads(self.spec.to_json()),
                "gate": gate,
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
            gate = None if fields["gate"] is None else GateVerdict(**fields["gate"])
            card = cls(spec, Numerics(fields["numerics"]), gate)
            stated = (fields["schema"], fields["fingerprint"])
        except (KeyError, TypeError, ValueError, SpecError) as error:
            message = f"the model's card cannot be read ({error}): export the model again"
            raise ModelError(message) from error
        if stated != (_SCHEMA, spec.fingerprint):
            message = f"the model's card says {stated}, expected {(_SCHEMA, spec.fingerprint)}: export the model again"
            raise ModelError(message)
        return card
