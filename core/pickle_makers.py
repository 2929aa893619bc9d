"""Our own functions in place of those that pickles of numpy arrays, sets and bytes name."""

import math
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_ARRAY_KINDS = frozenset("biufSU")
_KEYS = (str, bytes, int, float, type(None), np.generic)
"""Keys of dictionaries and items of sets; the hash of a deeply nested tuple would overflow the stack."""

_T = TypeVar("_T")


class ForeignError(Exception):
    """Something that plain data does not need."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the file asks for; it is never imported."""

    module: str
    name: str


@dataclass(slots=True)
class Unfinished:
    """A numpy array or dtype whose state is still to come, and its places in the memo."""

    make: Callable[[Any], Any]
    places: list[int] = field(default_factory=list)


def expect(value: object, kind: type[_T]) -> _T:
    """The value, known to be of that type.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(value, kind):
        message = f"a {type(value).__name__} stands where a {kind.__name__} should"
        raise TypeError(message)
    return value


def checked_keys(values: list[Any]) -> list[Hashable]:
    """The values, known to be plain enough for keys of a dictionary or items of a set.

    Raises:
        TypeError: They are not.
    """
    wrong = next((value for value in values if not isinstance(value, _KEYS)), None)
    if wrong is not None:
        message = f"a {type(wrong).__name__} is the key of a dictionary or in a set"
        raise TypeError(message)
    return values


def _unfinished_array(kind: object, *_: object) -> Unfinished:
    if kind != Global("numpy", "ndarray"):
        message = f"a {type(kind).__name__} stands where numpy.ndarray should"
        raise TypeError(message)
    return Unfinished(lambda state: _array_of_state(*state))


def _unfinished_dtype(name: str, *_: object) -> Unfinished:
    if expect(name, str)[:1] not in _ARRAY_KINDS or not name[1:].isdecimal():
        message = f"numpy arrays of type {name!r}"
        raise ForeignError(message)
    return Unfinished(lambda state: np.dtype(expect(state[1], str) + name))


def _array_of_state(_: object, shape: object, dtype: object, fortran: object, raw: object) -> NDArray[Any]:
    return _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: object, dtype: object, shape: object, order: object, axes: None = None) -> NDArray[Any]:
    known, sides = expect(dtype, np.dtype), expect(shape, tuple)
    # text is what Python 2 called bytes
    content = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(content, bytes | bytearray) or axes is not None:
        message = f"an array of {type(raw).__name__} in an order of axes that is not read"
        raise TypeError(message)
    needed = math.prod(expect(side, int) for side in sides) * known.itemsize
    if min(sides, default=0) < 0 or needed != len(content):
        message = f"an array of shape {sides} and type {known} needs {needed} bytes, got {len(content)}"
        raise ValueError(message)
    if known.kind == "U" and np.frombuffer(content, f"{known.byteorder}u4").max(initial=0) > sys.maxunicode:
        # numpy and Python would make text of them all the same
        message = "an array of text holds numbers that are no characters"
        raise ValueError(message)
    return np.frombuffer(content, known).reshape(sides, order="F" if order == "F" else "C")


def _scalar(dtype: object, raw: object) -> np.generic:
    value: np.generic = _array(raw, dtype, (1,), "C")[0]
    return value


def _encoded(text: object, encoding: object) -> bytes:
    if encoding != "latin1":
        message = "text is encoded in something else than latin1"
        raise ValueError(message)
    return expect(text, str).encode("latin-1")


def _set(items: object = None) -> set[Hashable]:
    return set(checked_keys([] if items is None else expect(items, list)))


def _frozen_set(items: object = None) -> frozenset[Hashable]:
    return frozenset(_set(items))


def _no_bytes() -> bytes:
    return b""


def _not_to_call(*_: object) -> None:
    message = "a type of numpy stands where a function should"
    raise TypeError(message)


_NUMPY = ("numpy.core", "numpy._core")
_BUILTINS = ("builtins", "__builtin__")

MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _not_to_call,
    ("numpy", "dtype"): _unfinished_dtype,
    ("_codecs", "encode"): _encoded,
    **{(f"{numpy}.multiarray", "_reconstruct"): _unfinished_array for numpy in _NUMPY},
    **{(f"{numpy}.multiarray", "scalar"): _scalar for numpy in _NUMPY},
    **{(f"{numpy}.numeric", "_frombuffer"): _array for numpy in _NUMPY},
    **{(builtins, "set"): _set for builtins in _BUILTINS},
    **{(builtins, "frozenset"): _frozen_set for builtins in _BUILTINS},
    **{(builtins, "bytes"): _no_bytes for builtins in _BUILTINS},
}
"""Every name a file may ask for, and our own function that takes its place."""
