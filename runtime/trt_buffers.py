"""The memory that an engine's tensors live in, taken once for the largest shapes: on the host and on the GPU."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import OUTPUT_NAME, ModelCard
from deepir.descriptors import Descriptors
from deepir.runtime.cuda import Cuda, PinnedBytes
from deepir.runtime.trt_shapes import Profile, Shape, counts_pictures, largest_bytes

_FLOAT = np.dtype("float32")
_WINDOW = np.dtype("int32")


@dataclass(slots=True)
class _Slot:
    """Room for the largest shape of a tensor, and the part of the host's side that this run uses."""

    host: PinnedBytes
    pointer: int
    used: NDArray[Any]


class Buffers:
    """Page-locked arrays and their twins on the GPU, for each tensor; needs the CUDA context."""

    def __init__(self, cuda: Cuda, profiles: Sequence[Profile], card: ModelCard) -> None:
        self._cuda, self._dim = cuda, card.spec.dim
        most = max(profile.batch[1] for profile in profiles)
        with ExitStack() as taken:
            self._inputs = {}
            for name in card.inputs():
                dtype = np.dtype(card.pixels) if counts_pictures(name) else _WINDOW
                self._inputs[name] = self._slot(taken, largest_bytes(profiles, name, dtype.itemsize))
            self._output = self._slot(taken, most * self._dim * _FLOAT.itemsize)
            self._taken = taken.pop_all()

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of this run's inputs, in the card's order."""
        return {name: slot.used.shape for name, slot in self._inputs.items()}

    @property
    def descriptors_nd(self) -> Descriptors:
        """What this run gave, once the stream is through; the next run overwrites it."""
        return self._output.used

    def pointers(self) -> dict[str, int]:
        """Where each tensor lies on the GPU; this never changes."""
        return {name: slot.pointer for name, slot in (*self._inputs.items(), (OUTPUT_NAME, self._output))}

    def fill(self, arrays: Mapping[str, NDArray[Any]], batch: int) -> None:
        """Take over a run's inputs; behind fewer pictures than `batch` lies whatever lay there."""
        for name, array in arrays.items():
            rows = batch if counts_pictures(name) else len(array)
            _view(self._inputs[name], array.dtype, (rows, *array.shape[1:]))[: len(array)] = array
        _view(self._output, _FLOAT, (batch, self._dim))

    def upload(self, stream: int) -> None:
        """Start to copy the inputs to the GPU."""
        for slot in self._inputs.values():
            self._cuda.upload(slot.pointer, slot.used, stream)

    def download(self, stream: int) -> None:
        """Start to copy the descriptors to the host."""
        self._cuda.download(self._output.used, self._output.pointer, stream)

    def close(self) -> None:
        """Give the memory back."""
        self._taken.close()

    def _slot(self, taken: ExitStack, size: int) -> _Slot:
        host = self._cuda.pinned(size)
        taken.callback(self._cuda.unpin, host)
        pointer = self._cuda.allocate(size)
        taken.callback(self._cuda.free, pointer)
        return _Slot(host, pointer, host[:0])


def _view(slot: _Slot, dtype: np.dtype[Any], shape: Shape) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    slot.used = slot.host[:size].view(dtype).reshape(shape)
    return slot.used
