"""TensorRT-RTX, NVIDIA's own parser and builder, takes every form of the file on a machine without a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deepir.calib.calibrate import CalibrationConfig, calibrate, read_fp32
from deepir.calib.images import choose_images
from deepir.calib.onnx_file import write_onnx
from deepir.distill.backbone import Trunk
from deepir.distill.checkpoint import Model, new_model
from deepir.export.graph import build_onnx
from deepir.export.precision import to_fp16
from deepir.head import Head

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
pytestmark = pytest.mark.rtx


class Log(trt.ILogger):
    """Keeps what TensorRT says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[object, str]] = []

    def log(self, severity: object, message: str) -> None:
        self.lines.append((severity, message))


def build(content: bytes, size: tuple[int, int]) -> tuple[bytes, str]:
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
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 3, *size), (1, 3, *size), (4, 3, *size))
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
    int8 = calibrate(proto, card, choose_images([pictures]), CalibrationConfig()).proto
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


def test_the_pooling_without_its_body_is_refused_by_the_parser(model: Model) -> None:
    proto = build_onnx(model)
    del proto.functions[:]
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert not trt.OnnxParser(network, log).parse(proto.SerializeToString())
