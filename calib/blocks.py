"""The convolutions of a graph in blocks, as a person would name them: what stays FP16 together, or not at all.

Read from the structure of the graph: a block is what lies between the fork and the sum of a residual block, between
the fork and the concatenation of a fire or inception module, or the pointwise convolutions around a depthwise one.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepir.calib.graph_paths import GraphPaths
from deepir.errors import ModelError

_JOINS, _GATES = ("Add", "Sum", "Concat"), ("Mul",)

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Block:
    """Convolutions that belong together.

    Attributes:
        name: What the names of its convolutions have in common, such as "layer1.0".
        convolutions: The names of its nodes in order, those of every resolution.
    """

    name: str
    convolutions: tuple[str, ...]


def find_blocks(proto: Any) -> list[Block]:
    """The blocks of an FP32 onnx.ModelProto in the order of the graph; every convolution is in exactly one.

    The same convolution at several resolutions (`conv1@0`, `conv1@1`) belongs to one block, and so do convolutions
    that share their weights. A convolution that belongs to nothing larger is a block by itself.

    Raises:
        ModelError: No convolutions, or some that have no name of their own.
    """
    nodes = list(proto.graph.node)
    convolutions = [number for number, node in enumerate(nodes) if node.op_type == "Conv"]
    _check_names([nodes[number].name for number in convolutions])
    groups = _Groups(convolutions)
    alike: dict[str, list[int]] = {}
    for number in convolutions:
        for key in (_base_name(nodes[number]), f"weights {nodes[number].input[1]}"):
            alike.setdefault(key, []).append(number)
    paths = GraphPaths(proto)
    modules = (_gated(paths), _depthwise(proto, convolutions, paths), _branched(proto, paths))
    for together in [*alike.values(), *(module for found in modules for module in found)]:
        groups.join(together)
    members = groups.members()
    names = _block_names([[_base_name(nodes[number]) for number in numbers] for numbers in members])
    return [
        Block(name, tuple(nodes[number].name for number in numbers))
        for name, numbers in zip(names, members, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Module:
    """What lies between a fork and a join."""

    fork: int
    join: int
    convolutions: frozenset[int]


class _Groups:
    """Sets of numbers that only ever grow together."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._group = {number: [number] for number in numbers}

    def join(self, numbers: Iterable[int]) -> None:
        first, *others = numbers
        for number in others:
            group, other = self._group[first], self._group[number]
            if group is not other:
                group += other
                self._group.update(dict.fromkeys(other, group))

    def members(self) -> list[list[int]]:
        """Each set in order, the sets by their first number."""
        return [sorted(group) for number, group in self._group.items() if number == min(group)]


def _gated(paths: GraphPaths) -> list[list[int]]:
    """Squeeze and excitation: what computes the gate belongs to the convolution whose map is gated."""
    regions = [(paths.fork(gate), paths.between(gate)) for gate in paths.joins(_GATES)]
    return [[*region, *paths.makers(fork)] for fork, region in regions if region]


def _depthwise(proto: Any, convolutions: Sequence[int], paths: GraphPaths) -> list[list[int]]:
    """A depthwise convolution, the pointwise ones after it, and the one before it that belongs to no other."""
    nodes, shapes = proto.graph.node, _shapes(proto)
    depthwise = [number for number in convolutions if _is_depthwise(nodes[number], shapes)]
    pointwise = {number for number in convolutions if _is_pointwise(nodes[number], shapes)}
    makers = {number: paths.makers_of_input(number) for number in convolutions}
    after = {number: [other for other in pointwise if number in makers[other]] for number in depthwise}
    taken = {other for others in after.values() for other in others}
    return [
        [number, *after[number], *(other for other in makers[number] if other in pointwise - taken)]
        for number in depthwise
    ]


def _branched(proto: Any, paths: GraphPaths) -> list[list[int]]:
    """Residual blocks, fire and inception modules; not stages that hold several of these, one after the other."""
    nodes, shapes = proto.graph.node, _shapes(proto)
    accepted: list[_Module] = []
    joins = [(paths.between(join), join) for join in paths.joins(_JOINS)]
    for region, join in sorted(((region, join) for region, join in joins if region), key=lambda one: len(one[0])):
        module = _Module(paths.fork(join), join, frozenset(region))
        inner = [one for one in accepted if one.convolutions <= module.convolutions]
        if not any(one.fork == module.fork or _follows(paths, one, inner) for one in inner):
            accepted.append(module)
    return [
        [*module.convolutions, *_squeezed(proto, shapes, paths, module.fork)]
        if nodes[module.join].op_type == "Concat"
        else [*module.convolutions]
        for module in accepted
    ]


def _follows(paths: GraphPaths, module: _Module, others: Iterable[_Module]) -> bool:
    return any(paths.passes(module.fork, other.join) for other in others)


def _squeezed(proto: Any, shapes: _Shapes, paths: GraphPaths, fork: int) -> list[int]:
    """The pointwise convolution of a fire module, which lies before its fork."""
    return [number for number in paths.makers(fork) if _is_pointwise(proto.graph.node[number], shapes)]


def _shapes(proto: Any) -> _Shapes:
    return {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}


def _is_depthwise(node: Any, shapes: _Shapes) -> bool:
    shape = shapes.get(node.input[1], ())
    return len(shape) > 1 and shape[0] > 1 and shape[1] == 1 and _groups(node) > 1


def _is_pointwise(node: Any, shapes: _Shapes) -> bool:
    return set(shapes.get(node.input[1], (0, 0, 0))[2:]) == {1} and _groups(node) == 1


def _groups(node: Any) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _base_name(node: Any) -> str:
    """The name without the mark of a resolution."""
    return re.sub(r"@\d+$", "", node.name)


def _block_names(bases: Sequence[Sequence[str]]) -> list[str]:
    """What the names in each block have in common; the first of them where that is nothing, or another block's too."""
    common = [_common_name(names) for names in bases]
    counts = Counter(common)
    return [name if name and counts[name] == 1 else names[0] for name, names in zip(common, bases, strict=True)]


def _common_name(names: Sequence[str]) -> str:
    levels = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, levels))


def _check_names(names: Sequence[str]) -> None:
    """What stays FP16 is recorded by name."""
    if not names:
        message = "this model has no convolutions to quantise"
        raise ModelError(message)
    name, count = Counter(names).most_common(1)[0]
    if count > 1 or "" in names:
        message = f"{count} convolutions of this model have the name {name!r}: export the model again"
        raise ModelError(message)
