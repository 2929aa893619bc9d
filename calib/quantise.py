"""INT8 by explicit Q/DQ nodes that TensorRT, ONNX Runtime and OpenVINO all read (tensorrt.md 8).

Activations are symmetric per tensor, weights symmetric per output channel and stored as int8, scales FP32.
Quantised are the inputs of convolutions and the skip input of residual sums; pooling and head stay in float.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.ranges import Ranges
from deepir.errors import ModelError
from deepir.optional import need

_LARGEST_CODE = 127
_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True)
class Placement:
    """Where Q/DQ pairs go: (node, input number) of each activation, by the tensor that feeds it."""

    uses: dict[str, list[tuple[int, int]]]

    @property
    def tensors(self) -> list[str]:
        return list(self.uses)


def place(proto: Any, keep: Collection[str] = ()) -> Placement:
    """Find the activations to quantise: the inputs of convolutions and the skip inputs of residual sums.

    Args:
        proto: The FP32 onnx.ModelProto.
        keep: Names of convolutions that stay in float, and so does what only they read.

    Raises:
        ModelError: A graph without convolutions, or one in which all of them stay in float.
    """
    nodes = list(proto.graph.node)
    depths = _depths(nodes)
    uses: dict[str, list[tuple[int, int]]] = {}
    quantised = False
    for number, node in enumerate(nodes):
        if node.op_type == "Conv" and node.name not in keep:
            uses.setdefault(node.input[0], []).append((number, 0))
            quantised = True
        elif node.op_type == "Add" and all(name in depths for name in node.input):
            skip = _skip_input(depths, node)
            uses.setdefault(node.input[skip], []).append((number, skip))
    if not quantised:
        message = "this model has no convolutions to quantise" + (", all of them are kept in float" if keep else "")
        raise ModelError(message)
    return Placement(uses)


def quantise(proto: Any, placement: Placement, ranges: Ranges) -> Any:
    """A copy of the model with Q/DQ nodes on `placement` and int8 weights in every convolution that it names."""
    onnx = need("onnx")
    quantised = onnx.ModelProto()
    quantised.CopyFrom(proto)
    graph = quantised.graph
    for tensor, places in placement.uses.items():
        for number, position in places:
            graph.node[number].input[position] = _dequantised(tensor)
    read = [number for places in placement.uses.values() for number, _ in places]
    convolutions = [graph.node[number] for number in sorted(read) if graph.node[number].op_type == "Conv"]
    added = [node for tensor in placement.tensors for node in _activation_pair(graph, tensor, ranges[tensor])]
    # the resolutions of one graph share their weights, which are quantised once
    weights = {name: _dequantised(name) for name in dict.fromkeys(node.input[1] for node in convolutions)}
    added += [_weight_dequantiser(graph, name) for name in weights]
    for node in convolutions:
        node.input[1] = weights[node.input[1]]
    _drop_unread(graph, weights)
    nodes = _sorted([*graph.node, *added], [value.name for value in [*graph.input, *graph.initializer]])
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return quantised


def int8_share(proto: Any) -> float:
    """The share of the convolutions whose input and weights both come from DequantizeLinear."""
    nodes = proto.graph.node
    dequantised = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    return sum(set(node.input[:2]) <= dequantised for node in convolutions) / max(len(convolutions), 1)


def _skip_input(depths: dict[str, int], add: Any) -> int:
    """Which input of a residual sum is the skip: the one with fewer convolutions above it.

    The other one, the main branch, stays as it is, so that convolution, sum and activation fuse in TensorRT. A
    projection shortcut may be made after the main branch, but it is fed from further up.
    """
    return 0 if depths[add.input[0]] < depths[add.input[1]] else 1


def _depths(nodes: list[Any]) -> dict[str, int]:
    """By tensor, how many convolutions lie between it and the input, on the longest way."""
    depths: dict[str, int] = {}
    for node in nodes:
        above = [depths[name] for name in node.input if name in depths]
        depths.update(dict.fromkeys(node.output, max(above, default=0) + (node.op_type == "Conv")))
    return depths


def _activation_pair(graph: Any, tensor: str, largest: float) -> list[Any]:
    helper = need("onnx.helper")
    scale = _constant(graph, f"{tensor}/scale", np.array(max(largest / _LARGEST_CODE, _SMALLEST_SCALE), np.float32))
    zero = _constant(graph, f"{tensor}/zero", np.array(0, np.int8))
    codes, dequantised = f"{tensor}/codes", _dequantised(tensor)
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], name=codes),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [dequantised], name=dequantised),
    ]


def _weight_dequantiser(graph: Any, name: str) -> Any:
    onnx = need("onnx")
    number = next(n for n, tensor in enumerate(graph.initializer) if tensor.name == name)
    weights = onnx.numpy_helper.to_array(graph.initializer[number])
    # a dead channel has no range of its own: without a floor its scale would be 0
    scales = np.maximum(np.abs(weights).reshape(len(weights), -1).max(axis=1) / _LARGEST_CODE, _SMALLEST_SCALE)
    codes = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.int8)
    inputs = [
        _constant(graph, f"{name}/codes", codes),
        _constant(graph, f"{name}/scale", scales.astype(np.float32)),
        _constant(graph, f"{name}/zero", np.zeros(len(weights), np.int8)),
    ]
    output = _dequantised(name)
    return onnx.helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=0)


def _drop_unread(graph: Any, weights: Collection[str]) -> None:
    """Take out the float weights that no node reads any more; what a kept convolution shares is still read."""
    read = {name for node in graph.node for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _dequantised(name: str) -> str:
    return f"{name}/dequantised"


def _constant(graph: Any, name: str, value: NDArray[Any]) -> str:
    graph.initializer.append(need("onnx.numpy_helper").from_array(value, name))
    return name


def _sorted(nodes: list[Any], known: list[str]) -> list[Any]:
    """Nodes in an order in which every input is made before it is used."""
    ready, ordered, waiting = set(known), [], nodes
    while waiting:
        later = []
        for node in waiting:
            if all(not name or name in ready for name in node.input):
                ready.update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            message = f"the graph has a cycle or lacks a tensor near the node {waiting[0].name}"
            raise ModelError(message)
        waiting = later
    return ordered
