"""INT8 by explicit Q/DQ nodes that TensorRT, ONNX Runtime and OpenVINO all read (tensorrt.md 8).

Activations are symmetric per tensor, weights symmetric per output channel and stored as int8, scales FP32.
Quantised are the inputs of convolutions and the skip input of residual sums; pooling and head stay in float.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepir.calib.constants import Constants
from deepir.calib.graph_paths import GraphPaths
from deepir.calib.offsets import DEQUANTISED, Activations, Codes, weight_sums
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


def place(proto: Any, keep: Collection[str] = (), *, skips: bool = True) -> Placement:
    """Find the activations to quantise: the inputs of convolutions and the skip inputs of residual sums.

    Args:
        proto: The FP32 onnx.ModelProto.
        keep: Names of convolutions that stay in float, and so does what only they read, and the skip input of a sum
            whose other input one of them makes: there is no INT8 convolution for the sum to fuse with.
        skips: Whether skip inputs are quantised at all.

    Raises:
        ModelError: A graph without convolutions, or one in which all of them stay in float.
    """
    nodes = list(proto.graph.node)
    depths, paths, constants = _depths(proto), GraphPaths(proto), {tensor.name for tensor in proto.graph.initializer}
    makers = {output: number for number, node in enumerate(nodes) for output in node.output}
    uses: dict[str, list[tuple[int, int]]] = {}
    quantised = False
    for number, node in enumerate(nodes):
        if node.op_type == "Conv" and node.name not in keep and node.input[1] in constants:
            uses.setdefault(node.input[0], []).append((number, 0))
            quantised = True
        elif skips and node.op_type == "Add" and all(name in depths and name in makers for name in node.input):
            skip = _skip_input(depths, node)
            main = paths.makers(makers[node.input[1 - skip]])
            if not any(nodes[maker].name in keep for maker in main):
                uses.setdefault(node.input[skip], []).append((number, skip))
    uses = {tensor: found for tensor, found in uses.items() if _fits(nodes, tensor, found, makers)}
    if not quantised:
        message = "this model has no convolutions to quantise" + (", all of them are kept in float" if keep else "")
        raise ModelError(message)
    return Placement(uses)


def quantise(proto: Any, placement: Placement, ranges: Ranges) -> Any:
    """A copy of the model with Q/DQ nodes on `placement` and int8 weights in every convolution that it names.

    Args:
        proto: The FP32 onnx.ModelProto.
        placement: Of that model.
        ranges: For each tensor the magnitude with which its codes end.
    """
    onnx = need("onnx")
    quantised = onnx.ModelProto()
    quantised.CopyFrom(proto)
    graph, constants = quantised.graph, Constants(quantised.graph)
    activations = Activations(graph, placement.uses, ranges, constants)
    codes = activations.encode()
    added = {how.dequantised: _activation_pair(constants, tensor, how) for tensor, how in codes.items()}
    for tensor, places in placement.uses.items():
        for number, position in places:
            node = graph.node[number]
            node.input[position] = codes[tensor].dequantised
            if node.op_type == "Conv":
                weights, node.input[1] = node.input[1], node.input[1] + DEQUANTISED
                # the resolutions of one graph share their weights, which are quantised once
                if node.input[1] not in added:
                    added[node.input[1]] = [_weight_dequantiser(constants, weights)]
                if codes[tensor].offset:
                    sums_c = weight_sums(added[node.input[1]][0], constants)
                    constants.add_to_bias(node, codes[tensor].offset * sums_c)
    needed = [node for node in graph.node if not activations.needless & set(node.output)]
    nodes = list(_woven(needed, added))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    constants.drop_unread()
    return quantised


def int8_share(proto: Any) -> float:
    """The share of the convolutions whose input and weights both come from DequantizeLinear."""
    nodes = proto.graph.node
    dequantised = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    return sum(set(node.input[:2]) <= dequantised for node in convolutions) / max(len(convolutions), 1)


def _fits(nodes: list[Any], tensor: str, uses: list[tuple[int, int]], makers: dict[str, int]) -> bool:
    """Whether a tensor has an INT8 convolution on either side.

    Of blocks that begin with a batch norm the skip has none: it is a sum that batch norms read in float anyway, its
    codes would save nothing, and their errors add up from block to block.
    """
    read = any(nodes[number].op_type == "Conv" for number, _ in uses)
    return read or (tensor in makers and nodes[makers[tensor]].op_type == "Conv")


def _skip_input(depths: dict[str, int], add: Any) -> int:
    """Which input of a residual sum is the skip: the one with fewer convolutions above it.

    The other one, the main branch, stays as it is, so that convolution, sum and activation fuse in TensorRT. A
    projection shortcut may be made after the main branch, but it is fed from further up.
    """
    return 0 if depths[add.input[0]] < depths[add.input[1]] else 1


def _depths(proto: Any) -> dict[str, int]:
    """By tensor, how many convolutions lie between it and the input, on the longest way; constants have no depth."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    depths = {value.name: 0 for value in proto.graph.input if value.name not in constants}
    for node in proto.graph.node:
        above = [depths[name] for name in node.input if name in depths]
        if above:
            depths.update(dict.fromkeys(node.output, max(above) + (node.op_type == "Conv")))
    return depths


def _activation_pair(constants: Constants, tensor: str, how: Codes) -> list[Any]:
    helper = need("onnx.helper")
    scale = constants.put(f"{tensor}/scale", np.array(how.scale, np.float32))
    zero = constants.put(f"{tensor}/zero", np.array(0, np.int8))
    codes = f"{tensor}/codes"
    return [
        helper.make_node("QuantizeLinear", [how.source, scale, zero], [codes], name=codes),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [how.dequantised], name=how.dequantised),
    ]


def _weight_dequantiser(constants: Constants, name: str) -> Any:
    weights = constants[name]
    # a dead channel has no range of its own: without a floor its scale would be 0
    scales = np.maximum(np.abs(weights).reshape(len(weights), -1).max(axis=1) / _LARGEST_CODE, _SMALLEST_SCALE)
    scales = scales.astype(np.float32)
    codes = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.int8)
    inputs = [
        constants.put(f"{name}/codes", codes),
        constants.put(f"{name}/scale", scales),
        constants.put(f"{name}/zero", np.zeros(len(weights), np.int8)),
    ]
    output = name + DEQUANTISED
    return need("onnx.helper").make_node("DequantizeLinear", inputs, [output], name=output, axis=0)


def _woven(nodes: Iterable[Any], added: dict[str, list[Any]]) -> Iterator[Any]:
    """The nodes in their order, and before the first that reads it what makes an added tensor."""
    waiting = dict(added)
    for node in nodes:
        for name in node.input:
            yield from waiting.pop(name, [])
        yield node
