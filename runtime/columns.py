"""Columns that grow: numbers in one array, texts in one block of bytes."""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import IndexFileError

_SEPARATOR = b"\0"
_LEVEL = 1
"""Of zlib: names and numbers that resemble each other shrink by most of what there is at the fastest level."""

_SMALLEST = 16

_ERRORS = "surrogatepass"
"""A file name that is not UTF-8 has halves of surrogate pairs in Python; they come back as they were."""


class NumberColumn:
    """Numbers of one type, or rows of as many; appending takes constant time on the average."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._buffer = values
        self._size = len(values)

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> NDArray[Any]:
        """All of them, (N,) or (N, D); do not write to it."""
        return self._buffer[: self._size]

    def extend(self, values: NDArray[Any]) -> None:
        """Put values behind the others."""
        needed = self._size + len(values)
        if needed > len(self._buffer):
            room = max(_SMALLEST, needed, 2 * self._size)
            grown = np.empty((room, *self._buffer.shape[1:]), dtype=self._buffer.dtype)
            grown[: self._size] = self.values
            self._buffer = grown
        self._buffer[self._size : needed] = values
        self._size = needed

    def to_bytes(self) -> bytes:
        """Compressed little-endian numbers."""
        return zlib.compress(self.values.astype(self._buffer.dtype.newbyteorder("<")).tobytes(), _LEVEL)

    @classmethod
    def from_bytes(cls, content: bytes | memoryview, dtype: type[np.generic]) -> "NumberColumn":
        """Read what `to_bytes` wrote.

        Raises:
            IndexFileError: Not such bytes.
        """
        raw = _decompress(content)
        kind = np.dtype(dtype)
        if len(raw) % kind.itemsize:
            message = f"a column of {kind} has {len(raw)} bytes"
            raise IndexFileError(message)
        return cls(np.frombuffer(raw, kind.newbyteorder("<")).astype(kind))


class TextColumn:
    """Texts without the character NUL: those that were read stay one block of bytes, new ones a list."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._block = b""
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
        self._new: list[str] = list(texts)

    def __len__(self) -> int:
        return len(self._ends) + len(self._new)

    def __getitem__(self, row: int) -> str:
        if row >= len(self._ends):
            return self._new[row - len(self._ends)]
        start = int(self._ends[row - 1]) + 1 if row else 0
        return self._block[start : int(self._ends[row])].decode(errors=_ERRORS)

    def extend(self, texts: Sequence[str]) -> None:
        """Put texts behind the others."""
        self._new.extend(texts)

    def to_bytes(self, rows: NDArray[np.int64]) -> bytes:
        """The texts of these rows, compressed."""
        if len(rows) == len(self) == len(self._ends) and bool((rows == np.arange(len(rows))).all()):
            return zlib.compress(self._block, _LEVEL)
        return zlib.compress(b"".join(self[int(row)].encode(errors=_ERRORS) + _SEPARATOR for row in rows), _LEVEL)

    @classmethod
    def from_bytes(cls, content: bytes | memoryview) -> "TextColumn":
        """Read what `to_bytes` wrote.

        Raises:
            IndexFileError: Not such bytes.
        """
        column = cls()
        column._block = _decompress(content)
        column._ends = np.flatnonzero(np.frombuffer(column._block, np.uint8) == _SEPARATOR[0]).astype(np.int64)
        if column._block and not column._block.endswith(_SEPARATOR):
            message = "a column of texts ends within a text"
            raise IndexFileError(message)
        return column


def _decompress(content: bytes | memoryview) -> bytes:
    try:
        return zlib.decompress(content)
    except zlib.error as error:
        message = f"a column cannot be decompressed ({error})"
        raise IndexFileError(message) from error
