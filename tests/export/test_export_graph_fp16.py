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
from deepir.card import OUTPUT_NAME
from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.errors import ModelError
from deepir.export.graph import build_onnx
from deepir.export.precision import to_fp16
from deepir.head import Head
from deepir.inputs import model_inputs
from deepir.pooling import roi_pool
from deepir.spec import Numerics
from deepir.whitening import Whitening

MakeModel = Callable[..., Model]
CHANNELS, SIZE = 2048, (64, 64)
LEAST_SQUARES, MOST_SQUARES = 18e3, 575e3
"""The sums of squares of region vectors of a ResNet-101 (tensorrt.md 3.1); FP16 ends at 65504."""

SUMMING = {"ReduceL2", "ReduceSum", "ReduceMean", "Mul", "Pow", "Div", "MatMul", "Sum"}


class WideTrunk(nn.Module):
    """2048 channels of stride 16, as large as those of a ResNet-101 where the picture is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 16, 16)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return self.stem(images_nchw).relu()


def wide_model(**options: object) -> Model:
    """A whitened model whose region vectors span the magnitudes above on `bright_pictures`."""
    torch.manual_seed(0)
    model = new_model(wrap_module("wide", WideTrunk()), sizes=(SIZE,), **options)
    generator = np.random.default_rng(0)
    weight = generator.normal(scale=CHANNELS**-0.5, size=(32, CHANNELS)).astype(np.float32)
    model.network.whiten_with(Whitening(weight, generator.normal(scale=0.01, size=32).astype(np.float32)))
    regions = squares(region_vectors(model))
    with torch.no_grad():
        model.network.trunk.stem.weight.mul_((MOST_SQUARES / regions.max()) ** 0.5)
        model.network.trunk.stem.bias.zero_()
    model.network.eval()
    return model.sealed()


def bright_pictures() -> list[np.ndarray]:
    """From dark to bright, each with a texture of its own."""
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(6, *SIZE, 3))
    return [
        np.clip(124 + picture * contrast, 0, 255).astype(np.uint8)
        for picture, contrast in zip(noise, np.linspace(20, 120, 6), strict=True)
    ]


def region_vectors(model: Model) -> np.ndarray:
    (group,) = model_inputs(bright_pictures(), read_card(build_onnx(model)))
    with torch.no_grad():
        map_nchw = model.network.maps(torch.from_numpy(group.arrays[0]))[0]
        windows = [[0, 0, 4, 4], [0, 0, 3, 3], [1, 1, 4, 4]]
        return model.network.pools[0](map_nchw, windows).numpy()


def squares(regions_nrc: np.ndarray) -> np.ndarray:
    return np.sum(regions_nrc.astype(np.float64) ** 2, axis=-1)


def feeds(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    card = read_card(proto)
    (group,) = model_inputs(bright_pictures(), card)
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


def forms(make_model: MakeModel, staged_trunk: Callable[[int], Trunk]) -> dict[str, onnx.ModelProto]:
    model = make_model(dim=6)

    def at(**spec: object) -> Model:
        return Model(model.network, dataclasses.replace(model.spec, **spec))

    gem = Head(fusion="fpn", middle=(2,), pooling="gem", levels=0, normalise_regions=False)
    return {
        "fixed": build_onnx(model),
        "several": build_onnx(at(sizes=((64, 64), (96, 64))), pixels="uint8"),
        "free": build_onnx(at(resize="longest")),
        "fpn": build_onnx(new_model(staged_trunk(1), sizes=((64, 96),), head=gem, resize="longest")),
    }


def test_the_magnitudes_are_those_of_a_resnet_101() -> None:
    regions = squares(region_vectors(wide_model()))
    assert regions.min() < LEAST_SQUARES
    assert regions.max() > 0.9 * MOST_SQUARES
    assert np.mean(regions > 65504) > 0.4


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


def test_nothing_in_the_head_computes_in_fp16(
    wide: tuple[onnx.ModelProto, onnx.ModelProto], make_model: MakeModel, staged_trunk: Callable[[int], Trunk]
) -> None:
    protos = {"wide": wide[1], **{name: to_fp16(form) for name, form in forms(make_model, staged_trunk).items()}}
    for name, proto in protos.items():
        inlined = inline_local_functions(proto)
        types = element_types(inlined)
        summing = [node for node in inlined.graph.node if node.op_type in SUMMING]
        assert summing, name
        for node in summing:
            assert {types[tensor] for tensor in (*node.input, *node.output)} & {TensorProto.FLOAT16} == set(), node.name
        convolutions = [node for node in inlined.graph.node if node.op_type == "Conv"]
        assert {types[tensor] for node in convolutions for tensor in node.input} == {TensorProto.FLOAT16}, name
        assert types[OUTPUT_NAME] == TensorProto.FLOAT


def test_max_pooling_itself_is_in_fp16_and_gives_what_numpy_gives(
    wide: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    free = build_onnx(Model(wide_model().network, dataclasses.replace(wide_model().spec, resize="longest")))
    for proto in (wide[0], free):
        half = to_fp16(proto)
        map_nchw, regions = true_fp16(half, ["map:out" if False else "map", "regions/half"])
        windows = feeds(half).get("rois", _windows(half))
        assert regions.dtype == np.float16
        clipped = np.clip(windows, 0, 4).astype(np.int32)
        np.testing.assert_array_equal(regions, roi_pool(map_nchw, clipped))


def _windows(proto: onnx.ModelProto) -> np.ndarray | None:
    found = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.name == "rois"]
    return found[0] if found else None


@pytest.mark.parametrize("form", ["fixed", "several", "free", "fpn"])
def test_every_form_is_close_to_its_master_and_keeps_its_inputs(
    make_model: MakeModel, staged_trunk: Callable[[int], Trunk], form: str
) -> None:
    master = forms(make_model, staged_trunk)[form]
    half = to_fp16(master)
    card = read_card(half)
    assert card == dataclasses.replace(read_card(master), numerics=Numerics.FP16)
    assert [value.SerializeToString() for value in half.graph.input] == [
        value.SerializeToString() for value in master.graph.input
    ]
    cosines = np.sum(
        open_session(half).run(None, feeds(half))[0] * open_session(master).run(None, feeds(master))[0], axis=1
    )
    assert cosines.min() > 0.999


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
