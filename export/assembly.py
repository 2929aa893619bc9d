"""The resolutions of a model put together as one graph: nodes of each, constants and functions once."""

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from deepir.card import INPUT_NAME, OUTPUT_NAME, ModelCard
from deepir.export.graph_nodes import GraphNodes
from deepir.export.head_graph import HeadGraph
from deepir.export.input_graph import normalising_constants, normalising_nodes
from deepir.export.pool_graph import DOMAIN
from deepir.graph_names import PREPARED_NAME
from deepir.optional import need


class GraphAssembly:
    """Collects what a graph consists of, resolution by resolution.

    With several resolutions each name gets a mark, as `ModelCard.inputs` marks windows; only constants that are equal
    in all of them, such as the weights, stay one tensor without a mark.

    Attributes:
        nodes: onnx.NodeProto in order.
        functions: onnx.FunctionProto of the pooling operators.
        constants: onnx.TensorProto by name.
    """

    def __init__(self, card: ModelCard) -> None:
        self.nodes: list[Any] = []
        self.functions: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._card = card
        self._several = len(card.spec.resolutions) > 1

    def append_resolution(self, number: int, trunk: Any, head: HeadGraph) -> str:
        """Append an onnx.GraphProto from images to maps and the head after it; gives the name of its descriptor."""
        nodes = [_copy(node) for node in (*trunk.node, *head.nodes)]
        constants = [*trunk.initializer, *_tensors(head.constants)]
        if self._card.pixels == "uint8":
            for node in nodes:
                node.input[:] = [PREPARED_NAME if name == INPUT_NAME else name for name in node.input]
            nodes = [*normalising_nodes(INPUT_NAME), *nodes]
            constants += _tensors(normalising_constants(self._card))
        names = {"": "", INPUT_NAME: self._card.inputs()[number], **self._share(constants, number)}
        for node in nodes:
            node.name = self._marked(node.name, number)
            node.input[:] = [names[name] if name in names else self._marked(name, number) for name in node.input]
            node.output[:] = [self._marked(name, number) for name in node.output]
        self.nodes += nodes
        self._take_functions(head.functions, nodes, number)
        return self._marked(head.descriptor, number)

    def append_last(self, last: GraphNodes) -> None:
        """Append the nodes after the resolutions; the last of all takes the name of the graph's output."""
        self.constants |= {tensor.name: tensor for tensor in _tensors(last.constants)}
        self.nodes += last.nodes
        self.nodes[-1].output[0] = OUTPUT_NAME

    def _marked(self, name: str, number: int) -> str:
        return f"{name}@{number}" if self._several else name

    def _share(self, tensors: Iterable[Any], number: int) -> dict[str, str]:
        """Keep constants, each once; gives the names that they have in the graph."""
        names = {}
        for tensor in tensors:
            kept = self.constants.setdefault(tensor.name, tensor)
            equal = kept is tensor or kept.SerializeToString() == tensor.SerializeToString()
            names[tensor.name] = tensor.name if equal else self._marked(tensor.name, number)
            if not equal:
                own = _copy(tensor)
                own.name = names[tensor.name]
                self.constants[own.name] = own
        return names

    def _take_functions(self, functions: list[Any], nodes: list[Any], number: int) -> None:
        """Bodies for maps of fixed size are a resolution's own; one for maps of any size serves all."""
        if self._card.free_size:
            self.functions = functions
            return
        mark = f"In{number}" if self._several else ""
        for function in functions:
            function.name += mark
        for node in nodes:
            if node.domain == DOMAIN:
                node.op_type += mark
        self.functions += functions


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _tensors(arrays: dict[str, NDArray[Any]]) -> list[Any]:
    from_array = need("onnx.numpy_helper").from_array
    return [from_array(array, name) for name, array in arrays.items()]
