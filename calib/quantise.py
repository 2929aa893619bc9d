"""INT8 by explicit Q/DQ nodes that TensorRT, ONNX Runtime and OpenVINO all read (tensorrt.md 8).

Activations are symmetric per tensor, weights symmetric per output channel and stored as int8, scales FP32.
Quantised are the inputs of convolutions and the skip input of residual sums; pooling and head stay in float.
"""

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


def place(proto: Any) -> Placement:
    """Find the activations to quantise.

    Raises:
        ModelError: A graph without convolutions.
    """
    nodes = list(proto.graph.node)
    producer = {output: number for number, node in enumerate(nodes) for output in node.output}
    uses: dict[str, list[tuple[int, int]]] = {}
    for number, node in enumerate(nodes):
        if node.op_type == "Conv":
            uses.setdefault(node.input[0], []).append((number, 0))
        elif node.op_type == "Add" and all(name in producer for name in node.input):
            skip = _skip_input(nodes, producer, node)
            uses.setdefault(node.input[skip], []).append((number, skip))
    if not any(nodes[number].op_type == "Conv" for places in uses.values() for number, _ in places):
        message = "this model has no convolutions to quantise"
        raise ModelError(message)
    return Placement(uses)


def quantise(proto: Any, placement: Placement, ranges: Ranges) -> Any:
    """A copy of the model with Q/DQ nodes on `placement` and int8 weights in every convolution."""
    onnx = need("onnx")
    quantised = onnx.ModelProto()
    quantised.CopyFrom(proto)
    graph = quantised.graph
    for tensor, places in placement.uses.items():
        for number, position in places:
            graph.node[number].input[position] = _dequantised(tensor)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    added = [node for tensor in placement.tensors for node in _activation_pair(graph, tensor, ranges[tensor])]
    # the resolutions of one graph share their weights, which are quantised once
    weights = {name: _dequantised(name) for name in dict.fromkeys(node.input[1] for node in convolutions)}
    added += [_weight_dequantiser(graph, name) for name in weights]
    for node in convolutions:
        node.input[1] = weights[node.input[1]]
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


def _skip_input(nodes: list[Any], producer: dict[str, int], add: Any) -> int:
    """Which input of a residual sum is the skip: the one whose maker comes first.

    The other one, the main branch, stays as it is, so that convolution, sum and activation fuse in TensorRT.
    """
    makers = [producer[name] for name in add.input]
    # a projection shortcut is made after the main branch began, but it is fed from further up
    depths = [_depth(nodes, producer, maker) for maker in makers]
    return 0 if depths[0] < depths[1] else 1


def _depth(nodes: list[Any], producer: dict[str, int], number: int) -> int:
    """How many convolutions lie between a node and the input, on the longest way."""
    depths: dict[int, int] = {}
    for position in range(number + 1):
        node = nodes[position]
        above = [depths[producer[name]] for name in node.input if name in producer]
        depths[position] = max(above, default=0) + (node.op_type == "Conv")
    return depths[number]


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
    del graph.initializer[number]
    inputs = [
        _constant(graph, f"{name}/codes", codes),
        _constant(graph, f"{name}/scale", scales.astype(np.float32)),
        _constant(graph, f"{name}/zero", np.zeros(len(weights), np.int8)),
    ]
    output = _dequantised(name)
    return onnx.helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=0)


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
