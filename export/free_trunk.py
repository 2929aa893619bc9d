"""A trunk whose height and width are free, made from one exported at some size, and the proof that it is."""

from typing import TYPE_CHECKING, Any

import numpy as np

from deepir.errors import OptionError
from deepir.export.trunk_check import map_sizes_at
from deepir.export.trunk_graph import trunk_graph
from deepir.optional import need
from deepir.spec import ModelSpec, Size

if TYPE_CHECKING:
    from deepir.distill.checkpoint import Model


def free_trunk_graph(model: "Model") -> Any:
    """As `trunk_graph`, for pictures of any height and width.

    Raises:
        OptionError: A trunk into which the size is built.
    """
    spec = model.spec
    graph = trunk_graph(model, spec.size)
    for resize in [node for node in graph.node if node.op_type == "Resize"]:
        _follow_the_sum(graph, resize)
    _drop_unread(graph)
    for size in other_sizes(spec):
        _prove(graph, model, size)
    return graph


def other_sizes(spec: ModelSpec) -> list[Size]:
    """Two sizes or more at which a trunk that was exported at `spec.size` must be right too.

    Pictures that keep their aspect come at any size, so those are odd ones; others come at the sizes of the spec.
    """
    height, width = spec.size
    if spec.resize == "longest":
        return [(max(height // 2, 64) + 5, max(width // 2, 64) + 19), (max(height // 3, 64) + 1, max(width // 2, 64))]
    others = [size for size in dict.fromkeys(spec.sizes) if size != spec.size]
    near = [(height + spec.stride, width), (height, width + 2 * spec.stride)]
    return others if len(others) > 1 else [*others, *near][:2]


def _follow_the_sum(graph: Any, resize: Any) -> None:
    """Let a map grow to the size of the one that it is added to, instead of to a number (method.md 5).

    Raises:
        OptionError: It is not added to another map.
    """
    onnx = need("onnx")
    name, reader = resize.output[0], resize
    while reader is not None and not (reader.op_type == "Add" and reader is not resize):
        name = reader.output[0]
        reader = next((node for node in graph.node if name in node.input), None)
    if reader is None:
        message = "the trunk resizes a map to a size of its own, so its pictures cannot have a free size"
        raise OptionError(message)
    wanted = next(other for other in reader.input if other != name)
    base, make = resize.name, onnx.helper.make_node
    halves = []
    for tensor, half, (begin, end) in ((resize.input[0], "channels", (0, 2)), (wanted, "cells", (2, 4))):
        bounds = [f"{base}/{half}_{number}" for number in (begin, end)]
        for bound, value in zip(bounds, (begin, end), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), bound))
        shape, part = f"{base}/{half}_shape", f"{base}/{half}"
        halves += [make("Shape", [tensor], [shape], name=shape), make("Slice", [shape, *bounds], [part], name=part)]
    sizes = f"{base}/sizes"
    halves.append(make("Concat", [halves[1].output[0], halves[3].output[0]], [sizes], name=sizes, axis=0))
    resize.input[:] = [resize.input[0], "", "", sizes]
    position = next(number for number, node in enumerate(graph.node) if node.name == base)
    nodes = [*graph.node[:position], *halves, *graph.node[position:]]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unread(graph: Any) -> None:
    """Remove nodes and constants that nothing reads."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _prove(graph: Any, model: "Model", size: Size) -> None:
    cells = map_sizes_at(graph, model, size)
    if cells is None:
        message = (
            f"the trunk {model.spec.backbone} was exported at {model.spec.size} and is another function at {size}: "
            "its size is built in; export it at one fixed size, as in deepir-export --size 384x512"
        )
        raise OptionError(message)
    head = model.spec.head
    if head.grid == "image" or head.levels == 0:
        return
    # whoever feeds the file lays a grid on the map on ceil(size / stride) cells, so the map must have them
    for (height, width), stride in zip(cells, model.network.strides, strict=True):
        if (height, width) != (-(-size[0] // stride), -(-size[1] // stride)):
            message = (
                f"the trunk {model.spec.backbone} gives {height}x{width} cells for {size[0]}x{size[1]} pixels, not one "
                f"for each {stride} pixels begun, as a grid on the map of pictures of free size needs: "
                "export it at one fixed size, as in deepir-export --size 384x512"
            )
            raise OptionError(message)
