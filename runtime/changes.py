"""What can happen to an index after it was built, each change as a line of JSON and bytes for the journal."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deepir.errors import IndexFileError, OptionError
from deepir.runtime.codes import CodeArray, Codes
from deepir.runtime.items import Keys, Metadata
from deepir.runtime.threshold import Threshold

_NEWLINE = b"\n"


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """Views of one label. `codes_nd` are in the form of the index."""

    keys: Keys
    label: str
    sources: tuple[str, ...]
    metadata: tuple[Metadata, ...]
    codes_nd: CodeArray


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """Views that are forgotten."""

    keys: Keys


@dataclass(frozen=True, slots=True, eq=False)
class Relabelling:
    """Views that get another label."""

    keys: Keys
    label: str


@dataclass(frozen=True, slots=True)
class Setting:
    """How answers are judged from now on; None leaves a value as it is."""

    threshold: Threshold | None = None
    far: float | None = None
    margin: float | None = None


Change = Addition | Removal | Relabelling | Setting


def count_views(change: Change) -> int:
    """How many views a change is about; a setting counts as one."""
    return 1 if isinstance(change, Setting) else len(change.keys)


def to_record(change: Change, codes: Codes) -> bytes:
    """A change as bytes."""
    if isinstance(change, Addition):
        head: dict[str, Any] = {
            "do": "add",
            "first": int(change.keys[0]),
            "label": change.label,
            "sources": change.sources,
            "metadata": [dict(entry) for entry in change.metadata] if any(change.metadata) else None,
        }
        return _line(head) + change.codes_nd.astype(codes.code_type).tobytes()
    if isinstance(change, Removal):
        return _line({"do": "remove", "keys": change.keys.tolist()})
    if isinstance(change, Relabelling):
        return _line({"do": "relabel", "keys": change.keys.tolist(), "label": change.label})
    return _line({"do": "set", **asdict(change)})


def from_record(record: bytes, codes: Codes) -> Change:
    """Read what `to_record` wrote.

    Raises:
        IndexFileError: Not such bytes.
    """
    line, _, rest = record.partition(_NEWLINE)
    try:
        fields: dict[str, Any] = json.loads(line)
        kind = fields.pop("do")
        if kind == "add":
            return _addition(fields, rest, codes)
        if kind == "remove":
            return Removal(_keys(fields["keys"]))
        if kind == "relabel":
            return Relabelling(_keys(fields["keys"]), fields["label"])
        if kind == "set":
            threshold = fields.pop("threshold")
            return Setting(threshold=None if threshold is None else Threshold(**threshold), **fields)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OptionError) as error:
        message = f"a change cannot be read ({error!r})"
        raise IndexFileError(message) from error
    message = f"it has a change {kind!r}, which this version does not know"
    raise IndexFileError(message)


def _addition(fields: Mapping[str, Any], content: bytes, codes: Codes) -> Addition:
    sources = tuple(fields["sources"])
    codes_nd = np.frombuffer(content, codes.code_type).reshape(len(sources), codes.dim)
    keys = np.arange(fields["first"], fields["first"] + len(sources), dtype=np.uint64)
    metadata = tuple(fields["metadata"] or [{}] * len(sources))
    if len(metadata) != len(sources):
        message = f"{len(metadata)} metadata for {len(sources)} views"
        raise ValueError(message)
    return Addition(keys, fields["label"], sources, metadata, codes_nd)


def _keys(values: list[int]) -> Keys:
    return np.asarray(values, dtype=np.uint64)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode() + _NEWLINE
