"""Codes of descriptors by key, searched by usearch; the only file that knows usearch."""

import contextlib
import ctypes
import functools
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import IndexFileError, OptionError
from deepir.runtime.codes import CodeArray, Codes, signs
from deepir.runtime.columns import NumberColumn
from deepir.runtime.items import Keys

_MOST_EXACT = 100_000
_MOST_EXACT_BYTES = 1 << 25
_MOST_EXACT_SIGNS = 10_000
"""Up to both comparing with every descriptor takes about two milliseconds, and misses nothing
(docs/benchmarks.md). Of signs far more candidates are wanted, and usearch sorts them slowly."""

_CONNECTIVITY = {128: 12, 256: 16}
_LARGEST_CONNECTIVITY = 30
_SMALLEST_CONNECTIVITY = 8
"""Neighbours of each node of the graph, by the values of a descriptor up to which they serve; the smallest where
searches compare with every descriptor, and the graph is only there for other programs."""

_EXPANSION_ADD = 128
_EXPANSION_SEARCH = 400
_EXPANSION_OF_MANY = {256: 1200}
_LARGEST_EXPANSION = 4000
_MANY = 200_000
"""How many candidates are kept while the graph is built and searched; more among a million, by the values of a
descriptor up to which they serve, find as much as among a hundred thousand (docs/benchmarks.md)."""

_AGAIN = 2
_AGAIN_OF_SIGNS = 50
_FEWEST_SIGNS = 500
"""Candidates for each wanted neighbour that are scored again with the query as it is; signs alone order poorly."""

_CHUNK = 8192

_MARKER = b"deepirX3"
_HEAD = b"usearch"
_HEAD_SIZE = 64
_RESERVED = 42
"""Where the bytes begin that usearch leaves at zero in its head; the head follows the vectors."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Keys and cosine similarities with a query, the most similar first; ties by key."""

    keys: Keys
    similarities: NDArray[np.float32]


