"""ModelOpt as a second quantiser: it is given the trunk alone, which then goes back under its own head."""

import contextlib
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepir.calib.onnx_check import check
from deepir.calib.onnx_file import Feeds, read_onnx, write_onnx
from deepir.card import ModelCard
from deepir.errors import MissingDependency, ModelError, OptionError
from deepir.graph_names import MAP_NAME
from deepir.optional import need

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_SMALLEST_CODE, _LARGEST_CODE = -128, 127


def quantise_modelopt(proto: Any, card: ModelCard, feeds: Sequence[Feeds], *, method: str = "max") -> Any:
    """A copy of an FP32 model whose trunk NVIDIA's ModelOpt made INT8 (tensorrt.md 3.2).

    ModelOpt knows no functions, would quantise the whitening too, and writes scales that other programs misread unless
    it is told FP32: so it sees no head and no FP16. Card, head and opset stay those of the FP32 file. ModelOpt pins an
    old ONNX Runtime and wants an environment of its own.

    Args:
        proto: The FP32 onnx.ModelProto.
        card: Of that model.
        feeds: The calibration pictures, all of them in memory: 1.2 MB each at 320 x 320.
        method: `max` or `entropy`.

    Raises:
        MissingDependency: ModelOpt is not installed.
        OptionError: No pictures, a model of free size, or no such method.
        ModelError: ModelOpt cannot quantise this trunk, or gave something that TensorRT does not read.
    """
    if card.free_size:
        message = "ModelOpt calibrates files of fixed size only: export one without free size, or use our own quantiser"
        raise OptionError(message)
    if method not in ("max", "entropy") or not feeds:
        message = f"ModelOpt needs pictures and the method max or entropy, got {len(feeds)} batches and {method!r}"
        raise OptionError(message)
    trunk = cut_trunk(proto)
    arrays = {value.name: np.concatenate([feed[value.name] for feed in feeds]) for value in trunk.graph.input}
    return graft_trunk(proto, _quantised(trunk, arrays, method))


def cut_trunk(proto: Any) -> Any:
    """The graph from the pictures to the maps that the head pools, as an ONNX model without functions.

    Raises:
        ModelError: A graph without such maps.
    """
    onnx = need("onnx")
    nodes, maps = _split(proto)
    read = {name for node in nodes for name in node.input}
    trunk = onnx.ModelProto()
    trunk.CopyFrom(proto)
    graph = trunk.graph
    del trunk.functions[:], trunk.metadata_props[:], graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    _keep(graph.initializer, read)
    float_type = onnx.TensorProto.FLOAT
    graph.output.extend(onnx.helper.make_tensor_value_info(name, float_type, None) for name in maps)
    return onnx.shape_inference.infer_shapes(trunk)


def graft_trunk(proto: Any, trunk: Any) -> Any:
    """A copy of a model with another trunk, such as `cut_trunk` gave and a library quantised, under its own head.

    Weights that the library left in FP32 before a QuantizeLinear become the codes that it makes of them.

    Raises:
        ModelError: Not INT8 with FP32 scales and zero points of 0, other maps than the head reads, or operators newer
            than the model's opset.
    """
    grafted = need("onnx").ModelProto()
    grafted.CopyFrom(proto)
    graph = grafted.graph
    old, maps = _split(proto)
    missing = set(maps) - {name for node in trunk.graph.node for name in node.output}
    if missing:
        message = f"the quantised trunk lacks the maps {', '.join(sorted(missing))} that the head reads"
        raise ModelError(message)
    gone = {name for node in old for name in node.output}
    head = [node for node in proto.graph.node if not gone & set(node.output)]
    del graph.node[:], graph.value_info[:]
    _keep(graph.initializer, {name for node in head for name in node.input})
    graph.initializer.extend(trunk.graph.initializer)
    graph.node.extend([*trunk.graph.node, *head])
    _fold_weights(graph)
    _check_quantisers(graph)
    check(grafted)
    return grafted


def _quantised(trunk: Any, arrays: Feeds, method: str) -> Any:
    try:
        quantisation = need("modelopt.onnx.quantization")
    except MissingDependency as error:
        message = (
            f"ModelOpt is not here ({error.__cause__}): pip install nvidia-modelopt onnxslim, best in a venv apart"
        )
        raise MissingDependency(message) from error
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "trunk.onnx", Path(folder) / "trunk.int8.onnx"
        write_onnx(trunk, source)
        try:
            # it prints each batch to stdout, where our JSON goes
            with contextlib.redirect_stdout(io.StringIO()):
                quantisation.quantize(
                    str(source),
                    quantize_mode="int8",
                    calibration_data=arrays,
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    high_precision_dtype="fp32",
                    output_path=str(target),
                    log_level="ERROR",
                )
        except Exception as error:  # whatever a library of that size raises
            message = f"ModelOpt cannot quantise this trunk: {error}"
            raise ModelError(message) from error
        return read_onnx(target)


def _split(proto: Any) -> tuple[list[Any], list[str]]:
    """The nodes from which the maps are made, in order, and the maps' names."""
    wanted = re.compile(rf"{MAP_NAME}(_\d+)?(@\d+)?")
    maps = [name for node in proto.graph.node for name in node.output if wanted.fullmatch(name)]
    if not maps:
        message = f"this graph has no tensor called {MAP_NAME}, where trunks end: export the model again"
        raise ModelError(message)
    needed, found = set(maps), []
    for node in reversed(proto.graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            found.append(node)
    return found[::-1], maps


def _keep(entries: Any, names: set[str]) -> None:
    kept = [entry for entry in entries if entry.name in names]
    del entries[:]
    entries.extend(kept)


def _fold_weights(graph: Any) -> None:
    """Turn weights that are quantised when the model runs into int8 constants: a quarter of the bytes, equal values."""
    numpy_helper = need("onnx.numpy_helper")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    folded = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]
    for node in folded:
        weights, scales = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if dimension == axis else 1 for dimension in range(weights.ndim)]
        codes = np.rint(weights / scales.reshape(shape)).clip(_SMALLEST_CODE, _LARGEST_CODE).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(codes, node.output[0]))
        graph.node.remove(node)
    _keep(graph.initializer, {name for node in graph.node for name in node.input})


def _check_quantisers(graph: Any) -> None:
    """Raise ModelError unless all is symmetric INT8 with FP32 scales, which alone every program reads alike."""
    numpy_helper = need("onnx.numpy_helper")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantisers = [node for node in graph.node if node.op_type in _QUANTISERS]
    for node in quantisers:
        scale, zero = (constants.get(name) for name in node.input[1:3])
        wrong = scale is None or scale.dtype != np.float32 or not ((scale > 0) & (scale < np.inf)).all()
        if wrong or zero is None or zero.dtype != np.int8 or zero.any():
            message = f"the quantised trunk has a scale that is not FP32 or a zero point other than 0 at {node.name}"
            raise ModelError(message)
    if not quantisers:
        message = "the quantised trunk has no QuantizeLinear: nothing became INT8"
        raise ModelError(message)
