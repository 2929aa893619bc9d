"""Views as JSON lines: one object for each, with its descriptor or, as a list of labels, without."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from deepir.errors import InputError
from deepir.files import replacing
from deepir.runtime.exchanged import Exchanged, Named

_DIGITS = "%.9g"
"""So many tell every float32 from its neighbours."""

_NONE = type(None)
_KINDS = {
    "key": (int, _NONE),
    "label": (str,),
    "source": (str, _NONE),
    "metadata": (dict, _NONE),
    "model": (str, _NONE),
    "whitened": (bool, _NONE),
}
"""What may stand in an object, besides the descriptor."""


def write_jsonl(exchanged: Exchanged, path: Path) -> None:
    """Write an object with key, label, source, metadata, model and descriptor for each view, whole or not at all.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    _, dim = exchanged.descriptors_nd.shape
    numbers = ",".join([_DIGITS] * dim)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for head, descriptor_1d in zip(_heads(exchanged), exchanged.descriptors_nd, strict=True):
            stream.write(f'{head[:-1]}, "descriptor": [{numbers % tuple(descriptor_1d.tolist())}]}}\n')


def write_labels(exchanged: Exchanged, path: Path) -> None:
    """Write the same objects without descriptors.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{head}\n" for head in _heads(exchanged))


def read_jsonl(path: Path) -> Exchanged:
    """Read what `write_jsonl` wrote; only label and descriptor must be there.

    Raises:
        InputError: Missing, or a line that is not such an object, with its number.
    """
    rows, heads, size = [], [], None
    for number, fields in _objects(path):
        row = _descriptor(fields, path, number)
        if size not in {None, len(row)}:
            message = f"line {number} of {path} has {len(row)} values, the lines before have {size}"
            raise InputError(message)
        size = len(row)
        rows.append(row)
        heads.append(fields)
    keyed = all("key" in fields for fields in heads)
    model, whitened = _origin(heads, path)
    return Exchanged(
        descriptors_nd=np.stack(rows) if rows else np.empty((0, 0), np.float32),
        keys=np.array([fields["key"] for fields in heads]) if keyed else None,
        labels=[fields["label"] for fields in heads],
        sources=[fields.get("source", "") for fields in heads],
        metadata=[fields.get("metadata") or {} for fields in heads],
        model=model,
        whitened=whitened,
    )


def read_labels(path: Path) -> tuple[dict[int, Named], str, bool]:
    """What a list of labels says of each key, the model that it names, and whether descriptors were whitened.

    Raises:
        InputError: Missing, or a line that is not such an object, with its number; a key that occurs twice.
    """
    named: dict[int, Named] = {}
    heads = []
    for number, fields in _objects(path):
        if "key" not in fields or fields["key"] in named:
            message = f"line {number} of {path} has no key, or one that an earlier line has: {fields.get('key')!r}"
            raise InputError(message)
        named[fields["key"]] = Named(fields["label"], fields.get("source", ""), fields.get("metadata"))
        heads.append(fields)
    return named, *_origin(heads, path)


def _heads(exchanged: Exchanged) -> Iterator[str]:
    origin: dict[str, Any] = {"model": exchanged.model} if exchanged.model else {}
    origin |= {"whitened": True} if exchanged.whitened else {}
    columns = (exchanged.keys, exchanged.labels, exchanged.sources, exchanged.metadata)
    for key, label, source, metadata in zip(*(column for column in columns if column is not None), strict=True):
        yield json.dumps({"key": int(key), "label": label, "source": source, "metadata": dict(metadata), **origin})


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as stream:
            yield from _parsed(stream, path)
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}"
        raise InputError(message) from error


def _parsed(stream: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"line {number} of {path} is not JSON ({error})"
            raise InputError(message) from error
        if not isinstance(fields, dict) or "label" not in fields:
            message = f"line {number} of {path} is not an object with a label"
            raise InputError(message)
        wrong = next((name for name, kinds in _KINDS.items() if type(fields.get(name)) not in kinds), None)
        if wrong is not None:
            message = f"line {number} of {path} has {fields[wrong]!r} as {wrong}"
            raise InputError(message)
        yield number, fields


def _descriptor(fields: dict[str, Any], path: Path, number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    try:
        values = np.asarray(fields["descriptor"])
        if values.ndim != 1 or not len(values) or values.dtype.kind not in "fiu":
            message = f"{values.dtype} values of the shape {values.shape}"
            raise ValueError(message)
        return values.astype(np.float32)
    except (KeyError, ValueError, OverflowError) as error:
        message = f"line {number} of {path} has no descriptor, a list of numbers ({error})"
        raise InputError(message) from error


def _origin(heads: list[dict[str, Any]], path: Path) -> tuple[str, bool]:
    models = sorted({fields["model"] for fields in heads if "model" in fields})
    if len(models) > 1:
        message = f"{path} holds descriptors of several models ({', '.join(models)}), which cannot be compared"
        raise InputError(message)
    return (models or [""])[0], any(fields.get("whitened") for fields in heads)
