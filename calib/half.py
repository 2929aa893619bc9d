"""FP16 in a graph: single convolutions in half precision, and constants that become it (tensorrt.md 3.1)."""

from collections.abc import Collection
from typing import Any

import numpy as np

from deepir.calib.onnx_check import check
from deepir.errors import ModelError
from deepir.optional import need

_LARGEST_HALF = 65504
_ACTIVATIONS = ("Relu", "Clip")
"""They give the same whether they come before the cast to FP32 or after it."""


def keep_half(proto: Any, convolutions: Collection[str]) -> None:
    """Let some convolutions of a model compute in FP16, in place; all other tensors stay what they are.

    Their weights become FP16, their input is cast to it, and what they give is cast back, after its activation where
    it has one, because compilers do a convolution and its activation as one. Between two of them nothing is cast.

    Args:
        proto: An onnx.ModelProto in which these convolutions have float weights.
        convolutions: Names of its nodes.

    Raises:
        ModelError: A name that the model does not have, a convolution whose weights are no constants of FP32, or
            weights that FP16 cannot hold.
    """
    graph = proto.graph
    missing = set(convolutions) - {node.name for node in graph.node if node.op_type == "Conv"}
    if missing:
        message = f"this model has no convolution {min(missing)!r} to keep in FP16: calibrate again"
        raise ModelError(message)
    halves = _Halves(graph)
    for node in graph.node:
        if (node.op_type == "Conv" and node.name in convolutions) or halves.may_follow(node):
            halves.take(node)
    nodes = halves.with_casts()
    del graph.node[:]
    graph.node.extend(nodes)
    check(proto)


def half_constant(tensor: Any, name: str) -> Any:
    """An FP32 onnx.TensorProto in FP16; single values beyond what FP16 holds become its largest.

    Raises:
        ModelError: Weights that FP16 cannot hold.
    """
    numpy_helper = need("onnx.numpy_helper")
    values = numpy_helper.to_array(tensor)
    # the limits of Clip are often the largest float, which becomes FP16's largest
    bounded = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF) if values.ndim == 0 else values
    with np.errstate(over="ignore"):
        halves = bounded.astype(np.float16)
    if not np.isfinite(halves).all():
        message = f"the weights {tensor.name} reach {np.abs(values).max():.3g}, beyond FP16's 65504: use FP32 or INT8"
        raise ModelError(message)
    return numpy_helper.from_array(halves, name)


class _Halves:
    """Moves nodes of a graph into FP16, one by one, and adds the casts at the end."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        float_type = need("onnx").TensorProto.FLOAT
        self._constants = {one.name: one for one in graph.initializer if one.data_type == float_type}
        self._halved: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._made: dict[str, str] = {}

    def may_follow(self, node: Any) -> bool:
        """Whether a node is the activation of one that gives FP16."""
        first, *limits = node.input or [""]
        return node.op_type in _ACTIVATIONS and first in self._made.values() and set(limits) <= {"", *self._constants}

    def take(self, node: Any) -> None:
        """Let a node read, compute and give FP16."""
        first, *constants = node.input
        self._wanted.add(first)
        node.input[:] = [_half_name(first), *(self._constant(name, node) if name else "" for name in constants)]
        output = node.output[0]
        node.output[0] = _half_name(output)
        self._made[node.output[0]] = output

    def with_casts(self) -> list[Any]:
        """The nodes in order with casts where FP32 meets FP16; also takes out the constants that nothing reads now."""
        types, graph = need("onnx").TensorProto, self._graph
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in self._halved]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        nodes = [
            _cast(value.name, _half_name(value.name), types.FLOAT16)
            for value in graph.input
            if value.name in self._wanted
        ]
        for node in graph.node:
            nodes.append(node)
            nodes += [_cast(name, _half_name(name), types.FLOAT16) for name in node.output if name in self._wanted]
            made = [(half, self._made[half]) for half in node.output if half in self._made]
            nodes += [_cast(half, name, types.FLOAT) for half, name in made if name in read]
        return nodes

    def _constant(self, name: str, node: Any) -> str:
        """A constant in FP16, beside the FP32 one, which others may read; the resolutions of a graph share it."""
        if name not in self._constants:
            message = f"the convolution {node.name} cannot be kept in FP16: {name} is no FP32 constant; calibrate again"
            raise ModelError(message)
        if name not in self._halved:
            self._halved[name] = _half_name(name)
            self._graph.initializer.append(half_constant(self._constants[name], self._halved[name]))
        return self._halved[name]


def _half_name(name: str) -> str:
    return f"{name}/half"


def _cast(source: str, target: str, element_type: int) -> Any:
    name = f"{source}/to_half" if target == _half_name(source) else f"{target}/to_float"
    return need("onnx.helper").make_node("Cast", [source], [target], name=name, to=element_type)
