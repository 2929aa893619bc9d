"""Ranges: the magnitude up to which each tensor is represented, from calibration pictures."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.onnx_file import Feeds, open_session
from deepir.errors import ModelError
from deepir.optional import need

Ranges = dict[str, float]
"""Tensor name to the magnitude that becomes the code 127."""

_TENSORS_A_RUN = 24
_LARGEST_CODE = 127
_SAMPLES = 16384
_TRIED_SHARES = np.linspace(0.2, 1.0, 81)
"""Shares of the largest magnitude that are tried as the range where the squared error decides."""


@dataclass(frozen=True, slots=True)
class Method:
    """How the values of a tensor become its range: a number for each batch, then one for all batches."""

    of_batch: Callable[[NDArray[np.float32]], float]
    of_batches: Callable[[Sequence[float]], float]


def _largest(array: NDArray[np.float32]) -> float:
    return float(np.abs(array).max())


def _percentile(share: float) -> Callable[[NDArray[np.float32]], float]:
    return lambda array: float(np.percentile(np.abs(array), share))


def _least_squares(array: NDArray[np.float32]) -> float:
    """The range whose rounding and clipping together move the values least, in the mean square."""
    values = array.ravel()[:: max(1, array.size // _SAMPLES)]
    ranges = _largest(array) * _TRIED_SHARES
    if not ranges[-1] > 0:
        return float(ranges[-1])
    steps = (ranges / _LARGEST_CODE)[:, None]
    codes = np.clip(np.rint(values / steps), -_LARGEST_CODE, _LARGEST_CODE)
    return float(ranges[np.mean((codes * steps - values) ** 2, axis=1).argmin()])


METHODS = {
    "max": Method(_largest, max),
    "mse": Method(_least_squares, statistics.fmean),
    "percentile-99.999": Method(_percentile(99.999), statistics.fmean),
    "percentile-99.99": Method(_percentile(99.99), statistics.fmean),
}
"""By name, in the order in which they are tried."""


def measure_ranges(
    proto: Any, names: Sequence[str], batches: Callable[[], Iterable[Feeds]], method: Method = METHODS["max"]
) -> Ranges:
    """Run the FP32 model on pictures and reduce the values of each tensor to its range.

    Args:
        proto: The FP32 onnx.ModelProto.
        names: Tensors to watch; they are made outputs a few at a time, which bounds the memory.
        batches: Gives the model's inputs anew for each pass, as `deepir.calib.onnx_file.prepared` does.
        method: How values become a range.

    Raises:
        ModelError: A tensor that is not finite.
    """
    ranges: Ranges = {}
    for start in range(0, len(names), _TENSORS_A_RUN):
        chunk = list(names[start : start + _TENSORS_A_RUN])
        session = _session_with_outputs(proto, chunk)
        rows = [[method.of_batch(array) for array in session.run(chunk, feeds)] for feeds in batches()]
        ranges |= {name: method.of_batches(values) for name, values in zip(chunk, zip(*rows, strict=True), strict=True)}
    broken = next((name for name, value in ranges.items() if not math.isfinite(value)), None)
    if broken is not None:
        message = f"the tensor {broken} is not finite on the calibration pictures: the model's weights are damaged"
        raise ModelError(message)
    return ranges


def _session_with_outputs(proto: Any, names: list[str]) -> Any:
    onnx = need("onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    float_type = onnx.TensorProto.FLOAT
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, float_type, None) for name in names)
    return open_session(watched)
