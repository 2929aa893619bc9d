"""Ranges: the magnitude up to which each tensor is represented, from one pass over calibration pictures."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.histogram import (
    Counts,
    bin_width,
    count,
    entropy_range,
    least_squares_range,
    percentile_range,
    share_beyond,
    widen,
)
from deepir.calib.onnx_file import Feeds, open_session
from deepir.errors import InputError, ModelError, OptionError
from deepir.optional import need

Ranges = dict[str, float]
"""Tensor name to the magnitude with which its codes end."""

_SAMPLES = 65536
"""Values of a picture's tensor that are counted; the rest of a larger one only fixes its extremes and means."""


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """What a tensor (N, C, ...) held, over all pictures.

    Attributes:
        largest: The largest magnitude.
        smallest: The least value, with its sign.
        counts: A histogram of magnitudes, of all values or of a fixed sample of them; see `deepir.calib.histogram`.
        width: Of a bin.
        channel_largest_c, channel_mean_c: By channel the largest magnitude and the mean, of all values.
    """

    largest: float
    smallest: float
    counts: Counts
    width: float
    channel_largest_c: NDArray[np.float32]
    channel_mean_c: NDArray[np.float32]


_METHODS: dict[str, Callable[[TensorStatistics], float]] = {
    "max": lambda seen: seen.largest,
    "mse": lambda seen: least_squares_range(seen.counts, seen.width, seen.largest),
    "percentile-99.999": lambda seen: percentile_range(seen.counts, seen.width, 99.999),
    "percentile-99.99": lambda seen: percentile_range(seen.counts, seen.width, 99.99),
    "entropy": lambda seen: entropy_range(seen.counts, seen.width, seen.largest),
}

METHODS: tuple[str, ...] = tuple(_METHODS)
"""The names of the methods, in the order in which they are tried."""


def measure_statistics(
    proto: Any, names: Sequence[str], batches: Callable[[], Iterable[Feeds]]
) -> dict[str, TensorStatistics]:
    """Run the FP32 model on pictures, once, and gather what every method and the equalisation ask of its tensors.

    Pictures run one at a time, which bounds the memory to the tensors of one picture.

    Args:
        proto: The FP32 onnx.ModelProto.
        names: Tensors to watch, each (N, C, ...) and named once.
        batches: Gives the model's inputs, as `deepir.calib.onnx_file.prepared` does.

    Raises:
        InputError: No pictures.
        ModelError: A tensor that is not finite, or without channels.
    """
    if not names:
        return {}
    session = _session_with_outputs(proto, names)
    gathered = {name: _Gathered(name) for name in names}
    for feeds in batches():
        for one in _single(feeds):
            for name, array in zip(names, session.run(names, one), strict=True):
                gathered[name].add(array)
    return {name: tally.statistics() for name, tally in gathered.items()}


def range_by(statistics: TensorStatistics, method: str) -> float:
    """The range of a tensor: 0 where all its values are 0, never above its largest magnitude.

    Raises:
        OptionError: Not one of METHODS.
    """
    if method not in _METHODS:
        message = f"the calibration method must be one of {', '.join(METHODS)}, got {method!r}"
        raise OptionError(message)
    return min(_METHODS[method](statistics), statistics.largest) if statistics.largest > 0 else 0.0


def ranges_by(statistics: Mapping[str, TensorStatistics], method: str) -> Ranges:
    """The range of each tensor by one of METHODS; see `range_by`."""
    return {name: range_by(seen, method) for name, seen in statistics.items()}


def saturation(statistics: TensorStatistics, largest: float) -> float:
    """The share of a tensor's values, 0..1, whose magnitude is above `largest`, as far as its histogram tells."""
    return 0.0 if largest >= statistics.largest else share_beyond(statistics.counts, statistics.width, largest)


class _Gathered:
    """What is known so far of a tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counts | None = None
        self.width = 0.0
        self.values = 0
        self.highest_c: Any = None
        self.lowest_c: Any = None
        self.sum_c: Any = 0.0

    def add(self, array: NDArray[np.float32]) -> None:
        if array.ndim < 2 or array.size == 0:
            message = f"the tensor {self.name} has no channels, its shape is {array.shape}: it cannot be calibrated"
            raise ModelError(message)
        values_ncv = array.reshape(*array.shape[:2], -1)
        highest_c, lowest_c = values_ncv.max(axis=(0, 2)), values_ncv.min(axis=(0, 2))
        largest = float(np.maximum(highest_c, -lowest_c).max())
        with np.errstate(over="ignore", invalid="ignore"):
            sum_c = values_ncv.mean(axis=2).sum(axis=0, dtype=np.float64) * values_ncv.shape[2]
        if not (math.isfinite(largest) and np.isfinite(sum_c).all()):
            message = (
                f"the tensor {self.name} is not finite on the calibration pictures: the model's weights are damaged"
            )
            raise ModelError(message)
        first = self.counts is None
        self.highest_c = highest_c if first else np.maximum(self.highest_c, highest_c)
        self.lowest_c = lowest_c if first else np.minimum(self.lowest_c, lowest_c)
        self.sum_c += sum_c
        self.values += len(array) * values_ncv.shape[2]
        self._count(array, largest)

    def _count(self, array: NDArray[np.float32], largest: float) -> None:
        width = max(bin_width(largest), self.width)
        counts = count(np.abs(_sample(array)), width)
        self.counts = counts if self.counts is None else counts + widen(self.counts, self.width, width)
        self.width = width

    def statistics(self) -> TensorStatistics:
        if self.counts is None:
            message = "calibration needs pictures, got none"
            raise InputError(message)
        largest_c = np.maximum(self.highest_c, -self.lowest_c)
        return TensorStatistics(
            largest=float(largest_c.max()),
            smallest=float(self.lowest_c.min()),
            counts=self.counts,
            width=self.width,
            channel_largest_c=largest_c,
            channel_mean_c=(self.sum_c / self.values).astype(np.float32),
        )


def _sample(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most _SAMPLES values, evenly spread over channels, rows and columns."""
    step = -(-array.size // _SAMPLES)
    # a step that divides a side would look at the same columns of every row
    while math.gcd(step, array.size) > 1:
        step += 1
    return array.ravel()[::step]


def _single(feeds: Feeds) -> Iterator[Feeds]:
    """The inputs of a batch, picture by picture; windows of a map, which are no images, belong to each."""
    images = {name: array for name, array in feeds.items() if array.ndim == 4}
    for number in range(max(map(len, images.values()), default=0)):
        yield {**feeds, **{name: array[number : number + 1] for name, array in images.items()}}


def _session_with_outputs(proto: Any, names: Sequence[str]) -> Any:
    onnx = need("onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    float_type = onnx.TensorProto.FLOAT
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, float_type, None) for name in names)
    return open_session(watched)
