"""The pooling operators of deepir and their bodies in standard operators, for maps of fixed size."""

from typing import Any

import numpy as np

from deepir.optional import need
from deepir.regions import Windows

OPSET = 17
"""Read by every TensorRT from 8.5 to 11 and by ONNX Runtime (tensorrt.md 1.4)."""

DOMAIN = "deepir"
POOL_OPERATOR = "RoIMaxPool"
"""RoIMaxPool(x[N,C,H,W], rois int32[R,4] = y0,x0,y1,x1 in cells, ends exclusive) -> [N,R,C]; no attributes."""

MEAN_OPERATOR = "RoIMeanPool"
"""The same with the mean of the cells: SPoC, and the middle of GeM."""


def operator_name(pooling: str, stride: int | None) -> str:
    """The operator of a map; further maps have their own, named by their stride, because bodies are static."""
    base = POOL_OPERATOR if pooling == "max" else MEAN_OPERATOR
    return base if stride is None else f"{base}At{stride}"


def pool_function(name: str, windows: Windows, map_width: int) -> Any:
    """The body for a map of fixed size: pooling of stride 1 for each window size, then Gather."""
    helper = need("onnx.helper")
    pool = "MaxPool" if name.startswith(POOL_OPERATOR) else "AveragePool"
    nodes: list[Any] = []

    def constant(name: str, values: list[int]) -> str:
        nodes.append(helper.make_node("Constant", [], [name], value_ints=values))
        return name

    flat = constant("flat", [0, 0, -1])
    sizes = sorted({(int(bottom - top), int(right - left)) for top, left, bottom, right in windows})
    order: list[int] = []
    for number, (height, width) in enumerate(sizes):
        rows = [
            r for r, (top, left, bottom, right) in enumerate(windows) if (bottom - top, right - left) == (height, width)
        ]
        positions = [int(windows[r][0]) * (map_width - width + 1) + int(windows[r][1]) for r in rows]
        order += rows
        pooled, cells, picked = f"pooled_{number}", f"cells_{number}", f"picked_{number}"
        nodes.append(helper.make_node(pool, ["x"], [pooled], kernel_shape=[height, width], strides=[1, 1]))
        nodes.append(helper.make_node("Reshape", [pooled, flat], [cells]))
        nodes.append(helper.make_node("Gather", [cells, constant(f"positions_{number}", positions)], [picked], axis=2))
    nodes.append(helper.make_node("Concat", [f"picked_{n}" for n in range(len(sizes))], ["by_size"], axis=2))
    back = constant("back", [int(position) for position in np.argsort(order)])
    nodes.append(helper.make_node("Gather", ["by_size", back], ["ordered"], axis=2))
    nodes.append(helper.make_node("Transpose", ["ordered"], ["y"], perm=[0, 2, 1]))
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, ["x", "rois"], ["y"], nodes, opsets)
