"""FP16 files: what computes in half precision, and that no sum of the head can go beyond what it holds."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator
from torch import nn

from deepir.calib.onnx_file import open_session, read_card
from deepir.calib.precision import to_fp16
from deepir.card import OUTPUT_NAME, ModelCard
from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.errors import ModelError
from deepir.export.graph import build_onnx
from deepir.head import Head
from deepir.inputs import model_inputs
from deepir.pooling import roi_pool
from deepir.spec import Numerics
from deepir.whitening import Whitening

MakeModel = Callable[..., Model]
CHANNELS, SIZE = 2048, (64, 64)
LEAST_SQUARES, MOST_SQUARES = 18e3, 575e3
"""The sums of squares of region vectors of a ResNet-101 (tensorrt.md 3.1); FP16 ends at 65504."""

SUMMING = {"ReduceL2", "ReduceSum", "ReduceMean", "Max", "Mul", "Pow", "Div", "MatMul", "Sum"}


class WideTrunk(nn.Module):
    """2048 channels of stride 16, as large as those of a ResNet-101 where the picture is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 16, 16)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return self.stem(images_nchw).relu()


def wide_model() -> Model:
    """A whitened model whose region vectors span the magnitudes above on `pictures`."""
    torch.manual_seed(0)
    model = new_model(wrap_module("wide", WideTrunk()), sizes=(SIZE,))
    generator = np.random.default_rng(0)
    weight = generator.normal(scale=CHANNELS**-0.5, size=(32, CHANNELS)).astype(np.float32)
    model.network.whiten_with(Whitening(weight, generator.normal(scale=0.01, size=32).astype(np.float32)))
    model.network.eval()
    with torch.no_grad():
        model.network.trunk.stem.bias.zero_()
        model.network.trunk.stem.weight.mul_((MOST_SQUARES / squares_of_regions(model).max()) ** 0.5)
    return model.sealed()


def pictures() -> list[np.ndarray]:
    """Noise around the mean of ImageNet, from hardly any to strong."""
    noise = np.random.default_rng(1).normal(size=(8, *SIZE, 3))
    strengths = np.geomspace(15, 130, len(noise))
    return [
        np.clip((124, 116, 104) + picture * strength, 0, 255).astype(np.uint8)
        for picture, strength in zip(noise, strengths, strict=True)
    ]


def squares_of_regions(model: Model) -> np.ndarray:
    """Sums of squares (N, R), before any region is normalised."""
    card = ModelCard(model.spec, strides=model.network.strides)
    (group,) = model_inputs(pictures(), card)
    images, windows = group.arrays
    with torch.no_grad():
        map_nchw = model.network.maps(torch.from_numpy(images))[0].numpy()
    pooled = roi_pool(map_nchw, np.clip(windows, 0, map_nchw.shape[2]))
    return np.sum(pooled.astype(np.float64) ** 2, axis=-1)


