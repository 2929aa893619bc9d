"""The body of the pooling operators for maps and windows of any size: a mask for each window, then a reduction."""

from typing import Any

import numpy as np

from deepir.export.pool_graph import FunctionBody
from deepir.graph_names import POOL_OPERATOR
from deepir.optional import need

_LOWEST = float(np.finfo(np.float32).min)


def dynamic_pool_function(name: str) -> Any:
    """The body where height, width or the windows are known only when the graph runs.

    Windows may end, or even begin, beyond the map: only cells of the map count, and a window without any gives 0.
    Its only float constants are those named here, so that a copy with FP16 constants computes in FP16. TensorRT fuses
    it into one or two kernels (tensorrt.md 2); ONNX Runtime holds an array (N, R, C, H, W) for a moment.

    Args:
        name: `RoIMaxPool...` or `RoIMeanPool...`.
    """
    body = FunctionBody()
    mask = _mask(body)
    cells = body.add("Unsqueeze", ["x", body.integers("region_axis", [1])], "cells")
    zero = body.constant("zero", np.array(0, np.float32))
    if name.startswith(POOL_OPERATOR):
        lowest = body.constant("lowest", np.array(_LOWEST, np.float32))
        body.add("Where", [mask, cells, lowest], "masked")
        body.add("ReduceMax", ["masked"], "largest", axes=[3, 4], keepdims=0)
        body.add("Equal", ["largest", lowest], "empty")
        body.add("Where", ["empty", zero, "largest"], "y")
        return body.function(name)
    one = body.constant("one", np.array(1, np.float32))
    over = body.integers("cell_axes", [3, 4])
    body.add("Where", [mask, cells, zero], "masked")
    body.add("ReduceSum", ["masked", over], "total", keepdims=0)
    body.add("Where", [mask, one, zero], "ones")
    body.add("ReduceSum", ["ones", over], "count", keepdims=0)
    body.add("Max", ["count", one], "divisor")
    body.add("Div", ["total", "divisor"], "y")
    return body.function(name)


def _mask(body: FunctionBody) -> str:
    """Which cells lie in which window: (1, R, 1, H, W)."""
    body.add("Shape", ["x"], "shape")
    body.add("Cast", ["rois"], "bounds", to=need("onnx").TensorProto.INT64)
    rows = _inside(body, "row", axis=2)
    columns = _inside(body, "column", axis=3)
    row_axes, column_axes = body.integers("row_axes", [0, 2, 4]), body.integers("column_axes", [0, 2, 3])
    body.add("Unsqueeze", [rows, row_axes], "row_mask")
    body.add("Unsqueeze", [columns, column_axes], "column_mask")
    return body.add("And", ["row_mask", "column_mask"], "mask")


def _inside(body: FunctionBody, word: str, *, axis: int) -> str:
    """Which rows, or columns, lie between the begin and the end of which window: (R, H) or (R, W)."""
    begin = body.add("Gather", ["bounds", body.integers(f"{word}_begin_at", [axis - 2])], f"{word}_begin", axis=1)
    end = body.add("Gather", ["bounds", body.integers(f"{word}_end_at", [axis])], f"{word}_end", axis=1)
    start = body.constant(f"{word}_start", np.array(0, np.int64))
    step = body.constant(f"{word}_step", np.array(1, np.int64))
    count = body.add("Gather", ["shape", body.constant(f"{word}_axis", np.array(axis))], f"{word}_count", axis=0)
    numbers = body.add("Range", [start, count, step], f"{word}_numbers")
    body.add("GreaterOrEqual", [numbers, begin], f"{word}_after")
    body.add("Less", [numbers, end], f"{word}_before")
    return body.add("And", [f"{word}_after", f"{word}_before"], f"{word}_inside")
