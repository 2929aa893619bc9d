"""Nodes and constants of an ONNX graph under construction."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import LENGTH_FLOOR
from deepir.optional import need

if TYPE_CHECKING:
    from torch import Tensor

    from deepir.distill.layers import WhiteningLayer


class GraphNodes:
    """Collects nodes, and the constants that they read.

    Attributes:
        nodes: onnx.NodeProto, in order.
        constants: By the name of their tensor.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, inputs: list[str], output: str, *, name: str = "", **attributes: Any) -> str:
        """A node, called as its output where no name is given; gives the name of its output."""
        make = need("onnx.helper").make_node
        self.nodes.append(make(operator, inputs, [output], name=name or output, **attributes))
        return output

    def join(self, parts: list[str], target: str, *, axis: int, add: bool) -> str:
        """The sum of some tensors, or one after the other; a single one as it is."""
        if len(parts) == 1:
            return parts[0]
        return self.add("Sum", parts, target) if add else self.add("Concat", parts, target, axis=axis)

    def normalise(self, source: str, target: str) -> str:
        """Division by the length, in plain operators that every TensorRT fuses."""
        self.constants["length_floor"] = np.array(LENGTH_FLOOR, dtype=np.float32)
        length, floored = f"{target}_length", f"{target}_floored"
        self.add("ReduceL2", [source], length, axes=[-1], keepdims=1)
        self.add("Max", [length, "length_floor"], floored)
        return self.add("Div", [source, floored], target)

    def project(self, layer: "WhiteningLayer", source: str, name: str) -> str:
        """A whitening layer, its own shift folded into weight and bias."""
        weight, bias = layer.folded()
        self.constants[f"{name}.weight"] = np.ascontiguousarray(as_array(weight).T)
        self.constants[f"{name}.bias"] = as_array(bias)
        product = self.add("MatMul", [source, f"{name}.weight"], f"{name}_product", name=name)
        return self.add("Add", [product, f"{name}.bias"], f"{name}_sum", name=f"{name}_bias")


def as_array(tensor: "Tensor") -> NDArray[np.float32]:
    """The values of a parameter."""
    array: NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array
