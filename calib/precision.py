"""FP16: the trunk and the max pooling in half precision, pixels and head in FP32 (tensorrt.md 3.1)."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from deepir.calib.half import half_constant
from deepir.calib.onnx_check import check
from deepir.calib.onnx_file import read_card, write_card
from deepir.card import INPUT_NAME, ModelCard
from deepir.graph_names import MAP_NAME, POOL_OPERATOR, PREPARED_NAME
from deepir.optional import need
from deepir.spec import Numerics


def to_fp16(proto: Any) -> Any:
    """A copy of an FP32 master whose weights up to the pooling are FP16; input and output stay FP32.

    The head stays FP32 because the squares of 2048 region values add up beyond what FP16 can hold; so do the powers
    and sums of other poolings than the maximum, and the normalisation of uint8 pixels.

    Raises:
        ModelError: A weight that FP16 cannot hold, or a trunk that computes in types of its own.
    """
    onnx = need("onnx")
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    card = read_card(proto)
    # the master's nodes stay as they are: their names say where half precision begins and ends
    nodes = list(half.graph.node)
    begins, ends = _begins(card, nodes), _ends(nodes)
    trunk = _between(nodes, begins, ends)
    _halve_constants(half, [nodes[number] for number in trunk])
    halved = {*begins, *ends}
    for number in trunk:
        nodes[number].input[:] = [_half_name(name) if name in halved else name for name in nodes[number].input]
        nodes[number].output[:] = [_half_name(name) if name in halved else name for name in nodes[number].output]
    ordered = [_cast_in(name) for name in begins if card.pixels == "float32"]
    for node, master in zip(nodes, proto.graph.node, strict=True):
        ordered += [node, *(_cast_in(name) for name in master.output if name in begins)]
        ordered += [_cast_out(name) for name in master.output if name in ends]
    del half.graph.node[:], half.graph.value_info[:]
    half.graph.node.extend(ordered)
    write_card(half, dataclasses.replace(card, numerics=Numerics.FP16))
    check(half)
    return half


def _begins(card: ModelCard, nodes: Sequence[Any]) -> list[str]:
    """The tensors with which the trunk begins: the images, or what was made of uint8 pixels."""
    if card.pixels == "float32":
        return [name for name in card.inputs() if name.startswith(INPUT_NAME)]
    return [name for node in nodes for name in node.output if _is_called(name, PREPARED_NAME)]


def _ends(nodes: Sequence[Any]) -> list[str]:
    """The tensors with which half precision ends: what max pooling gives, or the maps where pooling is another."""
    pooled = [node.output[0] for node in nodes if node.op_type.startswith(POOL_OPERATOR)]
    return pooled or [name for node in nodes for name in node.output if _is_called(name, MAP_NAME)]


def _is_called(name: str, base: str) -> bool:
    """Whether a tensor has this name, in whatever resolution and for whichever map."""
    return re.fullmatch(rf"{base}(_\d+)?(@\d+)?", name) is not None


def _between(nodes: Sequence[Any], begins: Iterable[str], ends: Iterable[str]) -> list[int]:
    """The nodes that lie between some tensors and others, in order."""
    needed, found = set(ends), []
    for number in reversed(range(len(nodes))):
        made = set(nodes[number].output)
        if made & needed and not made & set(begins):
            needed.update(set(nodes[number].input) - set(begins))
            found.append(number)
    return found[::-1]


def _halve_constants(model: Any, trunk: Sequence[Any]) -> None:
    """Turn what these nodes read into FP16: weights, and constants in the bodies of their functions."""
    float_type = need("onnx").TensorProto.FLOAT
    # the scales of a Resize are FP32 whatever it resizes
    used = {name for node in trunk for name in (node.input[:1] if node.op_type == "Resize" else node.input)}
    for tensor in model.graph.initializer:
        if tensor.name in used and tensor.data_type == float_type:
            tensor.CopyFrom(half_constant(tensor, tensor.name))
    called = {node.op_type for node in trunk if node.domain}
    bodies = [function.node for function in model.functions if function.name in called]
    for node in (node for nodes in [trunk, *bodies] for node in nodes if node.op_type == "Constant"):
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == float_type:
                attribute.t.CopyFrom(half_constant(attribute.t, attribute.t.name))


def _half_name(name: str) -> str:
    return f"{name}/half"


def _cast_in(name: str) -> Any:
    onnx = need("onnx")
    node = "to_half" if name == INPUT_NAME else f"{name}/to_half"
    return onnx.helper.make_node("Cast", [name], [_half_name(name)], name=node, to=onnx.TensorProto.FLOAT16)


def _cast_out(name: str) -> Any:
    onnx = need("onnx")
    return onnx.helper.make_node("Cast", [_half_name(name)], [name], name=f"{name}/to_float", to=onnx.TensorProto.FLOAT)
