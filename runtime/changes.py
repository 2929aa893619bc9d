"""What can happen to an index after it was built, as lines of JSON, each with its bytes, for the journal."""

import json
from collections.abc import Iterator, Mapping, Sequence
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


def to_record(changes: Sequence[Change], codes: Codes) -> bytes:
    """Changes that happen together as bytes."""
    return b"".join(_bytes_of(change, codes) for change in changes)


def from_record(record: bytes, codes: Codes) -> list[Change]:
    """Read what `to_record` wrote.

    Raises:
        IndexFileError: Not such bytes.
    """
    return list(_read(record, codes))


def _bytes_of(change: Change, codes: Codes) -> bytes:
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


def _read(record: bytes, codes: Codes) -> Iterator[Change]:
    start = 0
    try:
        while start < len(record):
            end = record.index(_NEWLINE, start)
            fields: dict[str, Any] = json.loads(record[start:end])
            start = end + len(_NEWLINE)
            if fields["do"] == "add":
                size = len(fields["sources"]) * codes.dim * codes.code_type.itemsize
                yield _addition(fields, record[start : start + size], codes)
                start += size
            else:
                yield _other(fields)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OptionError) as error:
        message = f"a change cannot be read ({error!r})"
        raise IndexFileError(message) from error


def _other(fields: dict[str, Any]) -> Change:
    kind = fields.pop("do")
    if kind == "remove":
        return Removal(_keys(fields["keys"]))
    if kind == "relabel":
        return Relabelling(_keys(fields["keys"]), fields["label"])
    if kind == "set":
        threshold = fields.pop("threshold")
        return Setting(threshold=None if threshold is None else Threshold(**threshold), **fields)
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
    return np.asarray(list(values), dtype=np.uint64)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode() + _NEWLINE
