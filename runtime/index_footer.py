"""What deepir knows of the descriptors in an index: the model, their form, the threshold, the generation."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deepir.errors import IndexFileError, OptionError
from deepir.runtime.codes import Codes
from deepir.runtime.index_whitening import WhiteningNote
from deepir.runtime.threshold import FALSE_ACCEPTS, Threshold

SCHEMA = "deepir.index/3"

MARGIN = 0.02
"""How far the second label must be behind the first, or the answer is `ambiguous` (docs/benchmarks.md)."""


class OtherVersionError(IndexFileError):
    """The file is whole, and another version of deepir wrote it."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model that makes descriptors of the index.

    Attributes:
        fingerprint: Names the model; its FP32, FP16 and INT8 forms share it.
        sha256: Of the model file.
        relative: Its path from the folder of the index.
        absolute: Its path on the machine that wrote the index.
    """

    fingerprint: str
    sha256: str
    relative: str
    absolute: str


@dataclass(frozen=True, slots=True)
class Recall:
    """How many of the true 10 nearest neighbours a search finds, measured on the index itself.

    Attributes:
        value: 0..1, the mean over `queries` stored views, each searched among the others.
        queries: How many were searched.
        items: How many views the index had.
    """

    value: float
    queries: int
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What deepir knows of the descriptors in the file.

    Attributes:
        model: What describes queries.
        references: What described the stored pictures, where that is another model (see `deepir.runtime.asymmetric`).
        codes: The form in which descriptors are stored.
        next_key: Keys are never used twice.
        far: Wanted share of false accepts.
        margin: See MARGIN.
        generation: Grows by one with each save.
        previous: Digest of the generation before; empty in the first.
        absorbed: Names the state of its journal, whose changes are in this generation; empty where it had none.
        whitening: What the model's descriptors go through before they are stored or compared; None for nothing.
        recall: None where there were too few views to measure it.
        removed: Views that were removed and whose values are still in the bytes of usearch.
        thumbnails: The longest side in pixels of the pictures kept beside the index; None where none are kept.
        sections: Their sizes in bytes, in order.
    """

    model: ModelReference
    references: ModelReference | None = None
    codes: Codes
    next_key: int = 1
    far: float = FALSE_ACCEPTS
    margin: float = MARGIN
    threshold: Threshold | None = None
    usearch: str = ""
    generation: int = 0
    previous: str = ""
    absorbed: str = ""
    whitening: WhiteningNote | None = None
    recall: Recall | None = None
    removed: int = 0
    thumbnails: int | None = None
    sections: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON with its schema."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Footer":
        """Read what `to_json` wrote.

        Raises:
            OtherVersionError: Another schema, or fields that are not as expected.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            schema = fields.pop("schema")
            if schema != SCHEMA:
                message = f"it has the schema {schema!r}, this version reads {SCHEMA}"
                raise OtherVersionError(message)
            kinds: dict[str, Callable[[Any], object]] = {
                "model": lambda values: ModelReference(**values),
                "references": lambda values: ModelReference(**values),
                "codes": lambda values: Codes(**values),
                "threshold": lambda values: Threshold(**values),
                "whitening": lambda values: WhiteningNote(**{**values, "pictures": tuple(values["pictures"])}),
                "recall": lambda values: Recall(**values),
            }
            needed = {"model", "codes"}
            made = {
                name: make(fields[name])
                for name, make in kinds.items()
                if name in needed or fields.get(name) is not None
            }
            return cls(**{**fields, **made})
        except (AttributeError, KeyError, TypeError, ValueError, OptionError) as error:
            message = f"its footer cannot be read ({error!r})"
            raise OtherVersionError(message) from error
