"""Ranges: the largest magnitude that each tensor reaches on calibration pictures."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.onnx_file import open_session
from deepir.errors import ModelError
from deepir.image import Images
from deepir.optional import need

Ranges = dict[str, float]
"""Tensor name to largest magnitude."""

_TENSORS_A_RUN = 24


def measure_ranges(
    proto: Any,
    names: Sequence[str],
    batches: Callable[[], Iterable[Images]],
    *,
    percentile: float = 100.0,
) -> Ranges:
    """Run the FP32 model and keep, for each tensor, the mean over batches of the percentile of its magnitude.

    Args:
        proto: The FP32 onnx.ModelProto.
        names: Tensors to watch; they are made outputs a few at a time, which bounds the memory.
        batches: Gives the prepared pictures anew for each pass.
        percentile: 100 keeps the largest magnitude of all batches.

    Raises:
        ModelError: A tensor that is not finite.
    """
    ranges: Ranges = {}
    for start in range(0, len(names), _TENSORS_A_RUN):
        chunk = list(names[start : start + _TENSORS_A_RUN])
        session = _session_with_outputs(proto, chunk)
        input_name = session.get_inputs()[0].name
        rows = [
            [_magnitude(array, percentile) for array in session.run(chunk, {input_name: images})]
            for images in batches()
        ]
        reduced = np.max(rows, axis=0) if percentile >= 100 else np.mean(rows, axis=0)
        ranges |= {name: float(value) for name, value in zip(chunk, reduced, strict=True)}
    broken = next((name for name, value in ranges.items() if not np.isfinite(value)), None)
    if broken is not None:
        message = f"the tensor {broken} is not finite on the calibration pictures: the model's weights are damaged"
        raise ModelError(message)
    return ranges


def _magnitude(array: NDArray[np.float32], percentile: float) -> float:
    magnitudes = np.abs(array)
    return float(magnitudes.max() if percentile >= 100 else np.percentile(magnitudes, percentile))


def _session_with_outputs(proto: Any, names: list[str]) -> Any:
    onnx = need("onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    float_type = onnx.TensorProto.FLOAT
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, float_type, None) for name in names)
    return open_session(watched)
