"""The pooling operators of deepir and their bodies in standard operators, for maps of fixed size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.graph_names import POOL_OPERATOR
from deepir.optional import need
from deepir.regions import Windows
from deepir.spec import Size

OPSET = 17
"""Read by every TensorRT from 8.5 to 11 and by ONNX Runtime (tensorrt.md 1.4)."""

DOMAIN = "deepir"
MEAN_OPERATOR = "RoIMeanPool"
"""As POOL_OPERATOR, with the mean of the cells: SPoC, and the middle of GeM."""

_MOST_COMPARISONS = 1 << 14
"""For each channel and window size; beyond, pooling rows and then columns is several times faster on a CPU."""


class FunctionBody:
    """Collects the nodes of a function of the inputs x and rois and the output y."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node; gives the name of its output."""
        self._nodes.append(need("onnx.helper").make_node(operator, inputs, [output], **attributes))
        return output

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant int64 vector."""
        return self.add("Constant", [], name, value_ints=[int(value) for value in values])

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant of any type and shape."""
        return self.add("Constant", [], name, value=need("onnx.numpy_helper").from_array(value))

    def function(self, name: str) -> Any:
        """All of it as an onnx.FunctionProto."""
        helper = need("onnx.helper")
        return helper.make_function(DOMAIN, name, ["x", "rois"], ["y"], self._nodes, [helper.make_opsetid("", OPSET)])


def operator_name(pooling: str, stride: int | None) -> str:
    """The operator of a map; further maps have their own, named by their stride, because bodies are static."""
    base = POOL_OPERATOR if pooling == "max" else MEAN_OPERATOR
    return base if stride is None else f"{base}At{stride}"


def pool_function(name: str, windows: Windows, map_size: Size) -> Any:
    """The body for a map of fixed size: pooling of stride 1 for each window size, then Gather.

    Args:
        name: `RoIMaxPool...` or `RoIMeanPool...`.
        windows: y0, x0, y1, x1 in cells within the map, ends exclusive; an empty one gives 0.
        map_size: Height and width of the map in cells.
    """
    body = FunctionBody()
    pool = "MaxPool" if name.startswith(POOL_OPERATOR) else "AveragePool"
    empty = (windows[:, 2] <= windows[:, 0]) | (windows[:, 3] <= windows[:, 1])
    # an empty window pools some cell here, and is put to 0 at the end
    windows = np.where(empty[:, None], np.array([0, 0, 1, 1], dtype=np.int32), windows)
    body.integers("flat", [0, 0, -1])
    window_sizes = windows[:, 2:] - windows[:, :2]
    order: list[int] = []
    picked = []
    for number, (height, width) in enumerate(np.unique(window_sizes, axis=0).tolist()):
        chosen = np.flatnonzero((window_sizes == (height, width)).all(axis=1))
        order += chosen.tolist()
        picked.append(_pick(body, pool, number, windows[chosen], map_size))
    body.add("Concat", picked, "by_size", axis=2)
    body.add("Gather", ["by_size", body.integers("back", np.argsort(order).tolist())], "ordered", axis=2)
    if not empty.any():
        body.add("Transpose", ["ordered"], "y", perm=[0, 2, 1])
        return body.function(name)
    body.add("Transpose", ["ordered"], "filled", perm=[0, 2, 1])
    zero, nothing = body.constant("zero", np.array(0, np.float32)), body.constant("nothing", empty[None, :, None])
    body.add("Where", [nothing, zero, "filled"], "y")
    return body.function(name)


def _pick(body: FunctionBody, pool: str, number: int, windows: Windows, map_size: Size) -> str:
    """Windows of one size: pooled at every position, then those positions taken, (N, C, R)."""
    height, width = (windows[0, 2:] - windows[0, :2]).tolist()
    rows, columns = map_size[0] - height + 1, map_size[1] - width + 1
    tops, lefts = windows[:, 0], windows[:, 1]
    source, pooled = "x", f"pooled_{number}"
    if height * width * rows * columns > _MOST_COMPARISONS:
        used = np.unique(tops)
        tops = np.searchsorted(used, tops).astype(np.int32)
        body.add(pool, ["x"], f"rows_{number}", kernel_shape=[height, 1], strides=[1, 1])
        tops_name = body.integers(f"tops_{number}", used.tolist())
        source = body.add("Gather", [f"rows_{number}", tops_name], f"bands_{number}", axis=2)
        height = 1
    body.add(pool, [source], pooled, kernel_shape=[height, width], strides=[1, 1])
    cells = body.add("Reshape", [pooled, "flat"], f"cells_{number}")
    positions = body.integers(f"positions_{number}", (tops * columns + lefts).tolist())
    return body.add("Gather", [cells, positions], f"picked_{number}", axis=2)
