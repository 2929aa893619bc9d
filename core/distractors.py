"""Descriptors of pictures that answer no query, read from .npy files a chunk at a time (method.md 8, row 56)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptor_check import check_descriptors
from deepir.descriptors import Descriptors
from deepir.errors import InputError, ShapeError

_LENGTH_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Distractors:
    """Descriptors on disk; iterate as often as needed, len() tells how many.

    Attributes:
        files: .npy files, float16, float32 or float64 of shape (M, D).
        count: Descriptors in all of them.
        dim: Values of each.
        chunk: How many are in memory at a time.
    """

    files: tuple[Path, ...]
    count: int
    dim: int
    chunk: int = 8192

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Descriptors]:
        """Chunks (M, D) of float32, in the order of the files.

        Raises:
            ShapeError: Descriptors not of length 1, NaN, infinity, or a file that changed.
        """
        for file in self.files:
            stored_nd = _map(file)
            for start in range(0, len(stored_nd), self.chunk):
                chunk_md = np.asarray(stored_nd[start : start + self.chunk], dtype=np.float32)
                _check_lengths(f"{file}, rows from {start}", chunk_md)
                yield chunk_md


def open_distractors(source: Path, dim: int | None = None) -> Distractors:
    """Distractors from one .npy file, or from all those of a folder, sorted by name; nothing but their shape is read.

    Args:
        source: The file or the folder.
        dim: Values that the model's descriptors have; None to accept any.

    Raises:
        InputError: Missing, truncated, empty, not .npy, or not numbers.
        ShapeError: Not (M, D), or descriptors of another dimension.
    """
    files = tuple(sorted(source.glob("*.npy"))) if source.is_dir() else (source,)
    if not files:
        message = f"no .npy files of descriptors in {source}"
        raise InputError(message)
    shapes = {file: _map(file).shape for file in files}
    expected = next(iter(shapes.values()))[1] if dim is None else dim
    wrong = next((file for file, shape in shapes.items() if shape[1] != expected), None)
    if wrong is not None:
        message = (
            f"{wrong} holds descriptors of {shapes[wrong][1]} values, expected {expected}: "
            "were they made by the same model?"
        )
        raise ShapeError(message)
    return Distractors(files, sum(shape[0] for shape in shapes.values()), expected)


def _map(file: Path) -> NDArray[np.floating[Any]]:
    try:
        stored: NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise InputError(message) from error
    except (ValueError, EOFError, OverflowError) as error:
        message = f"{file} is truncated, empty or not a .npy file of numbers: {error}"
        raise InputError(message) from error
    if stored.ndim != 2 or stored.dtype.kind != "f":
        message = f"{file} holds {stored.dtype} of shape {stored.shape}: expected descriptors, float of shape (M, D)"
        raise ShapeError(message)
    return stored


def _check_lengths(name: str, descriptors_md: Descriptors) -> None:
    check_descriptors(name, descriptors_md)
    lengths = np.linalg.norm(descriptors_md, axis=1)
    wrong = np.flatnonzero((np.abs(lengths - 1) > _LENGTH_TOLERANCE) & (lengths > 0))
    if len(wrong):
        message = f"{name}: the descriptor {wrong[0]} has length {lengths[wrong[0]]:.3g}, expected 1: normalise them"
        raise ShapeError(message)
