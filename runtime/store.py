"""Keys and half precision descriptors, searched by usearch; the only file that knows usearch."""

import contextlib
import ctypes
import functools
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import IndexFileError

DTYPE = "f16"

Keys = NDArray[np.uint64]


class DescriptorStore:
    """Descriptors (N, D) by key. Make one with `empty` or `restore`."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def empty(cls, dim: int) -> "DescriptorStore":
        """Room for descriptors of `dim` values."""
        return cls(_load_usearch().Index(ndim=dim, metric="cos", dtype=DTYPE))

    @classmethod
    def restore(cls, content: memoryview, dim: int, keys: set[int]) -> "DescriptorStore":
        """Read what `to_bytes` wrote; the bytes must be trusted, for usearch dies of damaged ones.

        Raises:
            IndexFileError: Another format, or other keys or dimensions than expected.
        """
        try:
            index = _load_usearch().Index.restore(content)
        except (RuntimeError, ValueError) as error:
            message = f"usearch {usearch_version()} cannot read it ({error})"
            raise IndexFileError(message) from error
        if index is None or index.ndim != dim or set(index.keys[:].tolist()) != keys:
            message = "it holds other descriptors than its footer lists"
            raise IndexFileError(message)
        return cls(index)

    def to_bytes(self) -> bytes:
        """A usearch file."""
        return bytes(self._index.save())

    def add(self, keys: Keys, descriptors_nd: NDArray[np.floating[Any]]) -> None:
        """Store a descriptor for each key."""
        if len(keys):
            self._index.add(keys, np.ascontiguousarray(descriptors_nd))

    def get(self, keys: Keys) -> Descriptors:
        """The stored descriptors (N, D); half precision, so their length is 1 within 1e-3."""
        rows = self._index.get(keys) if len(keys) else ()
        return np.array(rows, dtype=np.float32).reshape(len(keys), self._index.ndim)

    def search(self, query_1d: NDArray[np.float32], count: int, *, exact: bool) -> list[tuple[int, float]]:
        """(key, distance) of the nearest, best first; never padded."""
        # one query at a time: in a batch usearch pads with key 0 where it finds fewer
        matches = self._index.search(np.ascontiguousarray(query_1d, dtype=np.float32), count, exact=exact)
        return [(int(key), float(distance)) for key, distance in zip(matches.keys, matches.distances, strict=True)]


def usearch_version() -> str:
    """The version of the installed package."""
    return version("usearch")


@functools.cache
def _load_usearch() -> ModuleType:
    # The Linux wheel of usearch exports a whole copy of the C++ library. When it is the first in the process,
    # `import onnxruntime` binds to parts of it and dies with SIGSEGV (seen with usearch 2.24.0 and 2.26.6, onnxruntime
    # 1.31.1). With the system's C++ library visible to all, as torch makes it too, usearch binds to that one.
    # macOS and Windows have no such file, and no such trouble.
    with contextlib.suppress(OSError):
        ctypes.CDLL("libstdc++.so.6", ctypes.RTLD_GLOBAL)
    import usearch.index

    return usearch.index
