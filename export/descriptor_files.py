"""Descriptors of pictures in one .npz file: names, boxes, descriptors and the stamp of what made them; no pickle."""

import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import InputError, ModelError
from deepir.export.eval_stamp import Stamp, read_stamp
from deepir.files import replacing
from deepir.image import Box

SUFFIX = ".npz"

Descriptor = NDArray[np.float32]
"""(D,), of length 1, or 0 where there was no direction."""

_LENGTH_TOLERANCE = 1e-3
_LOCAL_LENGTHS = 26
"""Where the header of a zip entry says how long its name and its extra field are."""

_NO_BOX = (math.nan,) * 4
_KINDS = (("names", "U"), ("boxes", "f8"), ("descriptors", "f4"), ("stamp", "U"))
"""The arrays of a file, each with the type of its values; texts are as long as the longest."""


@dataclass(frozen=True, slots=True)
class ViewName:
    """What a file calls a picture: its path below the dataset's folder, and the part of it that was described.

    Attributes:
        name: With `/` between folders; an absolute path when the picture lies elsewhere.
        box: None for the whole picture.
    """

    name: str
    box: Box | None = None

    def __str__(self) -> str:
        return self.name if self.box is None else f"{self.name} cropped to {self.box}"


@dataclass(frozen=True, slots=True)
class DescriptorFile:
    """What a descriptors file holds.

    Attributes:
        path: Where it was read.
        stamp: What made it.
        card: The model of the stamp.
        descriptors_nd: A row for each view; read from the disk as it is used.
        rows: Which row is whose.
    """

    path: Path
    stamp: Stamp
    card: ModelCard
    descriptors_nd: Descriptors
    rows: Mapping[ViewName, int]

    def find(self, view: ViewName) -> Descriptor | None:
        """The descriptor of a view, (D,), None when the file lacks it."""
        row = self.rows.get(view)
        return None if row is None else self.descriptors_nd[row]


def name_of(image: Path, root: Path) -> str:
    """How a picture is called in files about the dataset that lies in the folder `root`."""
    return (image.relative_to(root) if image.is_relative_to(root) else image).as_posix()


def write_descriptor_file(path: Path, descriptors: Mapping[ViewName, Descriptor], stamp: Stamp) -> None:
    """Write descriptors, at least one, whole or not at all.

    Raises:
        InputError: The folder does not exist.
    """
    views = list(descriptors)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            names=np.array([view.name for view in views]),
            boxes=np.array([_NO_BOX if view.box is None else view.box for view in views], dtype=np.float64),
            descriptors=np.stack([descriptors[view] for view in views]).astype(np.float32, copy=False),
            stamp=np.array(json.dumps(stamp, sort_keys=True)),
        )


def read_descriptor_file(path: Path) -> DescriptorFile:
    """Read what `write_descriptor_file` wrote.

    Raises:
        InputError: No such file.
        ModelError: Truncated, foreign, of another dimension than its model, with NaN, or rows not of length 1.
    """
    arrays = _read_arrays(path)
    stamp, card = read_stamp(str(arrays["stamp"]), path)
    names_n, boxes_n4, descriptors_nd = arrays["names"], arrays["boxes"], arrays["descriptors"]
    _check_shapes(path, arrays, card.spec.dim)
    views = [
        ViewName(str(name), None if any(map(math.isnan, box)) else tuple(box))
        for name, box in zip(names_n, boxes_n4.tolist(), strict=True)
    ]
    _check_values(path, views, descriptors_nd)
    return DescriptorFile(path, stamp, card, descriptors_nd, {view: row for row, view in enumerate(views)})


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        message = f"no such file: {path}"
        raise InputError(message)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            return {name: _map_array(path, stream, archive.getinfo(f"{name}.npy")) for name, _ in _KINDS}
    except (OSError, ValueError, KeyError, OverflowError, struct.error, zipfile.BadZipFile) as error:
        message = (
            f"{path} ({path.stat().st_size} bytes) is truncated or not a descriptors file ({error}): "
            "write it again with deepir-eval MODEL DATASET --export npz"
        )
        raise ModelError(message) from error


def _map_array(path: Path, stream: BinaryIO, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of an uncompressed .npz file, mapped: numpy itself would read it whole."""
    if entry.compress_type != zipfile.ZIP_STORED:
        message = f"{entry.filename} is compressed"
        raise ValueError(message)
    stream.seek(entry.header_offset + _LOCAL_LENGTHS)
    name_length, extra_length = struct.unpack("<HH", stream.read(4))
    stream.seek(name_length + extra_length, os.SEEK_CUR)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, columns_first, dtype = read_header[np.lib.format.read_magic(stream)](stream)
    if columns_first or dtype.hasobject:
        message = f"{entry.filename} has values of type {dtype}, columns first: {columns_first}"
        raise ValueError(message)
    if 0 in shape:
        return np.empty(shape, dtype=dtype)
    return np.memmap(path, dtype, "r", stream.tell(), shape)


def _check_shapes(path: Path, arrays: Mapping[str, NDArray[Any]], dim: int) -> None:
    count = arrays["names"].size
    expected = [(count,), (count, 4), (count, dim), ()]
    types = [arrays[name].dtype.str[1:].startswith(kind) for name, kind in _KINDS]
    if not count or not all(types) or [arrays[name].shape for name, _ in _KINDS] != expected:
        shapes = ", ".join(f"{name} {arrays[name].dtype} {arrays[name].shape}" for name, _ in _KINDS)
        message = (
            f"{path} holds {shapes}; expected N names, N boxes of 4 and N descriptors of {dim} values, "
            "as its model gives them: write it again with deepir-eval MODEL DATASET --export npz"
        )
        raise ModelError(message)


def _check_values(path: Path, views: list[ViewName], descriptors_nd: Descriptors) -> None:
    if len(set(views)) != len(views):
        message = f"{path} names a picture twice: it was altered"
        raise ModelError(message)
    # einsum makes no copy of what may be larger than memory; NaN compares as False, so such a row is bad too
    lengths = np.sqrt(np.einsum("nd,nd->n", descriptors_nd, descriptors_nd))
    bad = np.flatnonzero(~((np.abs(lengths - 1) < _LENGTH_TOLERANCE) | (lengths == 0)))
    if len(bad):
        message = (
            f"{path}: the descriptor of {views[bad[0]]} has length {lengths[bad[0]]:.3g}, expected 1 "
            f"({len(bad)} of {len(views)} are damaged): write the file again"
        )
        raise ModelError(message)
