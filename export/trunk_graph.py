"""The trunk of a network as an ONNX graph of opset 17 whose names are those of its weights."""

import logging
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from deepir.card import INPUT_NAME
from deepir.errors import OptionError
from deepir.export.head_graph import layer_name
from deepir.export.pool_graph import OPSET
from deepir.graph_names import MAP_NAME
from deepir.optional import need
from deepir.spec import Size

if TYPE_CHECKING:
    from deepir.distill.checkpoint import Model

_EXPORTER_OPSET = 18
_CONVERTED = ("ReduceMean", "Resize")
_OLD_INPUTS_OF_PAD = 3
_NEW_IN_RESIZE = ("antialias", "axes", "keep_aspect_ratio_policy")


def trunk_graph(model: "Model", size: Size) -> Any:
    """An onnx.GraphProto from images (N, 3, height, width) to the maps that the head pools.

    Raises:
        OptionError: A trunk that cannot be expressed in opset 17.
    """
    from deepir.distill.network import maps_module

    torch = need("torch")
    images = torch.zeros(2, 3, *size)
    maps = len(model.network.strides)
    trunk = maps_module(model.network).cpu().eval()
    # the exporter tells its own story on several channels; what matters is checked afterwards
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            trunk,
            (images,),
            dynamo=True,
            opset_version=_EXPORTER_OPSET,
            input_names=[INPUT_NAME],
            output_names=[layer_name(MAP_NAME, position, maps) for position in range(maps)],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    graph = program.model_proto.graph
    _use_older_forms(graph)
    newer = {node.op_type for node in graph.node if _is_newer(node)}
    if newer:
        message = f"the trunk {model.spec.backbone} needs the operators {sorted(newer)} of a newer opset than {OPSET}"
        raise OptionError(message)
    del graph.value_info[:]
    _rename(graph)
    return graph


def _is_newer(node: Any) -> bool:
    """Whether opset 17 lacks what a node asks for; of a Pad that is only the axes."""
    if node.op_type in _CONVERTED or (node.op_type == "Pad" and len(node.input) <= _OLD_INPUTS_OF_PAD):
        return False
    return bool(need("onnx").defs.get_schema(node.op_type, _EXPORTER_OPSET).since_version > OPSET)


def _use_older_forms(graph: Any) -> None:
    """Take from a Resize what only opset 18 knows, and give a mean its axes as opset 17 does.

    Nearest-neighbour upsampling does not use the one; squeeze-and-excitation blocks need the other.
    """
    onnx = need("onnx")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Resize":
            kept = [attribute for attribute in node.attribute if attribute.name not in _NEW_IN_RESIZE]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type == "ReduceMean" and node.input[-1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()]).tolist()
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("axes", axes)])
    read = {name for node in graph.node for name in node.input}
    constants_left = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants_left)


def _rename(graph: Any) -> None:
    """Name nodes by their weights, or by operator and order: the same network always has the same names."""
    names = {value.name: value.name for value in [*graph.input, *graph.output, *graph.initializer]}
    weights = {tensor.name for tensor in graph.initializer}
    seen: Counter[str] = Counter()
    for node in graph.node:
        owner = next((name for name in node.input if name in weights and name.endswith(".weight")), None)
        base = owner.removesuffix(".weight") if owner else node.op_type.lower()
        seen[base] += 1
        node.name = base if owner and seen[base] == 1 else f"{base}_{seen[base]}"
        node.input[:] = [names.get(name, name) for name in node.input]
        for number, output in enumerate(node.output):
            if output not in names:
                names[output] = f"{node.name}:{number}" if number else f"{node.name}:out"
        node.output[:] = [names[name] for name in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
