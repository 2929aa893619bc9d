"""The constants of a graph that is being changed: looked up, added, and biases that belong to one node alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.optional import need


class Constants:
    """The initializers of an onnx.GraphProto, in place."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        # what no node read from the beginning may be read in another way
        self._kept = set(self._tensors) - self._read()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = need("onnx.numpy_helper").to_array(self._tensors[name])
        return array

    def put(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, or change it; gives its name."""
        if name not in self._tensors:
            self._tensors[name] = self._graph.initializer.add()
        self._tensors[name].CopyFrom(need("onnx.numpy_helper").from_array(value, name))
        return name

    def drop_unread(self) -> None:
        """Take out what no node reads any more."""
        read = self._kept | self._read()
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        self._tensors = {tensor.name: tensor for tensor in self._graph.initializer}

    def bias_position(self, node: Any) -> int | None:
        """Which input of a node is added to its channels: of convolutions, batch norms and sums with a constant.

        One past the inputs of a convolution that has none; None where nothing constant is added by channel.
        """
        if node.op_type == "Conv":
            return 2 if all(name in self for name in node.input[2:] if name) else None
        if node.op_type == "BatchNormalization":
            return 2 if node.input[2] in self else None
        constants = [position for position, name in enumerate(node.input) if name in self]
        by_channel = node.op_type == "Add" and len(constants) == 1 and self._is_by_channel(node.input[constants[0]])
        return constants[0] if by_channel else None

    def bias(self, node: Any) -> NDArray[np.float64]:
        """What a node that has a `bias_position` adds to its channels: (channels,), or (1,) zero."""
        name = next(iter(node.input[self.bias_position(node) :]), "")
        return self[name].astype(np.float64).ravel() if name else np.zeros(1)

    def add_to_bias(self, node: Any, values_c: NDArray[np.float64]) -> None:
        """Add to what a node adds to its channels; a constant that others read too stays what it is.

        Args:
            node: One that has a `bias_position`.
            values_c: A number for each channel, or one for all.
        """
        position = self.bias_position(node) or 0
        if len(node.input) == position:
            node.input.append("")
        name = node.input[position]
        channels = len(self[node.input[1]]) if node.input[1] in self else len(values_c)
        shape = self[name].shape if name else (channels,)
        bias = np.broadcast_to(self.bias(node) + values_c, channels if not name else self[name].size).reshape(shape)
        if not name or sum(name == read for other in self._graph.node for read in other.input) > 1:
            name = self._new_name(f"{node.output[0]}/bias")
        node.input[position] = self.put(name, bias.astype(np.float32))

    def _new_name(self, name: str) -> str:
        while name in self:
            name += "_"
        return name

    def _read(self) -> set[str]:
        return {name for node in self._graph.node for name in node.input} | {one.name for one in self._graph.output}

    def _is_by_channel(self, name: str) -> bool:
        shape = self[name].shape
        return len(shape) >= 3 and shape[-2:] == (1, 1) and self[name].size == shape[-3]
