"""Mixed precision: the convolutions that are kept compute in FP16, and nothing else changes."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from deepir.calib.half import half_constant, keep_half
from deepir.calib.onnx_file import open_session, read_card
from deepir.calib.quantise import int8_share, place, quantise
from deepir.distill.checkpoint import Model
from deepir.errors import ModelError
from deepir.export.graph import build_onnx

MakeModel = Callable[..., Model]
STEM, MIDDLE, LAST = "stem.0", "middle.0", "last.0"


@pytest.fixture(scope="module")
def master(make_model: MakeModel) -> onnx.ModelProto:
    return build_onnx(make_model(dim=6))


@pytest.fixture(scope="module")
def master_of_two(make_model: MakeModel) -> onnx.ModelProto:
    model = make_model(dim=6)
    return build_onnx(Model(model.network, dataclasses.replace(model.spec, sizes=((64, 64), (96, 64)))))


def mixed(master: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    proto = quantise(master, place(master, keep=kept), dict.fromkeys(place(master).tensors, 4.0))
    keep_half(proto, kept)
    return proto


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def feeds(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        value.name: generator.normal(size=[3, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]).astype(
            np.float32
        )
        for value in proto.graph.input
    }


def descriptors(proto: onnx.ModelProto) -> np.ndarray:
    found: np.ndarray = open_session(proto).run(None, feeds(proto))[0]
    return found


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(inline_local_functions(proto), strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        types[value.name] = value.type.tensor_type.elem_type
    return types


def convolution(proto: onnx.ModelProto, name: str) -> Any:
    return next(node for node in proto.graph.node if node.name == name)


@pytest.mark.parametrize("kept", [{STEM}, {MIDDLE}, {LAST}, {STEM, LAST}, {STEM, MIDDLE}], ids=sorted)
def test_kept_convolutions_are_fp16_and_the_others_int8(master: onnx.ModelProto, kept: set[str]) -> None:
    proto = mixed(master, kept)
    types = types_of(proto)
    for node in proto.graph.node:
        if node.op_type == "Conv":
            expected = TensorProto.FLOAT16 if node.name in kept else TensorProto.FLOAT
            assert {types[name] for name in (*node.input, *node.output)} == {expected}, node.name
    assert int8_share(proto) == pytest.approx(1 - len(kept) / 3)
    assert types["descriptors"] == TensorProto.FLOAT


def test_all_of_them_in_fp16_is_close_to_fp32_and_none_is_no_change(master: onnx.ModelProto) -> None:
    proto = copy_of(master)
    keep_half(proto, ())
    assert proto == master
    keep_half(proto, (STEM, MIDDLE, LAST))
    found, right = descriptors(proto), descriptors(master)
    assert not np.array_equal(found, right)
    np.testing.assert_allclose(found, right, atol=2e-3)


@pytest.mark.parametrize("kept", [{STEM}, {MIDDLE, LAST}], ids=sorted)
def test_numpy_and_onnx_runtime_agree(master: onnx.ModelProto, kept: set[str]) -> None:
    proto = copy_of(master)
    keep_half(proto, kept)
    (right,) = ReferenceEvaluator(inline_local_functions(proto)).run(None, feeds(proto))
    np.testing.assert_allclose(descriptors(proto), right, atol=2e-3)


def test_openvino_agrees(master: onnx.ModelProto) -> None:
    openvino = pytest.importorskip("openvino")
    proto = mixed(master, {MIDDLE})
    core = openvino.Core()
    content = inline_local_functions(proto).SerializeToString()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(feeds(proto))[0]
    assert np.sum(descriptors(proto) * found, axis=1).min() > 0.999


def test_an_activation_follows_its_convolution_and_nothing_is_cast_between_two(master: onnx.ModelProto) -> None:
    proto = copy_of(master)
    keep_half(proto, (STEM, MIDDLE))
    types = types_of(proto)
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    assert {types[relu.input[0]], types[relu.output[0]]} == {TensorProto.FLOAT16}
    assert convolution(proto, MIDDLE).input[0] == relu.output[0]
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    assert [helper.get_node_attr_value(cast, "to") for cast in casts] == [TensorProto.FLOAT16, TensorProto.FLOAT]


def test_where_the_activation_runs_changes_nothing() -> None:
    values = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32), "weight")
    limits = [numpy_helper.from_array(np.array(limit, np.float32), name) for name, limit in (("low", 0), ("high", 0.3))]
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["raw"], name="conv"),
        helper.make_node("Clip", ["raw", "low", "high"], ["clipped"], name="clip"),
    ]
    shapes = {"images": 3, "raw": 4, "clipped": 4}
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count, 8, 8])
        for name, count in shapes.items()
    }
    graph = helper.make_graph(nodes, "test", [infos["images"]], [infos["clipped"], infos["raw"]], [values, *limits])
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    images = {"images": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    keep_half(proto, {"conv"})
    clipped, raw = open_session(proto).run(["clipped", "raw"], images)
    np.testing.assert_array_equal(np.clip(raw, 0, np.float16(0.3)), clipped)
    # the limits are still FP32 for whoever else reads them; nobody does, so they are gone
    assert {tensor.name for tensor in proto.graph.initializer} == {"weight/half", "low/half", "high/half"}


def test_an_activation_with_limits_that_are_computed_stays_fp32(master: onnx.ModelProto) -> None:
    proto = copy_of(master)
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    limit = helper.make_node("ReduceMax", [relu.input[0]], ["limit"], name="limit", keepdims=0)
    relu.op_type = "Clip"
    relu.input.extend(["", "limit"])
    proto.graph.node.insert(list(proto.graph.node).index(relu), limit)
    keep_half(proto, {STEM})
    types = types_of(proto)
    assert {types[name] for name in relu.input if name} == {types[relu.output[0]]} == {TensorProto.FLOAT}


def test_weights_that_another_convolution_reads_stay_fp32_for_it(master_of_two: onnx.ModelProto) -> None:
    proto = copy_of(master_of_two)
    keep_half(proto, {f"{STEM}@0"})
    kept, other = convolution(proto, f"{STEM}@0"), convolution(proto, f"{STEM}@1")
    types = types_of(proto)
    assert types[kept.input[1]] == TensorProto.FLOAT16
    assert types[other.input[1]] == TensorProto.FLOAT
    np.testing.assert_allclose(descriptors(proto), descriptors(master_of_two), atol=2e-3)


def test_the_resolutions_share_their_fp16_weights_too(master_of_two: onnx.ModelProto) -> None:
    proto = mixed(master_of_two, {f"{STEM}@0", f"{STEM}@1"})
    assert convolution(proto, f"{STEM}@0").input[1] == convolution(proto, f"{STEM}@1").input[1]
    counts = Counter(tensor.name for tensor in proto.graph.initializer)
    assert max(counts.values()) == 1
    assert f"{STEM}.weight" not in counts
    assert int8_share(proto) == pytest.approx(2 / 3)


def test_opset_ir_version_inputs_and_card_stay(master: onnx.ModelProto) -> None:
    proto = copy_of(master)
    keep_half(proto, {LAST})
    assert (proto.ir_version, proto.opset_import) == (master.ir_version, master.opset_import)
    assert (proto.graph.input, proto.graph.output) == (master.graph.input, master.graph.output)
    assert read_card(proto) == read_card(master)


def test_weights_beyond_fp16_are_refused(master: onnx.ModelProto) -> None:
    proto = copy_of(master)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == f"{MIDDLE}.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e9), weight.name))
    with pytest.raises(ModelError, match=rf"{MIDDLE}\.weight reach .*e\+0\d, beyond FP16's 65504"):
        keep_half(proto, {MIDDLE})


def test_a_single_value_beyond_fp16_becomes_its_largest() -> None:
    limit = numpy_helper.from_array(np.array(-3.4e38, np.float32), "limit")
    half = half_constant(limit, "half")
    assert (half.name, float(numpy_helper.to_array(half))) == ("half", -65504)


@pytest.mark.parametrize(("name", "words"), [("stem.9", "no convolution 'stem.9'"), (STEM, "no FP32 constant")])
def test_what_cannot_be_kept_is_refused(master: onnx.ModelProto, name: str, words: str) -> None:
    int8 = mixed(master, ())
    with pytest.raises(ModelError, match=words):
        keep_half(int8, {name})


@pytest.mark.rtx
def test_tensorrt_rtx_computes_them_in_fp16_and_the_others_in_int8(
    master: onnx.ModelProto, rtx_build: Callable[..., tuple[bytes, str]]
) -> None:
    _, layers = rtx_build(inline_local_functions(mixed(master, {MIDDLE})).SerializeToString())
    kernels = [line for line in layers.splitlines() if "LayerType: correlation" in line]
    types = {
        name: line.split("Datatype: ", 1)[1].split(",", 1)[0]
        for line in kernels
        for name in (STEM, MIDDLE, LAST)
        if f"[ONNX Layer: {name}]" in line
    }
    assert types == {STEM: "Int8", MIDDLE: "Half", LAST: "Int8"}
