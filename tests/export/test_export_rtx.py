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

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
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


class Log(trt.ILogger):
    """Keeps what TensorRT says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[object, str]] = []

    def log(self, severity: object, message: str) -> None:
        self.lines.append((severity, message))


def build(content: bytes, size: tuple[int, int]) -> tuple[bytes, str]:
    """As `build_profiles`, for one to four pictures of one size."""
    return build_profiles(content, [{"images": [(batch, 3, *size) for batch in (1, 1, 4)]}])


def build_profiles(content: bytes, profiles: list[Profile]) -> tuple[bytes, str]:
    """A plan for compute capability 8.6, and TensorRT's list of the kernels in it."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(content), [str(parser.get_error(number)) for number in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, [line for severity, line in log.lines if severity == trt.ILogger.ERROR]
    return bytes(plan), next(line for _, line in log.lines if line.startswith("Layers:"))


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


def test_the_fp32_file_builds(model: Model) -> None:
    plan, layers = build(build_onnx(model).SerializeToString(), model.spec.size)
    assert plan
    assert {input_type(line) for line in convolutions(layers)} == {"Float"}


def test_the_fp16_file_builds_with_half_convolutions(model: Model) -> None:
    _, layers = build(to_fp16(build_onnx(model)).SerializeToString(), model.spec.size)
    assert {input_type(line) for line in convolutions(layers)} == {"Half"}


def test_every_convolution_of_the_int8_file_is_int8_in_the_plan(model: Model, pictures: Path, tmp_path: Path) -> None:
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
def test_other_heads_build(staged_trunk: Callable[[int], Trunk], head: Head, numerics: str) -> None:
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
    masters: dict[str, Any], pictures: Path, form: str, numerics: str, inlined: bool
) -> None:
    proto, card = masters[form], read_card(masters[form])
    if numerics == "fp16":
        proto = to_fp16(proto)
    if numerics == "int8":
        proto = plain_int8(proto, lambda: prepared(list_images(pictures)[:4], card))
    content = (inline_local_functions(proto) if inlined else proto).SerializeToString()
    plan, layers = build_profiles(content, profiles_of(card))
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
def test_other_heads_build_with_a_free_size(staged_trunk: Callable[[int], Trunk], head: Head) -> None:
    model = new_model(staged_trunk(len(head.middle)), sizes=((64, 64),), head=head, resize="longest")
    proto = build_onnx(model)
    plan, _ = build_profiles(to_fp16(proto).SerializeToString(), profiles_of(read_card(proto)))
    assert plan


def test_the_pooling_of_a_free_size_takes_no_more_kernels_than_that_of_a_fixed_one(
    model: Model, masters: dict[str, Any]
) -> None:
    proto = masters["nearest"]
    _, free = build_profiles(proto.SerializeToString(), profiles_of(read_card(proto))[:1])
    _, fixed = build(build_onnx(model).SerializeToString(), model.spec.size)
    assert free.count("LayerType:") <= fixed.count("LayerType:")


def test_the_pooling_without_its_body_is_refused_by_the_parser(model: Model) -> None:
    proto = build_onnx(model)
    del proto.functions[:]
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert not trt.OnnxParser(network, log).parse(proto.SerializeToString())