class DescriptorStore:
    """Codes (N, D) by key. Make one with `empty` or `restore`; its methods must not run in two threads at once."""

    def __init__(self, index: Any, codes: Codes, exact_codes_nd: CodeArray | None = None) -> None:
        self._index = index
        self.codes = codes
        # of b1 only: the codes behind the signs, by rising key
        self._exact = None if exact_codes_nd is None else NumberColumn(exact_codes_nd)
        self._exact_keys = NumberColumn(self.keys if self._by_signs else np.empty(0, np.uint64))

    @classmethod
    def empty(cls, codes: Codes, count: int = 0) -> "DescriptorStore":
        """Room for such descriptors; with a graph for `count` of them."""
        by_signs = codes.dtype == "b1"
        index = load_usearch().Index(
            ndim=codes.dim,
            metric="hamming" if by_signs else "cos",
            dtype=codes.dtype,
            connectivity=_connectivity(codes, count),
            expansion_add=_EXPANSION_ADD,
        )
        return cls(index, codes, np.empty((0, codes.dim), np.int8) if by_signs else None)

    @classmethod
    def restore(
        cls, content: memoryview, codes: Codes, *, mapped: bool, exact_codes: memoryview | None = None
    ) -> "DescriptorStore":
        """Read what `to_bytes` wrote; the bytes must be trusted, for usearch dies of damaged ones.

        Args:
            content: A usearch file.
            codes: Their form.
            mapped: Use the bytes in place; then nothing can be added, and they must stay.
            exact_codes: Of b1 the section of `exact_bytes`.

        Raises:
            IndexFileError: Another format, or other dimensions than expected.
        """
        try:
            index = load_usearch().Index.restore(content, view=mapped)
        except (RuntimeError, ValueError) as error:
            message = f"usearch {usearch_version()} cannot read it ({error})"
            raise IndexFileError(message) from error
        exact = np.frombuffer(b"" if exact_codes is None else exact_codes, np.int8)
        wanted = 0 if index is None or codes.dtype != "b1" else len(index) * codes.dim
        if index is None or index.ndim != codes.dim or len(exact) != wanted:
            message = "it holds other descriptors than its footer says"
            raise IndexFileError(message)
        store = cls(index, codes, exact.reshape(-1, codes.dim) if codes.dtype == "b1" else None)
        # usearch keeps no reference to the bytes it was given
        store._in_place = content if mapped else None
        return store

    _in_place: memoryview | None = None

    def __len__(self) -> int:
        return len(self._index)

    @property
    def keys(self) -> Keys:
        """All keys, rising."""
        return np.sort(np.asarray(self._index.keys[:], np.uint64))

    @property
    def exact(self) -> bool:
        """Whether a search compares with every descriptor, rather than walking the graph."""
        return _is_exact(self.codes, len(self))

    @property
    def outgrown(self) -> bool:
        """Whether the graph was made for far fewer descriptors, so that `copy` makes a better one."""
        wanted = _connectivity(self.codes, len(self))
        return not self.exact and int(self._index.connectivity) < wanted

    def to_bytes(self) -> bytearray:
        """A usearch file, marked as one that deepir's footer must follow."""
        content = bytearray(self._index.save())
        rows, width = np.frombuffer(content[:8], np.uint32).tolist()
        head = 8 + rows * width
        if content[head : head + len(_HEAD)] == _HEAD and not any(content[head + _RESERVED : head + _HEAD_SIZE]):
            content[head + _RESERVED : head + _RESERVED + len(_MARKER)] = _MARKER
        return content

    def exact_bytes(self) -> bytes:
        """Of b1 the codes behind the signs by rising key; nothing of the others."""
        return b"" if self._exact is None else self._exact.values.tobytes()

    def add(self, keys: Keys, codes_nd: CodeArray) -> None:
        """Store the codes of each key; the keys must be larger than all before.

        Raises:
            OptionError: The bytes of a file are used in place.
        """
        self._check_changeable()
        for start in range(0, len(keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            vectors = signs(codes_nd[part]) if self._by_signs else codes_nd[part]
            self._index.add(keys[part], np.ascontiguousarray(vectors))
        if self._exact is not None:
            self._exact.extend(codes_nd)
            self._exact_keys.extend(keys)

    def remove(self, keys: Keys) -> None:
        """Find these keys no more; their values stay in the bytes until `copy`.

        Raises:
            OptionError: The bytes of a file are used in place.
        """
        self._check_changeable()
        self._index.remove(keys)
        if self._exact is not None:
            kept = ~np.isin(self._exact_keys.values, keys)
            self._exact = NumberColumn(self._exact.values[kept])
            self._exact_keys = NumberColumn(self._exact_keys.values[kept])

    def copy(self) -> "DescriptorStore":
        """The same codes in a new graph, without those that were removed."""
        fresh = DescriptorStore.empty(self.codes, len(self))
        keys = self.keys
        for start in range(0, len(keys), _CHUNK):
            fresh.add(keys[start : start + _CHUNK], self.get(keys[start : start + _CHUNK]))
        return fresh

    def get(self, keys: Keys) -> CodeArray:
        """The codes (N, D) of these keys, all of which must be there."""
        if self._exact is not None:
            exact_nd: CodeArray = self._exact.values[np.searchsorted(self._exact_keys.values, keys)]
            return exact_nd
        rows = self._index.get(keys) if len(keys) else ()
        return np.asarray(rows, dtype=self.codes.code_type).reshape(len(keys), self.codes.dim)

    def descriptors(self, keys: Keys) -> Descriptors:
        """The stored descriptors (N, D) of length 1."""
        return self.codes.decode(self.get(keys))

    def search(self, query_1d: NDArray[np.float32], count: int) -> Neighbours:
        """The nearest; all of them, in order, where `count` is at least half of what there is."""
        if count < 1 or 2 * count >= len(self):
            return self._all(query_1d, count)
        keys = self._candidates(query_1d, count)
        return most_similar(keys, self.descriptors(keys) @ query_1d, count)

    def _check_changeable(self) -> None:
        # usearch dies of a removal there, it writes into the mapping of the file
        if self._in_place is not None:
            message = "these descriptors are used in place in their file and cannot be changed: open it with write=True"
            raise OptionError(message)

    @property
    def _by_signs(self) -> bool:
        return self.codes.dtype == "b1"

    def _candidates(self, query_1d: NDArray[np.float32], count: int) -> Keys:
        wanted = max(_AGAIN_OF_SIGNS * count, _FEWEST_SIGNS) if self._by_signs else _AGAIN * count
        codes_1d = self.codes.encode(query_1d)
        query = signs(codes_1d[None])[0] if self._by_signs else codes_1d
        self._index.expansion_search = _expansion(self.codes, len(self))
        # one query at a time: in a batch usearch pads with key 0 where it finds fewer
        matches = self._index.search(np.ascontiguousarray(query), min(wanted, len(self)), exact=self.exact)
        return np.asarray(matches.keys, np.uint64)

    def _all(self, query_1d: NDArray[np.float32], count: int) -> Neighbours:
        keys = self.keys
        parts = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
        found = [self.descriptors(part) @ query_1d for part in parts]
        return most_similar(keys, np.concatenate(found) if found else np.empty(0, np.float32), count)


def _is_exact(codes: Codes, count: int) -> bool:
    most = min(_MOST_EXACT, _MOST_EXACT_SIGNS) if codes.dtype == "b1" else _MOST_EXACT
    return count <= most and count * codes.searched_bytes <= _MOST_EXACT_BYTES


def _connectivity(codes: Codes, count: int) -> int:
    if _is_exact(codes, count):
        return _SMALLEST_CONNECTIVITY
    return next((edges for dim, edges in _CONNECTIVITY.items() if codes.dim <= dim), _LARGEST_CONNECTIVITY)


def _expansion(codes: Codes, count: int) -> int:
    if count <= _MANY:
        return _EXPANSION_SEARCH
    return next((effort for dim, effort in _EXPANSION_OF_MANY.items() if codes.dim <= dim), _LARGEST_EXPANSION)


def most_similar(keys: Keys, similarity_n: NDArray[np.float32], count: int) -> Neighbours:
    """The `count` best of similarities; none for a count below 1."""
    order = np.lexsort((keys, -similarity_n))[: max(0, count)]
    return Neighbours(keys[order], np.clip(similarity_n[order], -1, 1))


def is_usearch(content: memoryview) -> bool:
    """Whether the bytes of a usearch file begin so, damaged or not."""
    head = _head_of(content)
    return head.startswith(_HEAD) and len(head) == _HEAD_SIZE


def is_marked(content: memoryview) -> bool:
    """Whether these are the bytes of a usearch file that deepir wrote, so that a footer must follow."""
    return _head_of(content)[_RESERVED:].startswith(_MARKER)


def _head_of(content: memoryview) -> bytes:
    rows, width = np.frombuffer(content[:8], np.uint32).tolist() if len(content) >= 8 else (0, 0)
    start = 8 + rows * width
    return bytes(content[start : start + _HEAD_SIZE])


def usearch_version() -> str:
    """The version of the installed package."""
    return version("usearch")


@functools.cache
def load_usearch() -> ModuleType:
    """usearch, loaded so that ONNX Runtime can still be loaded after it."""
    # The Linux wheel of usearch exports a whole copy of the C++ library. When it is the first in the process,
    # `import onnxruntime` binds to parts of it and dies with SIGSEGV (seen with usearch 2.24.0 and 2.26.6, onnxruntime
    # 1.31.1). With the system's C++ library visible to all, as torch makes it too, usearch binds to that one.
    # macOS and Windows have no such file, and no such trouble.
    with contextlib.suppress(OSError):
        ctypes.CDLL("libstdc++.so.6", ctypes.RTLD_GLOBAL)
    import usearch.index

    return usearch.index
