"""Reads .caffemodel files: layer names, types and weights out of the protobuf wire format, without protobuf."""

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import ModelError

Array = NDArray[Any]

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_MOST_AXES = 32
_LONGEST_VARINT = 10
_FIRST_RUN = 64
_V1_TYPES = {4: "Convolution", 14: "InnerProduct", 18: "ReLU"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as the file lists it; most have no weights.

    Attributes:
        name: Unique in the file but for layers that share their weights.
        type: Caffe's word, such as `Convolution`; `V1:17` for a number of the old form without a known word.
        inputs: Names of the arrays it reads (bottoms).
        blobs: Its weights in the file's order, float32 or float64, read-only views of the mapped file.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    blobs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class _LayerForm:
    """Field numbers of a layer message: LayerParameter, or V1LayerParameter of old files (method.md 3.1)."""

    name: int
    type: int
    inputs: int
    blobs: int


_FORMS = {100: _LayerForm(name=1, type=2, inputs=3, blobs=7), 2: _LayerForm(name=4, type=5, inputs=2, blobs=6)}


def read_caffemodel(path: Path) -> list[Layer]:
    """All layers of a .caffemodel, in the file's order; the file is mapped, so its size does not matter.

    Raises:
        ModelError: Missing, empty, truncated, not a .caffemodel, or a blob whose shape and values disagree.
    """
    try:
        layers = [layer for layer in _layers(_mapped(path)) if layer.name or layer.blobs]
    except _Damage as damage:
        message = f"{path} is not a readable .caffemodel: {damage}"
        raise ModelError(message) from damage
    if not any(layer.blobs for layer in layers):
        message = f"{path} holds no layer with weights: is it a .caffemodel, and not a solver state or a .prototxt?"
        raise ModelError(message)
    return layers


class _Damage(Exception):  # noqa: N818 never leaves this file
    """What is wrong with the bytes."""


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as stream:
            if not stream.seek(0, 2):
                message = "it is empty"
                raise _Damage(message)
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        message = f"{error.strerror}"
        raise _Damage(message) from error


def _layers(content: memoryview) -> Iterator[Layer]:
    for field, wire, value in _fields(content):
        if field in _FORMS and wire == _BYTES:
            yield _layer(value, _FORMS[field])


def _layer(content: memoryview, form: _LayerForm) -> Layer:
    name, kind, inputs, blobs = "", "", [], []
    for field, wire, value in _fields(content):
        if field == form.name and wire == _BYTES:
            name = _text(value)
        elif field == form.type and wire == _BYTES:
            kind = _text(value)
        elif field == form.type and wire == _VARINT:
            kind = _V1_TYPES.get(value, f"V1:{value}")
        elif field == form.inputs and wire == _BYTES:
            inputs.append(_text(value))
        elif field == form.blobs and wire == _BYTES:
            blobs.append(value)
    try:
        return Layer(name, kind, tuple(inputs), tuple(_blob(blob) for blob in blobs))
    except _Damage as damage:
        message = f"layer {name!r}: {damage}"
        raise _Damage(message) from damage


def _blob(content: memoryview) -> Array:
    """BlobProto: shape=7, or num..width=1..4 of old files; data=5 float, double_data=8; gradients are left out."""
    shape: list[int] | None = None
    old_shape = {1: 0, 2: 0, 3: 0, 4: 0}
    floats: list[Array] = []
    doubles: list[Array] = []
    for field, wire, value in _fields(content):
        if field == 7 and wire == _BYTES:
            shape = _dims(value)
        elif field in old_shape and wire == _VARINT:
            old_shape[field] = value
        elif field == 5 and wire in (_BYTES, _FLOAT):
            floats.append(_numbers(value, np.dtype("<f4")))
        elif field == 8 and wire in (_BYTES, _DOUBLE):
            doubles.append(_numbers(value, np.dtype("<f8")))
    return _shaped(_joined(floats or doubles), list(old_shape.values()) if shape is None else shape)


def _dims(content: memoryview) -> list[int]:
    """BlobShape: dim=1, packed or one by one."""
    dims: list[int] = []
    for field, wire, value in _fields(content):
        if field == 1 and wire == _VARINT:
            dims.append(value)
        elif field == 1 and wire == _BYTES:
            at = 0
            while at < len(value):
                dim, at = _varint(value, at)
                dims.append(dim)
    return dims


def _numbers(value: Any, dtype: np.dtype[Any]) -> Array:
    """Packed numbers, or a run of single ones, which is an array already."""
    if isinstance(value, np.ndarray):
        return value
    if len(value) % dtype.itemsize:
        message = f"{len(value)} bytes of values are no multiple of {dtype.itemsize}"
        raise _Damage(message)
    return np.frombuffer(value, dtype)


def _joined(parts: list[Array]) -> Array:
    if not parts:
        return np.zeros(0, np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _shaped(values: Array, shape: list[int]) -> Array:
    if len(shape) > _MOST_AXES or math.prod(shape) != len(values):
        axes = "x".join(map(str, shape[:_MOST_AXES]))
        message = f"a blob of shape {axes or 'none'} holds {len(values)} values"
        raise _Damage(message)
    return values.reshape(shape)


def _fields(content: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value): a number, a view of bytes, or the array of a run of equal fixed-size fields."""
    at = 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield field, wire, value
        elif wire in (_DOUBLE, _FLOAT):
            record = np.dtype([("tag", "u1", (at - start,)), ("number", "<f8" if wire == _DOUBLE else "<f4")])
            _check_length(field, record.itemsize, len(content) - start)
            run = _run(content[start:], record)
            yield field, wire, run["number"]
            at = start + run.nbytes
        elif wire == _BYTES:
            length, at = _varint(content, at)
            _check_length(field, length, len(content) - at)
            yield field, wire, content[at : at + length]
            at += length
        else:
            message = f"wire type {wire} at byte {start} of a message"
            raise _Damage(message)


def _run(content: memoryview, record: np.dtype[Any]) -> Array:
    """The records at the beginning that have the same tag: numbers that were not packed, millions of them perhaps."""
    whole = len(content) // record.itemsize
    most = _FIRST_RUN
    while True:
        # looked at in steps that double, so that many short runs take no longer than one long run
        records = np.frombuffer(content, record, min(most, whole))
        same = (records["tag"] == records["tag"][0]).all(axis=1)
        if not same.all():
            return records[: int(np.argmin(same))]
        if len(records) == whole:
            return records
        most *= 2


def _check_length(field: int, length: int, left: int) -> None:
    if not field or length > left:
        message = f"truncated: field {field} wants {length} bytes where {left} are left"
        raise _Damage(message)


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    number = 0
    for place, byte in enumerate(content[at : at + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    message = f"a number without an end at byte {at} of a message"
    raise _Damage(message)


def _text(content: memoryview) -> str:
    return bytes(content).decode("utf-8", "replace")
