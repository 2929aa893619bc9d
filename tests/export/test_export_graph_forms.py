"""Every form of the file is the function that torch computes: several resolutions, free size, uint8 pixels."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx.inliner import inline_local_functions
from torch import nn

from deepir.calib.onnx_check import check
from deepir.calib.onnx_file import open_session, read_card
from deepir.card import OUTPUT_NAME
from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.describe import describe
from deepir.distill.layers import WhiteningLayer
from deepir.errors import OptionError
from deepir.export.free_trunk import other_sizes
from deepir.export.graph import build_onnx
from deepir.head import Head
from deepir.inputs import model_inputs
from deepir.regions import head_windows
from deepir.whitening import Whitening

MakeModel = Callable[..., Model]
MakeTrunk = Callable[[int], Trunk]
TWO, THREE = ((64, 96), (96, 64)), ((64, 96), (96, 64), (128, 128))

FORMS = {
    "one size": ({"sizes": TWO[:1]}, {}),
    "one size, uint8": ({"sizes": TWO[:1]}, {"pixels": "uint8"}),
    "three resolutions": ({"sizes": THREE}, {}),
    "three resolutions, uint8": ({"sizes": THREE}, {"pixels": "uint8"}),
    "nearest of three": ({"sizes": THREE, "resize": "nearest"}, {}),
    "nearest of three, uint8": ({"sizes": THREE, "resize": "nearest"}, {"pixels": "uint8"}),
    "longest side": ({"sizes": ((96, 96),), "resize": "longest"}, {}),
    "two longest sides, uint8": ({"sizes": ((64, 64), (96, 96)), "resize": "longest"}, {"pixels": "uint8"}),
    "two free sizes": ({"sizes": TWO}, {"free_size": True}),
}

HEADS = {
    "gem": Head(pooling="gem", levels=0, normalise_regions=False),
    "r-gem": Head(pooling="gem", combine="max"),
    "r-spoc": Head(pooling="mean"),
    "mac": Head(levels=0),
    "map grid": Head(grid="map", levels=3),
    "whole map and grid": Head(grid="map+whole"),
    "concat": Head(fusion="concat", middle=(2, 1)),
    "1x1conv-eltwise-pca": Head(fusion="1x1conv-eltwise-pca", middle=(2,)),
    "fpn": Head(fusion="fpn", middle=(2,), pooling="gem", levels=0, normalise_regions=False),
}


def pictures() -> list[np.ndarray]:
    """Noise of several aspects; two of one size, so that a batch has more than one picture."""
    generator = np.random.default_rng(0)
    sizes = ((96, 64), (64, 96), (80, 80), (100, 171), (96, 64))
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def run(proto: onnx.ModelProto, images: list[np.ndarray]) -> np.ndarray:
    card, session = read_card(proto), open_session(proto)
    found = np.full((len(images), card.spec.dim), np.nan, np.float32)
    for group in model_inputs(images, card):
        found[group.rows] = session.run([OUTPUT_NAME], dict(zip(card.inputs(), group.arrays, strict=True)))[0]
    return found


def at(model: Model, **spec: object) -> Model:
    model.network.eval()
    return Model(model.network, dataclasses.replace(model.spec, **spec))


def layer(channels: int, dim: int) -> WhiteningLayer:
    generator = np.random.default_rng(dim)
    weight, bias = generator.normal(size=(dim, channels)), generator.normal(scale=0.1, size=dim)
    return WhiteningLayer.of(Whitening(weight.astype(np.float32), bias.astype(np.float32)))


@pytest.fixture(scope="module")
def built(make_model: MakeModel) -> Callable[[str], tuple[Model, onnx.ModelProto]]:
    """built(form) gives a model and its file, made once."""
    files: dict[str, tuple[Model, onnx.ModelProto]] = {}

    def build(form: str) -> tuple[Model, onnx.ModelProto]:
        if form not in files:
            spec, options = FORMS[form]
            model = at(make_model(dim=6), **spec)
            files[form] = model, build_onnx(model, **options)
        return files[form]

    return build


Built = Callable[[str], tuple[Model, onnx.ModelProto]]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_torch_gives(built: Built, form: str) -> None:
    model, proto = built(form)
    np.testing.assert_allclose(run(proto, pictures()), describe(model, pictures()), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_its_inlined_form(built: Built, form: str) -> None:
    _, proto = built(form)
    inlined = inline_local_functions(proto)
    assert not inlined.functions
    np.testing.assert_array_equal(run(proto, pictures()), run(inlined, pictures()))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_equals_its_pictures_one_by_one(built: Built, form: str) -> None:
    _, proto = built(form)
    single = np.concatenate([run(proto, [picture]) for picture in pictures()])
    np.testing.assert_allclose(run(proto, pictures()), single, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_inputs_are_those_that_the_card_tells_of(built: Built, form: str) -> None:
    model, proto = built(form)
    card = read_card(proto)
    assert (card.spec, card.pixels) == (model.spec, FORMS[form][1].get("pixels", "float32"))
    assert card.free_size == ("one size" not in form and "resolutions" not in form)
    assert tuple(value.name for value in proto.graph.input) == card.inputs()
    check(proto)
    names = [node.name for node in proto.graph.node]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("form", ["three resolutions", "two free sizes", "two longest sides, uint8"])
def test_weights_are_there_once(built: Built, form: str) -> None:
    def weights(proto: onnx.ModelProto) -> list[str]:
        return sorted(tensor.name for tensor in proto.graph.initializer if "weight" in tensor.name)

    assert weights(built(form)[1]) == weights(built("one size")[1])


def test_each_resolution_has_a_body_of_its_own_and_a_free_size_has_one_for_all(built: Built) -> None:
    def functions(form: str) -> list[str]:
        return [function.name for function in built(form)[1].functions]

    assert functions("three resolutions") == ["RoIMaxPoolIn0", "RoIMaxPoolIn1", "RoIMaxPoolIn2"]
    assert functions("two free sizes") == ["RoIMaxPool"]


def test_each_pooling_has_the_windows_of_its_resolution_as_a_plugin_reads_them(built: Built) -> None:
    model, proto = built("three resolutions")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    pools = [node for node in proto.graph.node if node.op_type.startswith("RoIMaxPool")]
    for node, size in zip(pools, model.spec.sizes, strict=True):
        cells = size[0] // model.spec.stride, size[1] // model.spec.stride
        windows = head_windows(model.spec.head, size, cells, model.spec.stride)
        np.testing.assert_array_equal(constants[node.input[1]], windows)


def test_uint8_pixels_are_normalised_to_the_bit_as_prepared_pictures_are(built: Built) -> None:
    for form in ("one size", "three resolutions", "nearest of three"):
        prepared, pixels = built(form)[1], built(f"{form}, uint8")[1]
        np.testing.assert_array_equal(run(prepared, pictures()), run(pixels, pictures()))


def test_pixels_of_caffe_models_are_normalised_to_the_bit_too(make_model: MakeModel) -> None:
    caffe = {"mean": (123.68000031 / 255, 116.77899933 / 255, 103.93900299 / 255), "std": (1 / 255, 1 / 255, 1 / 255)}
    pixels, prepared = (build_onnx(at(make_model(dim=6), **caffe), pixels=kind) for kind in ("uint8", "float32"))
    np.testing.assert_array_equal(run(pixels, pictures()), run(prepared, pictures()))


@pytest.mark.parametrize("form", ["three resolutions", "nearest of three"])
def test_names_and_bytes_are_the_same_each_time(built: Built, form: str) -> None:
    model, proto = built(form)
    assert build_onnx(model, **FORMS[form][1]).SerializeToString() == proto.SerializeToString()


@pytest.mark.parametrize(
    ("name", "resize"),
    [
        *((name, "stretch") for name in ("r-gem", "map grid", "concat", "fpn")),
        *((name, "longest") for name in ("gem", "r-spoc", "mac", "whole map and grid", "1x1conv-eltwise-pca", "fpn")),
    ],
)
def test_every_head_works_at_several_resolutions(staged_trunk: MakeTrunk, name: str, resize: str) -> None:
    head = HEADS[name]
    model = new_model(staged_trunk(len(head.middle)), sizes=TWO, head=head, resize=resize)
    for branch in model.network.branch_list:
        branch.whitening = layer(branch.channels, 7)
    model.network.projection = layer(model.network.dim, 5)
    model = at(model.sealed())
    proto = build_onnx(model)
    np.testing.assert_allclose(run(proto, pictures()), describe(model, pictures()), atol=1e-5)
    inlined = inline_local_functions(proto)
    np.testing.assert_array_equal(run(proto, pictures()), run(inlined, pictures()))


def test_a_fixed_size_for_pictures_of_several_sizes_is_refused(make_model: MakeModel) -> None:
    for resize in ("longest", "nearest"):
        with pytest.raises(OptionError, match=rf"resize {resize}.*--size 384x512"):
            build_onnx(at(make_model(), resize=resize), free_size=False)


class Excited(nn.Module):
    """Weighs its channels by their means, as the blocks of MobileNetV3 and EfficientNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 8, 1)
        self.weigh = nn.Conv2d(6, 6, 1)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        map_nchw = self.stem(images_nchw).relu()
        return map_nchw * self.weigh(map_nchw.mean((2, 3), keepdim=True)).sigmoid()


