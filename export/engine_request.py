"""What the process that builds is asked, and what it answers: plain JSON, so that a crash takes nothing else along."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from deepir.runtime.sidecar import PrecisionCount


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build.

    Attributes:
        onnx, plan: Files to read and to write.
        flavour: "tensorrt" or "rtx".
        int8: Whether the file has INT8 convolutions.
        plugin: Whether our plugin must be known to the parser.
        profiles: For each profile, for each input, its smallest, usual and largest shape.
        workspace_mib: What TensorRT may take beside weights and maps.
        portable: "none", "version", "arch" or "both".
        compute_capabilities: For TensorRT-RTX, such as "8.6".
        ampere: Whether the GPU is of compute capability 8.0 or newer.
        convolutions: The names of the file's convolutions.
        head: Where the head begins; see `deepir.export.engine_head`.
        timing_in, timing_out: Files with TensorRT's timing cache; empty for none.
    """

    onnx: str
    plan: str
    flavour: str
    int8: bool
    plugin: bool
    profiles: list[dict[str, list[list[int]]]]
    workspace_mib: int
    portable: str
    compute_capabilities: list[str]
    ampere: bool
    convolutions: list[str]
    head: dict[str, list[str]]
    timing_in: str
    timing_out: str

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "BuildRequest":
        """What `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What was built: the precision of its convolutions, those that are missing, memory, remarks.

    Attributes:
        precision: Read back from the plan.
        dropped: Convolutions of the file of which the plan shows no trace.
        peak_mib: The most memory that the process held, in MiB (2**20 bytes); None where Linux does not tell.
        notes: Remarks for people.
    """

    precision: PrecisionCount
    dropped: list[str]
    peak_mib: float | None
    notes: list[str]

    def fields(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "BuildResult":
        """What `fields` gave."""
        return cls(**{**fields, "precision": PrecisionCount(**fields["precision"])})
