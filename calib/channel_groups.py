"""Which channels of which tensors can only be scaled together, and which cannot be scaled at all.

A channel may be divided by a positive factor where whatever makes it and whatever reads it takes the factor in: the
weights of convolutions, of batch norms and of products by channel. What is linear on either side of 0, sums and
concatenations hand a factor on. Everything else, such as an output of the graph, holds it at 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepir.optional import need

Ids = NDArray[np.int64]
"""For each channel of a tensor the number of its group."""

_HANDS_ON = ("Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_SPATIAL_AXES = {2, 3, -1, -2}


class ChannelGroups:
    """The groups of a graph's channels.

    Attributes:
        constants: The graph's constants by name.
    """

    def __init__(self, proto: Any) -> None:
        to_array = need("onnx.numpy_helper").to_array
        self.constants: dict[str, NDArray[Any]] = {tensor.name: to_array(tensor) for tensor in proto.graph.initializer}
        self._ids: dict[str, Ids] = {}
        self._parents: list[int] = []
        self._held: list[int] = []
        self._users: dict[str, list[tuple[str, Ids | None, Ids | None]]] = {}
        for node in proto.graph.node:
            self._visit(node)
        self._hold(value.name for value in proto.graph.output)
        for users in self._users.values():
            self._tie(users)

    def of(self, tensor: str) -> Ids | None:
        """The groups of a tensor's channels; None where it has none."""
        ids = self._ids.get(tensor)
        return None if ids is None else self._roots(ids)

    @property
    def tensors(self) -> list[str]:
        """The tensors whose channels have groups, in the order of the graph."""
        return list(self._ids)

    @property
    def count(self) -> int:
        """The numbers of groups lie below this."""
        return len(self._parents)

    def held(self) -> Ids:
        """The groups that keep the factor 1."""
        return self._roots(np.unique(np.array(self._held, dtype=np.int64)))

    def _visit(self, node: Any) -> None:
        kind, inputs = node.op_type, list(node.input)
        constants = [name for name in inputs if name in self.constants]
        data = [name for name in inputs if name and name not in self.constants]
        if kind in ("Conv", "BatchNormalization") and len(data) == 1 and len(node.output) == 1:
            self._begin(node, len(self.constants[inputs[1]]))
        elif kind in ("Mul", "Add") and len(data) == 1 and data[0] in self._ids:
            self._by_channel(node, data[0], constants)
        elif kind == "Add" and len(data) == 2 and self._alike(data):
            self._join(*(self._ids[name] for name in data))
            self._ids[node.output[0]] = self._ids[data[0]]
        elif kind == "Concat" and attribute(node, "axis", 0) == 1 and all(name in self._ids for name in inputs):
            self._ids[node.output[0]] = np.concatenate([self._ids[name] for name in inputs])
        elif data and self._hands_on(node) and len(node.output) == 1:
            if data[0] in self._ids:
                self._ids[node.output[0]] = self._ids[data[0]]
        else:
            self._hold(data)
            for name in constants:
                self._users.setdefault(name, []).append((kind, None, None))

    def _begin(self, node: Any, channels: int) -> None:
        """A node that takes factors in, those of what it reads and those of what it gives."""
        first = len(self._parents)
        self._parents.extend(range(first, first + channels))
        given: Ids = np.arange(first, first + channels)
        self._ids[node.output[0]] = given
        read = self._ids.get(node.input[0])
        for position, name in enumerate(node.input):
            if name in self.constants:
                self._users.setdefault(name, []).append((f"{node.op_type} {position}", read, given))

    def _by_channel(self, node: Any, data: str, constants: list[str]) -> None:
        """A product or a sum with a number for each channel."""
        [name] = constants
        read = self._ids[data]
        if self.constants[name].size != len(read) or self.constants[name].shape[-3:] != (len(read), 1, 1):
            self._hold([data])
            self._users.setdefault(name, []).append((node.op_type, None, None))
        elif node.op_type == "Mul":
            self._begin(node, len(read))
        else:
            self._ids[node.output[0]] = read
            self._users.setdefault(name, []).append(("Add", None, read))

    def _hands_on(self, node: Any) -> bool:
        kind, inputs = node.op_type, list(node.input)
        if kind == "Clip":
            return clip_bound(node, self.constants) is not None
        given = [self.constants.get(name) for name in inputs[1:]]
        if kind == "Pad":
            zero = len(given) < 2 or not inputs[2] or (given[1] is not None and given[1].item() in (0, -np.inf))
            plain = attribute(node, "mode", b"constant") == b"constant" and zero and len(given) < 3
            return plain and given[0] is not None and not given[0].reshape(2, -1)[:, :2].any()
        if kind == "Slice":
            axes = given[2] if len(given) > 2 else None
            return axes is not None and set(axes.tolist()) <= _SPATIAL_AXES
        return kind in _HANDS_ON and len(inputs) == 1

    def _tie(self, users: Sequence[tuple[str, Ids | None, Ids | None]]) -> None:
        """Who reads one constant is scaled alike, as the resolutions of a graph are; or not, where that cannot be."""
        roles = {role for role, _, _ in users}
        for side in (1, 2):
            sides: list[Ids | None] = [user[side] for user in users]  # type: ignore[misc]
            known = [ids for ids in sides if ids is not None]
            if len(roles) > 1 or len(known) < len(sides) or len({len(ids) for ids in known}) > 1:
                self._held += [number for ids in known for number in ids.tolist()]
            else:
                for other in known[1:]:
                    self._join(known[0], other)

    def _alike(self, names: Sequence[str]) -> bool:
        lengths = {len(self._ids[name]) if name in self._ids else None for name in names}
        return len(lengths) == 1 and None not in lengths

    def _hold(self, names: Iterable[str]) -> None:
        for name in names:
            self._held += self._ids[name].tolist() if name in self._ids else []

    def _join(self, one: Ids, other: Ids) -> None:
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            self._parents[self._root(second)] = self._root(first)

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _roots(self, ids: Ids) -> Ids:
        return np.array([self._root(number) for number in ids.tolist()], dtype=np.int64)


def attribute(node: Any, name: str, default: Any) -> Any:
    """What a node says of itself, or the default where it does not."""
    get_attribute_value = need("onnx.helper").get_attribute_value
    return next((get_attribute_value(one) for one in node.attribute if one.name == name), default)


class ByName(Protocol):
    """The constants of a graph."""

    def __contains__(self, name: str, /) -> bool: ...

    def __getitem__(self, name: str, /) -> NDArray[Any]: ...


def clip_bound(node: Any, constants: ByName) -> float | None:
    """The upper bound of a Clip whose lower one is 0; None for any other node."""
    if node.op_type != "Clip" or len(node.input) != 3 or not all(name in constants for name in node.input[1:]):
        return None
    low, high = (constants[name] for name in node.input[1:])
    return float(high.item()) if low.size == high.size == 1 and low.item() == 0 < high.item() else None