def test_means_of_a_map_are_written_as_opset_17_does() -> None:
    torch.manual_seed(0)
    model = at(new_model(wrap_module("excited", Excited()), sizes=((96, 96),), resize="longest"))
    np.testing.assert_allclose(run(build_onnx(model), pictures()), describe(model, pictures()), atol=1e-6)


class FixedPool(nn.Module):
    """Halves its map to four cells, whatever its size: the exporter writes the kernel as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 8, 1)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(self.stem(images_nchw).relu(), 4)


class OwnResize(nn.Module):
    """Brings its map to a size that no other map has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 8, 1)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.stem(images_nchw).relu(), size=(6, 6))


class Unpadded(nn.Module):
    """Gives a cell less than one for each stride begun."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 7, 8)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return self.stem(images_nchw).relu()


@pytest.mark.parametrize(
    ("trunk", "head", "words"),
    [
        (FixedPool, Head(), "its size is built in"),
        (OwnResize, Head(), "a size of its own"),
        (Unpadded, Head(grid="map"), "not one for each 8 pixels begun"),
    ],
)
def test_a_trunk_that_cannot_have_a_free_size_is_refused(trunk: type[nn.Module], head: Head, words: str) -> None:
    torch.manual_seed(0)
    model = new_model(wrap_module("fixed", trunk()), sizes=((96, 96),), head=head, resize="longest")
    with pytest.raises(OptionError, match=words):
        build_onnx(at(model))


def test_an_unpadded_trunk_has_a_free_size_where_the_grid_is_laid_on_the_picture() -> None:
    torch.manual_seed(0)
    model = at(new_model(wrap_module("unpadded", Unpadded()), sizes=((96, 96),), resize="longest"))
    np.testing.assert_allclose(run(build_onnx(model), pictures()), describe(model, pictures()), atol=1e-6)


def test_a_trunk_is_exported_again_where_it_has_its_size_built_in() -> None:
    torch.manual_seed(0)
    model = at(new_model(wrap_module("fixed", FixedPool()), sizes=((64, 64), (96, 96))))
    np.testing.assert_allclose(run(build_onnx(model), pictures()), describe(model, pictures()), atol=1e-6)


def test_a_trunk_is_tried_at_two_other_sizes_at_least(make_model: MakeModel) -> None:
    spec = make_model().spec
    for resize, sizes in (("longest", THREE[:1]), ("nearest", THREE), ("nearest", THREE[:1]), ("stretch", TWO)):
        changed = dataclasses.replace(spec, resize=resize, sizes=sizes)
        others = other_sizes(changed)
        assert len(set(others)) >= 2
        assert changed.size not in others
        assert resize != "nearest" or set(sizes) - {changed.size} <= set(others)


def test_the_onnx_side_of_an_export_needs_no_torch() -> None:
    code = (
        "import sys, deepir.calib.precision, deepir.export.verify, deepir.export.graph, deepir.calib.quantise\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
