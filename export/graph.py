"""A checkpoint as one ONNX file: trunk, the node deepir::RoIMaxPool with a body in standard operators, the head."""

import logging
import warnings
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.onnx_file import write_card
from deepir.card import INPUT_NAME, OUTPUT_NAME, ModelCard
from deepir.descriptors import LENGTH_FLOOR
from deepir.distill.checkpoint import Model
from deepir.errors import ModelError, OptionError
from deepir.optional import need
from deepir.regions import Windows, image_regions, region_windows

OPSET = 17
IR_VERSION = 8
"""Opset 17 and IR 8 are read by every TensorRT from 8.5 to 11 and by ONNX Runtime (tensorrt.md 1.4)."""

DOMAIN = "deepir"
POOL_OPERATOR = "RoIMaxPool"
"""RoIMaxPool(x[N,C,H,W], rois int32[R,4] = y0,x0,y1,x1 in cells, ends exclusive) -> [N,R,C]; no attributes."""

REGIONS_NAME = "regions"
"""The tensor (N, R, C) between the pooling and the head."""

_MAP_NAME = "map"
_EXPORTER_OPSET = 18


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
            "size can be exported: distil it into a student, or set one with deepir-distill whiten --scales 1"
        )
        raise OptionError(message)
    proto = _export_trunk(model)
    _rename(proto.graph)
    shape = [dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim]
    windows = region_windows(image_regions(*model.spec.size, model.spec.levels), shape[2], shape[3], model.spec.stride)
    _append_head(proto.graph, model, windows)
    proto.functions.append(_pool_function(windows, shape[3]))
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
    torch, onnx = need("torch"), need("onnx")
    images = torch.zeros(2, 3, *model.spec.size)
    trunk = model.network.trunk.cpu().eval()
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
            output_names=[_MAP_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    proto = program.model_proto
    newer = {
        n.op_type for n in proto.graph.node if onnx.defs.get_schema(n.op_type, _EXPORTER_OPSET).since_version > OPSET
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


def _append_head(graph: Any, model: Model, windows: Windows) -> None:
    onnx = need("onnx")
    make = onnx.helper.make_node
    layer = model.network.whitening
    constants: dict[str, NDArray[Any]] = {
        "rois": windows,
        "length_floor": np.array(LENGTH_FLOOR, dtype=np.float32),
        "region_axis": np.array([1], dtype=np.int64),
    }
    nodes = [make(POOL_OPERATOR, [_MAP_NAME, "rois"], [REGIONS_NAME], name="roi_max_pool", domain=DOMAIN)]
    nodes += _normalise(REGIONS_NAME, "regions_normalised")
    last = "regions_normalised"
    if layer is not None:
        constants["whitening.weight"] = np.ascontiguousarray(layer.weight.detach().cpu().numpy().T)
        constants["whitening.bias"] = layer.bias.detach().cpu().numpy()
        nodes.append(make("MatMul", [last, "whitening.weight"], ["projected"], name="whitening"))
        nodes.append(make("Add", ["projected", "whitening.bias"], ["whitened"], name="whitening_bias"))
        nodes += _normalise("whitened", "whitened_normalised")
        last = "whitened_normalised"
    nodes.append(make("ReduceSum", [last, "region_axis"], ["aggregated"], name="aggregate", keepdims=0))
    nodes += _normalise("aggregated", OUTPUT_NAME)
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    del graph.output[:]
    shape = ["batch", model.spec.channels if layer is None else layer.out_features]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, shape))


def _normalise(source: str, target: str) -> list[Any]:
    """Division by the length, in four plain operators that every TensorRT fuses."""
    make = need("onnx.helper").make_node
    length, floored = f"{target}_length", f"{target}_floored"
    return [
        make("ReduceL2", [source], [length], name=length, axes=[-1], keepdims=1),
        make("Max", [length, "length_floor"], [floored], name=floored),
        make("Div", [source, floored], [target], name=target),
    ]


def _pool_function(windows: Windows, map_width: int) -> Any:
    """The body of RoIMaxPool for a map of fixed size: MaxPool of stride 1 for each window size, then Gather."""
    helper = need("onnx.helper")
    nodes: list[Any] = []

    def constant(name: str, values: list[int]) -> str:
        nodes.append(helper.make_node("Constant", [], [name], value_ints=values))
        return name

    flat = constant("flat", [0, 0, -1])
    sizes = sorted({(int(bottom - top), int(right - left)) for top, left, bottom, right in windows})
    order: list[int] = []
    for number, (height, width) in enumerate(sizes):
        rows = [
            r for r, (top, left, bottom, right) in enumerate(windows) if (bottom - top, right - left) == (height, width)
        ]
        positions = [int(windows[r][0]) * (map_width - width + 1) + int(windows[r][1]) for r in rows]
        order += rows
        pooled, cells, picked = f"pooled_{number}", f"cells_{number}", f"picked_{number}"
        nodes.append(helper.make_node("MaxPool", ["x"], [pooled], kernel_shape=[height, width], strides=[1, 1]))
        nodes.append(helper.make_node("Reshape", [pooled, flat], [cells]))
        nodes.append(helper.make_node("Gather", [cells, constant(f"positions_{number}", positions)], [picked], axis=2))
    nodes.append(helper.make_node("Concat", [f"picked_{n}" for n in range(len(sizes))], ["by_size"], axis=2))
    back = constant("back", [int(position) for position in np.argsort(order)])
    nodes.append(helper.make_node("Gather", ["by_size", back], ["ordered"], axis=2))
    nodes.append(helper.make_node("Transpose", ["ordered"], ["y"], perm=[0, 2, 1]))
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, POOL_OPERATOR, ["x", "rois"], ["y"], nodes, opsets)
