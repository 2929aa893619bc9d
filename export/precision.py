"""FP16: the trunk and the pooling in half precision, the head in FP32 (tensorrt.md 3.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepir.calib.onnx_file import read_card, write_card
from deepir.card import INPUT_NAME, ModelCard
from deepir.errors import ModelError
from deepir.export.head_graph import MAP_NAME
from deepir.export.pool_graph import POOL_OPERATOR
from deepir.optional import need
from deepir.spec import Numerics


def to_fp16(proto: Any) -> Any:
    """A copy of an FP32 master whose weights up to the pooling are FP16; input and output stay FP32.

    The head stays FP32 because the squares of 2048 region values add up beyond what FP16 can hold.

    Raises:
        ModelError: A weight that FP16 cannot hold.
    """
    onnx = need("onnx")
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    graph = half.graph
    nodes = list(graph.node)
    border = _border(nodes)
    trunk, head = nodes[: border.nodes], nodes[border.nodes :]
    used = {name for node in trunk for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(_half(tensor))
    halved = {INPUT_NAME, *border.tensors}
    for node in trunk:
        node.input[:] = [f"{name}/half" if name in halved else name for name in node.input]
        node.output[:] = [f"{name}/half" if name in halved else name for name in node.output]
    make = onnx.helper.make_node
    cast_in = make("Cast", [INPUT_NAME], [f"{INPUT_NAME}/half"], name="to_half", to=onnx.TensorProto.FLOAT16)
    cast_out = [
        make("Cast", [f"{name}/half"], [name], name=f"{name}/to_float", to=onnx.TensorProto.FLOAT)
        for name in border.tensors
    ]
    del graph.node[:], graph.value_info[:]
    graph.node.extend([cast_in, *trunk, *cast_out, *head])
    write_card(half, ModelCard(read_card(proto).spec, Numerics.FP16))
    return half


@dataclass(frozen=True, slots=True)
class _Border:
    """How many nodes compute in half precision, and the tensors that are cast back after them."""

    nodes: int
    tensors: list[str]


def _border(nodes: Sequence[Any]) -> _Border:
    """After max pooling; before other poolings, whose powers and sums go beyond what FP16 can hold."""
    pools = [number for number, node in enumerate(nodes) if node.op_type.startswith(POOL_OPERATOR)]
    if pools:
        return _Border(pools[-1] + 1, [nodes[number].output[0] for number in pools])
    maps = {
        name: number
        for number, node in enumerate(nodes)
        for name in node.output
        if re.fullmatch(rf"{MAP_NAME}(_\d+)?", name)
    }
    return _Border(max(maps.values()) + 1, list(maps))


def _half(tensor: Any) -> Any:
    numpy_helper = need("onnx.numpy_helper")
    values = numpy_helper.to_array(tensor)
    # the limits of Clip are often the largest float, which becomes FP16's largest
    bounded = np.clip(values, -65504, 65504) if values.ndim == 0 else values
    with np.errstate(over="ignore"):
        halves = bounded.astype(np.float16)
    if not np.isfinite(halves).all():
        message = (
            f"the weights {tensor.name} reach {np.abs(values).max():.3g}, beyond FP16's 65504: export FP32 or INT8"
        )
        raise ModelError(message)
    return numpy_helper.from_array(halves, tensor.name)
