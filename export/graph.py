"""A checkpoint as one ONNX file: trunk, the node deepir::RoIMaxPool with a body in standard operators, the head."""

import logging
import warnings
from collections import Counter
from typing import Any

from deepir.calib.onnx_file import write_card
from deepir.card import INPUT_NAME, OUTPUT_NAME, ModelCard
from deepir.distill.checkpoint import Model
from deepir.errors import ModelError, OptionError
from deepir.export.head_graph import MAP_NAME, HeadGraph, layer_name
from deepir.export.pool_graph import DOMAIN, OPSET
from deepir.optional import need
from deepir.regions import head_windows

IR_VERSION = 8
"""Read, with opset 17, by every TensorRT from 8.5 to 11 and by ONNX Runtime (tensorrt.md 1.4)."""

_EXPORTER_OPSET = 18
_NEW_IN_RESIZE = ("antialias", "axes", "keep_aspect_ratio_policy")


def build_onnx(model: Model) -> Any:
    """The FP32 master of a model as an onnx.ModelProto; its metadata holds the model card.

    Raises:
        OptionError: Several resolutions, pictures of free size, or a trunk that cannot be expressed in opset 17.
        ModelError: The result fails ONNX's own check.
    """
    onnx = need("onnx")
    if len(model.spec.sizes) != 1 or model.spec.resize != "stretch":
        message = (
            f"this model has the sizes {model.spec.sizes} with resize {model.spec.resize}; only a model of one fixed "
            "size can be exported: distil it into a student, or give the size, as in deepir-export --size 384x512"
        )
        raise OptionError(message)
    proto = _export_trunk(model)
    _rename(proto.graph)
    _append_head(proto, model)
    proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    proto.producer_name = "deepir"
    write_card(proto, ModelCard(model.sealed().spec))
    check(proto)
    return proto


def check(proto: Any) -> None:
    """Run ONNX's checker.

    Raises:
        ModelError: With the checker's first line.
    """
    checker = need("onnx.checker")
    try:
        checker.check_model(proto, full_check=True)
    except (checker.ValidationError, need("onnx.shape_inference").InferenceError) as error:
        message = f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}"
        raise ModelError(message) from error


def _export_trunk(model: Model) -> Any:
    from deepir.distill.network import maps_module

    torch, onnx = need("torch"), need("onnx")
    images = torch.zeros(2, 3, *model.spec.size)
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
    proto = program.model_proto
    for node in proto.graph.node:
        _use_older_form(node)
    newer = {
        n.op_type
        for n in proto.graph.node
        if n.op_type != "Resize" and onnx.defs.get_schema(n.op_type, _EXPORTER_OPSET).since_version > OPSET
    }
    if newer:
        message = f"the trunk {model.spec.backbone} needs the operators {sorted(newer)} of a newer opset than {OPSET}"
        raise OptionError(message)
    clean = onnx.helper.make_model(
        proto.graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    del clean.graph.value_info[:]
    clean.graph.name = "deepir"
    return clean


def _use_older_form(node: Any) -> None:
    """Take from a Resize what only opset 18 knows; nearest-neighbour upsampling does not use it."""
    if node.op_type == "Resize":
        kept = [attribute for attribute in node.attribute if attribute.name not in _NEW_IN_RESIZE]
        del node.attribute[:]
        node.attribute.extend(kept)


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


def _append_head(proto: Any, model: Model) -> None:
    onnx = need("onnx")
    graph = proto.graph
    shapes = [[dim.dim_value for dim in output.type.tensor_type.shape.dim] for output in graph.output]
    strides = model.network.strides
    windows = [
        head_windows(model.spec.head, model.spec.size, (shape[2], shape[3]), stride)
        for shape, stride in zip(shapes, strides, strict=True)
    ]
    head = HeadGraph(model.network, windows, [shape[3] for shape in shapes])
    graph.node.extend(head.nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in head.constants.items())
    del graph.output[:]
    shape = ["batch", model.network.dim]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, shape))
    proto.functions.extend(head.functions)
