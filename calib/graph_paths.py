"""Which nodes of a graph lie on which paths: forks, joins, and the convolutions between them."""

from collections.abc import Collection, Iterable
from typing import Any

_ROOT = -1
"""In place of the nodes that make the inputs of the graph."""

_UPSAMPLING = ("Resize", "Upsample")
_ELEMENTWISE = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus"),
    *("Mul", "BatchNormalization"),
)
_ARITHMETIC = ("Add", "Sub", "Div", "Pow")


class GraphPaths:
    """The paths of a graph from its inputs on; nodes are numbers, their places in the graph.

    Constants are no paths: a node that reads nothing else has no place on one.
    """

    def __init__(self, proto: Any) -> None:
        self._nodes = list(proto.graph.node)
        constants = {tensor.name for tensor in proto.graph.initializer}
        makers = {value.name: _ROOT for value in proto.graph.input if value.name not in constants}
        self._before: dict[int, list[int]] = {}
        self._fork: dict[int, int] = {}
        self._depth = {_ROOT: 0}
        for number, node in enumerate(self._nodes):
            before = list(dict.fromkeys(makers[name] for name in node.input if name in makers))
            if before:
                makers.update(dict.fromkeys(node.output, number))
                self._before[number] = before
                self._fork[number] = self._common(before)
                self._depth[number] = self._depth[self._fork[number]] + 1

    def joins(self, operators: Collection[str]) -> list[int]:
        """The nodes of some operators in which several paths meet, in order."""
        return [
            number
            for number, before in self._before.items()
            if len(before) > 1 and self._nodes[number].op_type in operators
        ]

    def fork(self, join: int) -> int:
        """The last node that all paths to a node pass; negative where that is before the first node."""
        return self._fork[join]

    def passes(self, node: int, earlier: int) -> bool:
        """Whether a node is another one, or all paths to it pass that one."""
        while self._depth[node] > self._depth[earlier]:
            node = self._fork[node]
        return node == earlier

    def between(self, join: int) -> list[int]:
        """The convolutions on the paths from the fork of a node to it.

        None where paths of different sizes meet, as in a feature pyramid, or paths that begin with the pictures, or
        behind a pooling of regions: what meets there is no block.
        """
        fork, found = self._fork[join], set[int]()
        waiting = [number for number in self._before[join] if number != fork]
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting += [before for before in self._before[number] if before != fork]
        nodes = [self._nodes[number] for number in found]
        if fork == _ROOT or any(node.domain or node.op_type in _UPSAMPLING for node in nodes):
            return []
        return sorted(number for number in found if self._nodes[number].op_type == "Conv")

    def makers(self, node: int) -> list[int]:
        """The convolutions whose values a node gives, at most after an activation."""
        return self._convolutions([node])

    def makers_of_input(self, convolution: int) -> list[int]:
        """The convolutions whose values another one reads, at most after an activation."""
        return self._convolutions(self._before.get(convolution, []))

    def _convolutions(self, numbers: Iterable[int]) -> list[int]:
        found, waiting = set[int](), list(numbers)
        while waiting:
            number = waiting.pop()
            if number == _ROOT or number in found:
                continue
            node, before = self._nodes[number], self._before[number]
            if node.op_type == "Conv":
                found.add(number)
            elif node.op_type in _ELEMENTWISE or (node.op_type in _ARITHMETIC and len(before) == 1):
                waiting += before
        return sorted(found)

    def _common(self, numbers: list[int]) -> int:
        """The last node that all paths to any of these pass, these included."""
        first, *others = numbers
        for other in others:
            while first != other:
                if self._depth[first] >= self._depth[other]:
                    first = self._fork[first]
                else:
                    other = self._fork[other]  # noqa: PLW2901 both walk up until they meet
        return first