def feeds(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    card = read_card(proto)
    (group,) = model_inputs(pictures(), card)
    return dict(zip(card.inputs(), group.arrays, strict=True))


def true_fp16(proto: onnx.ModelProto, outputs: Iterable[str] = (OUTPUT_NAME,)) -> list[np.ndarray]:
    """What numpy gives, which rounds and overflows in FP16 where ONNX Runtime computes in FP32 behind the scenes."""
    inlined = inline_local_functions(proto)
    names = list(outputs)
    known = {value.name for value in inlined.graph.output}
    inlined.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(inlined).run(names, feeds(proto))


def all_in_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The control: a careless converter that puts the head into FP16 too."""
    half = inline_local_functions(proto)
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    first = half.graph.input[0].name
    for node in half.graph.node:
        node.input[:] = [f"{name}/half" if name == first else name for name in node.input]
    half.graph.node.insert(0, helper.make_node("Cast", [first], [f"{first}/half"], to=TensorProto.FLOAT16))
    half.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return half


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor of the inlined graph."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        types[value.name] = value.type.tensor_type.elem_type
    return types


@pytest.fixture(scope="module")
def wide() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The FP32 file and the FP16 file of the wide model."""
    master = build_onnx(wide_model())
    return master, to_fp16(master)


@pytest.fixture(scope="module")
def masters(make_model: MakeModel, staged_trunk: Callable[[int], Trunk]) -> dict[str, onnx.ModelProto]:
    """FP32 files of several forms."""
    model = make_model(dim=6)
    several = dataclasses.replace(model.spec, sizes=((64, 64), (96, 64)))
    longest = dataclasses.replace(model.spec, resize="longest")
    head = Head(fusion="fpn", middle=(2,), pooling="gem", levels=0, normalise_regions=False)
    return {
        "fixed": build_onnx(model),
        "several": build_onnx(Model(model.network, several), pixels="uint8"),
        "free": build_onnx(Model(model.network, longest)),
        "fpn": build_onnx(new_model(staged_trunk(1), sizes=((64, 96),), head=head, resize="longest")),
    }


def test_the_magnitudes_are_those_of_a_resnet_101() -> None:
    squares = squares_of_regions(wide_model())
    assert squares.min() < LEAST_SQUARES
    assert squares.max() == pytest.approx(MOST_SQUARES, rel=1e-3)
    assert np.mean(squares > 65504) > 0.4


def test_a_head_in_fp16_overflows_and_gives_vectors_of_zeros(wide: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    master, _ = wide
    names = ["regions_normalised_length", "regions_normalised", OUTPUT_NAME]
    lengths, regions, descriptors = true_fp16(all_in_fp16(master), names)
    assert np.isinf(lengths).any()
    assert (np.abs(regions).max(axis=-1) == 0).any()
    (right,) = true_fp16(master)
    assert np.nanmin(np.sum(descriptors.astype(np.float32) * right, axis=1)) < 0.99


def test_our_fp16_file_has_no_overflow_in_true_fp16_arithmetic(wide: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    master, half = wide
    lengths, descriptors = true_fp16(half, ["regions_normalised_length", OUTPUT_NAME])
    assert np.isfinite(lengths).all()
    assert lengths.max() ** 2 > 65504
    (right,) = true_fp16(master)
    assert np.sum(descriptors * right, axis=1).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("form", ["wide", "fixed", "several", "free", "fpn"])
def test_nothing_in_the_head_computes_in_fp16(
    wide: tuple[onnx.ModelProto, onnx.ModelProto], masters: dict[str, onnx.ModelProto], form: str
) -> None:
    inlined = inline_local_functions(wide[1] if form == "wide" else to_fp16(masters[form]))
    types = element_types(inlined)
    summing = [node for node in inlined.graph.node if node.op_type in SUMMING]
    assert {"ReduceL2", "Div"} <= {node.op_type for node in summing}
    for node in summing:
        assert TensorProto.FLOAT16 not in {types[name] for name in (*node.input, *node.output)}, node.name
    convolutions = [node for node in inlined.graph.node if node.op_type == "Conv"]
    assert {types[name] for node in convolutions for name in node.input} == {TensorProto.FLOAT16}
    assert types[OUTPUT_NAME] == TensorProto.FLOAT


@pytest.mark.parametrize("form", ["fixed", "free"])
def test_max_pooling_itself_is_in_fp16_and_gives_what_numpy_gives(
    masters: dict[str, onnx.ModelProto], form: str
) -> None:
    half = to_fp16(masters[form])
    map_nchw, regions = true_fp16(half, ["map", "regions/half"])
    assert map_nchw.dtype == regions.dtype == np.float16
    rois = [numpy_helper.to_array(tensor) for tensor in half.graph.initializer if tensor.name == "rois"]
    windows = np.clip(feeds(half)["rois"] if form == "free" else rois[0], 0, map_nchw.shape[2])
    np.testing.assert_array_equal(regions, roi_pool(map_nchw, windows))


@pytest.mark.parametrize("form", ["fixed", "several", "free", "fpn"])
def test_every_form_is_close_to_its_master_and_keeps_its_inputs(masters: dict[str, onnx.ModelProto], form: str) -> None:
    master = masters[form]
    half = to_fp16(master)
    assert read_card(half) == dataclasses.replace(read_card(master), numerics=Numerics.FP16)
    inputs = [[value.SerializeToString() for value in proto.graph.input] for proto in (half, master)]
    assert inputs[0] == inputs[1]
    found, right = (open_session(proto).run(None, feeds(proto))[0] for proto in (half, master))
    assert np.sum(found * right, axis=1).min() > 0.999


def test_pixels_are_normalised_in_fp32(make_model: MakeModel) -> None:
    half = to_fp16(build_onnx(make_model(dim=6), pixels="uint8"))
    types = element_types(inline_local_functions(half))
    assert [types[name] for name in ("images", "scaled", "prepared", "prepared/half")] == [
        TensorProto.UINT8,
        TensorProto.FLOAT,
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
    ]


def test_a_trunk_with_a_type_of_its_own_is_refused(make_model: MakeModel) -> None:
    proto = build_onnx(make_model(dim=6))
    last = next(node for node in proto.graph.node if "map" in node.output)
    cast = helper.make_node("Cast", [last.input[0]], ["again"], name="again", to=TensorProto.FLOAT)
    add = helper.make_node("Add", ["again", last.input[0]], ["both"], name="both")
    last.input[0] = "both"
    position = list(proto.graph.node).index(last)
    proto.graph.node.insert(position, add)
    proto.graph.node.insert(position, cast)
    with pytest.raises(ModelError, match="not valid ONNX"):
        to_fp16(proto)
