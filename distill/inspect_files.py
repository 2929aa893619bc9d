"""Lists and compares what weight files hold: names, shapes, types, ranges and differences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.distill.caffe_file import read_caffemodel
from deepir.distill.importing import file_kind
from deepir.distill.state import read_state
from deepir.distill.torch_file import PickledObject, as_array, read_torch_file
from deepir.errors import ModelError

Arrays = dict[str, NDArray[Any]]

_MOST_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a file; the range is None for one without numbers.

    Attributes:
        not_finite: How many values are NaN or infinite; the range leaves them out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    lowest: float | None
    mean: float | None
    highest: float | None
    not_finite: int

    def line(self) -> str:
        """The entry for people."""
        values = "no finite values" if self.mean is None else f"{self.lowest:.6g} {self.mean:.6g} {self.highest:.6g}"
        damage = f"  {self.not_finite} NaN or infinite" if self.not_finite else ""
        return f"{self.name}  {'x'.join(map(str, self.shape)) or 'scalar'}  {self.dtype}  {values}{damage}"


@dataclass(frozen=True, slots=True)
class Difference:
    """How two files differ in one name.

    Attributes:
        what: `only in A`, `only in B`, `shape`, `values`, or `NaN` where one side is not finite.
        largest: The largest absolute difference of `values`.
    """

    name: str
    what: str
    detail: str = ""
    largest: float | None = None

    def line(self) -> str:
        """The difference for people."""
        size = "" if self.largest is None else f" by at most {self.largest:.6g}"
        return f"{self.name}  {self.what}{size}{f' {self.detail}' if self.detail else ''}"


def read_arrays(path: Path) -> Arrays:
    """Every array in a .caffemodel, .pt, .pth or .safetensors by name; nothing in the file is run.

    Blobs of a Caffe layer are `layer[0]`, `layer[1]`; what is inside dictionaries and objects has dots.

    Raises:
        ModelError: Unreadable, or without arrays.
    """
    arrays: Arrays = {}
    try:
        for name, array in _named_arrays(path):
            arrays[name] = array
            if len(arrays) > _MOST_NAMES:
                message = f"it holds more than {_MOST_NAMES} arrays"
                raise ModelError(message)
    except ModelError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ModelError(message) from error
    if not arrays:
        message = f"{path} holds no arrays"
        raise ModelError(message)
    return arrays


def describe_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Entry]:
    """One entry for each array, in the file's order."""
    return [_entry(name, array) for name, array in arrays.items()]


def compare_arrays(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> list[Difference]:
    """What differs between A and B; equal arrays, NaN at the same places among them, are not listed."""
    found = [Difference(name, "only in A") for name in first if name not in second]
    found += [Difference(name, "only in B") for name in second if name not in first]
    for name in first:
        if name in second:
            found += _difference(name, first[name], second[name])
    return found


def _named_arrays(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    kind = file_kind(path)
    if kind == "caffe":
        for layer in read_caffemodel(path):
            for place, blob in enumerate(layer.blobs):
                yield f"{layer.name}[{place}]", blob
    else:
        yield from _nested(read_state(path) if kind == "safetensors" else read_torch_file(path))


def _nested(content: object) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays at any depth; what appears twice is listed once, so that no file can make this endless."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        array = as_array(value)
        if array is not None:
            yield name, array
            continue
        if isinstance(value, PickledObject):
            value = value.state
        if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            inner = [(f"{name}.{key}" if name else str(key), one) for key, one in value.items()]
        else:
            inner = [(f"{name}[{place}]", one) for place, one in enumerate(value)]
        waiting += reversed(inner)


def _entry(name: str, array: NDArray[Any]) -> Entry:
    numbers = array.astype(np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    lowest, mean, highest = (
        (float(finite.min()), float(finite.mean()), float(finite.max())) if len(finite) else (None, None, None)
    )
    return Entry(name, array.shape, str(array.dtype), lowest, mean, highest, len(numbers) - len(finite))


def _difference(name: str, first: NDArray[Any], second: NDArray[Any]) -> list[Difference]:
    if first.shape != second.shape:
        return [Difference(name, "shape", f"{first.shape} and {second.shape}")]
    if np.array_equal(first, second):
        return []
    apart = np.abs(first.astype(np.float64) - second.astype(np.float64))
    apart = apart[~(np.isnan(first) & np.isnan(second)) & (first != second)]
    if not apart.size:
        return []
    if not np.isfinite(apart).all():
        return [Difference(name, "NaN", "or infinity on one side")]
    return [Difference(name, "values", largest=float(apart.max()))]
