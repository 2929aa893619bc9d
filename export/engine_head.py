"""Where the head of a model begins, so that weak typing (INT8 on TensorRT 10) leaves it in FP32."""

from collections.abc import Iterable
from typing import Any

from deepir.export.pool_graph import DOMAIN, MEAN_OPERATOR
from deepir.graph_names import POOL_OPERATOR

_POWERS = ("Pow", "Max")


def head_border(proto: Any) -> dict[str, list[str]]:
    """The tensors between trunk and head of an ONNX file with its functions, by name.

    Returns:
        "regions": what the poolings give; everything after them is head. "maps": what is averaged, raised to a power
        before in GeM; everything between these and the regions is head too, because such sums pass what FP16 holds.
        "max_pools": the nodes that our plugin could do.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    pools = [node for node in proto.graph.node if node.domain == DOMAIN]
    return {
        "regions": [pool.output[0] for pool in pools if pool.op_type.startswith((POOL_OPERATOR, MEAN_OPERATOR))],
        "maps": [_averaged(pool.input[0], makers) for pool in pools if pool.op_type.startswith(MEAN_OPERATOR)],
        "max_pools": [pool.name for pool in pools if pool.op_type.startswith(POOL_OPERATOR)],
    }


def head_layers(network: Any, border: dict[str, list[str]]) -> list[Any]:
    """The layers of a parsed TensorRT network that belong to the head.

    Args:
        network: An INetworkDefinition; the parser gives tensors the names they have in the ONNX file.
        border: From `head_border`.
    """
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    after = _downstream(layers, border["regions"])
    between = _downstream(layers, border["maps"]) & _upstream(layers, border["regions"])
    return [layers[number] for number in sorted(after | between)]


def _averaged(name: str, makers: dict[str, Any]) -> str:
    while name in makers and makers[name].op_type in _POWERS:
        name = makers[name].input[0]
    return name


def _downstream(layers: list[Any], tensors: Iterable[str]) -> set[int]:
    """Layers are in an order in which each comes after what it takes."""
    known, found = set(tensors), set()
    for number, layer in enumerate(layers):
        if known & set(_inputs(layer)):
            found.add(number)
            known |= set(_outputs(layer))
    return found


def _upstream(layers: list[Any], tensors: Iterable[str]) -> set[int]:
    known, found = set(tensors), set()
    for number, layer in reversed(list(enumerate(layers))):
        if known & set(_outputs(layer)):
            found.add(number)
            known |= set(_inputs(layer))
    return found


def _inputs(layer: Any) -> list[str]:
    tensors = (layer.get_input(number) for number in range(layer.num_inputs))
    return [tensor.name for tensor in tensors if tensor is not None]


def _outputs(layer: Any) -> list[str]:
    return [layer.get_output(number).name for number in range(layer.num_outputs)]
