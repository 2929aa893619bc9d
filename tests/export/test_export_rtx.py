"""TensorRT-RTX, NVIDIA's own parser and builder, takes every form of the file on a machine without a GPU."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx.inliner import inline_local_functions

from deepir.calib.calibrate import CalibrationConfig, calibrate, read_fp32
from deepir.calib.derive import plain_int8
from deepir.calib.images import choose_images
from deepir.calib.onnx_file import Describer, prepared, read_card, write_onnx
from deepir.calib.precision import to_fp16
from deepir.card import ModelCard
from deepir.distill.backbone import Trunk
from deepir.distill.checkpoint import Model, new_model
from deepir.export.graph import build_onnx
from deepir.head import Head
from deepir.image import list_images
from deepir.inputs import input_windows

pytestmark = pytest.mark.rtx


Profile = dict[str, list[tuple[int, ...]]]
"""The smallest, usual and largest shape of each input."""


FORMS = {
    "two resolutions": ({"sizes": ((64, 64), (96, 64))}, {}),
    "two resolutions, uint8": ({"sizes": ((64, 64), (96, 64))}, {"pixels": "uint8"}),
    "nearest": ({"sizes": ((64, 64), (96, 64), (64, 96)), "resize": "nearest"}, {}),
    "nearest, uint8": ({"sizes": ((64, 64), (96, 64)), "resize": "nearest"}, {"pixels": "uint8"}),
    "two longest sides": ({"sizes": ((64, 64), (96, 96)), "resize": "longest"}, {}),
}


Build = Callable[..., tuple[bytes, str]]


@pytest.fixture
def build(rtx_build: Build) -> Build:
    """As `rtx_build`, for one to four pictures of one size."""
    return lambda content, size: rtx_build(content, {"images": [(batch, 3, *size) for batch in (1, 1, 4)]})


def convolutions(layers: str) -> list[str]:
    return [line for line in layers.splitlines() if "LayerType: correlation" in line]


def input_type(line: str) -> str:
    return line.split("Datatype: ", 1)[1].split(",", 1)[0]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Model]) -> Model:
    return make_model(dim=6)


@pytest.fixture(scope="module")
def masters(model: Model) -> dict[str, Any]:
    """The FP32 file of each form."""
    return {
        form: build_onnx(Model(model.network, dataclasses.replace(model.spec, **spec)), **options)
        for form, (spec, options) in FORMS.items()
    }


def test_the_fp32_file_builds(model: Model, build: Build) -> None:
    plan, layers = build(build_onnx(model).SerializeToString(), model.spec.size)
    assert plan
    assert {input_type(line) for line in convolutions(layers)} == {"Float"}


def test_the_fp16_file_builds_with_half_convolutions(model: Model, build: Build) -> None:
    _, layers = build(to_fp16(build_onnx(model)).SerializeToString(), model.spec.size)
    assert {input_type(line) for line in convolutions(layers)} == {"Half"}


def test_every_convolution_of_the_int8_file_is_int8_in_the_plan(
    model: Model, pictures: Path, tmp_path: Path, build: Build
) -> None:
    write_onnx(build_onnx(model), tmp_path / "model.onnx")
    proto, card = read_fp32(tmp_path / "model.onnx")
    chosen = choose_images([pictures], Describer(proto, card), spec=card.spec)
    int8 = calibrate(proto, card, chosen, CalibrationConfig()).proto
    _, layers = build(int8.SerializeToString(), model.spec.size)
    assert len(convolutions(layers)) == 3
    assert {input_type(line) for line in convolutions(layers)} == {"Int8"}


@pytest.mark.parametrize(
    "head",
    [
        Head(pooling="gem", levels=0, normalise_regions=False),
        Head(pooling="mean", levels=2),
        Head(grid="map+whole", levels=3),
        Head(fusion="pca-concat-pca", middle=(2,)),
        Head(fusion="fpn", middle=(2,), pooling="gem", levels=0, normalise_regions=False),
    ],
    ids=["gem", "r-spoc", "map grid", "pca-concat-pca", "fpn"],
)
@pytest.mark.parametrize("numerics", ["fp32", "fp16"])
def test_other_heads_build(staged_trunk: Callable[[int], Trunk], head: Head, numerics: str, build: Build) -> None:
    proto = build_onnx(new_model(staged_trunk(len(head.middle)), sizes=((64, 96),), head=head))
    plan, layers = build((to_fp16(proto) if numerics == "fp16" else proto).SerializeToString(), (64, 96))
    assert plan
    assert {input_type(line) for line in convolutions(layers)} == {"Half" if numerics == "fp16" else "Float"}


def profiles_of(card: ModelCard) -> list[Profile]:
    """One for each size that pictures may come at, each for one to four pictures."""
    resolutions = len(card.spec.resolutions)
    alternatives = [list(card.spec.sizes)]
    if card.free_size:
        alternatives = [[size] * resolutions for size in ((64, 64), (96, 64), (64, 88))]
    found = []
    for sizes in alternatives:
        shapes = [(*size, 3) if card.pixels == "uint8" else (3, *size) for size in sizes]
        images = [[(batch, *shape) for batch in (1, 2, 4)] for shape in shapes]
        windows = [[array.shape] * 3 for array in input_windows(card, sizes)] if card.free_size else []
        found.append(dict(zip(card.inputs(), [*images, *windows], strict=True)))
    return found


@pytest.mark.parametrize("inlined", [False, True], ids=["function", "inlined"])
@pytest.mark.parametrize("numerics", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_builds_with_all_its_profiles(
    masters: dict[str, Any], pictures: Path, form: str, numerics: str, inlined: bool, rtx_build: Build
) -> None:
    proto, card = masters[form], read_card(masters[form])
    if numerics == "fp16":
        proto = to_fp16(proto)
    if numerics == "int8":
        proto = plain_int8(proto, lambda: prepared(list_images(pictures)[:4], card))
    content = (inline_local_functions(proto) if inlined else proto).SerializeToString()
    plan, layers = rtx_build(content, *profiles_of(card))
    assert plan
    assert {input_type(line) for line in convolutions(layers)} == {
        {"fp32": "Float", "fp16": "Half", "int8": "Int8"}[numerics]
    }


@pytest.mark.parametrize(
    "head",
    [
        Head(pooling="gem"),
        Head(fusion="concat", middle=(2, 1)),
        Head(fusion="fpn", middle=(2,), pooling="gem", levels=0, normalise_regions=False),
    ],
    ids=["r-gem", "concat", "fpn"],
)
def test_other_heads_build_with_a_free_size(staged_trunk: Callable[[int], Trunk], head: Head, rtx_build: Build) -> None:
    model = new_model(staged_trunk(len(head.middle)), sizes=((64, 64),), head=head, resize="longest")
    proto = build_onnx(model)
    plan, _ = rtx_build(to_fp16(proto).SerializeToString(), *profiles_of(read_card(proto)))
    assert plan


def test_the_pooling_of_a_free_size_takes_no_more_kernels_than_that_of_a_fixed_one(
    model: Model, masters: dict[str, Any], build: Build, rtx_build: Build
) -> None:
    proto = masters["nearest"]
    _, free = rtx_build(proto.SerializeToString(), *profiles_of(read_card(proto))[:1])
    _, fixed = build(build_onnx(model).SerializeToString(), model.spec.size)
    assert free.count("LayerType:") <= fixed.count("LayerType:")


def test_the_pooling_without_its_body_is_refused_by_the_parser(model: Model, rtx_build: Build) -> None:
    proto = build_onnx(model)
    del proto.functions[:]
    with pytest.raises(AssertionError, match="RoIMaxPool"):
        rtx_build(proto.SerializeToString())
