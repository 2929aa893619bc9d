"""The TensorRT backend over the real TensorRT-RTX, which builds engines without a GPU but cannot load them."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepir.calib.onnx_file import write_onnx
from deepir.card import ModelCard
from deepir.distill.checkpoint import Model
from deepir.errors import EngineError, MissingDependency
from deepir.export.engine import BuildConfig, build_engine
from deepir.export.graph import build_onnx
from deepir.runtime import trt as trt_module
from deepir.runtime.sidecar import EngineRecord, PrecisionCount, read_record, write_record
from deepir.runtime.tensorrt_library import Flavour, make_logger, tensorrt_version
from deepir.runtime.trt import TensorRTBackend
from deepir.runtime.trt_rebuild import rebuild_engine
from deepir.spec import ModelSpec

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
pytestmark = pytest.mark.rtx

CARD = ModelCard(
    ModelSpec(backbone="test:conv", sizes=((32, 32),), mean=(0, 0, 0), std=(1, 1, 1), stride=1, channels=4, dim=4)
)


@pytest.fixture(scope="module")
def plan() -> bytes:
    """A convolution and a mean over the map, for compute capability 8.6, built by TensorRT-RTX itself."""
    log = make_logger(rtx)
    builder = rtx.Builder(log)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    images = network.add_input("images", rtx.float32, (-1, 3, 32, 32))
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    maps = network.add_convolution_nd(images, 4, (3, 3), rtx.Weights(kernel), rtx.Weights())
    mean = network.add_reduce(maps.get_output(0), rtx.ReduceOperation.AVG, (1 << 2) | (1 << 3), False)
    mean.get_output(0).name = "descriptors"
    network.mark_output(mean.get_output(0))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 3, 32, 32), (1, 3, 32, 32), (4, 3, 32, 32))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    assert built is not None, log.errors()
    return bytes(built)


@pytest.fixture
def engine(tmp_path: Path, plan: bytes) -> Path:
    path = tmp_path / "tiny.engine"
    path.write_bytes(plan)
    record = EngineRecord(
        card=CARD,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        onnx_file="tiny.onnx",
        onnx_sha256="cd" * 32,
        calibration_sha256=None,
        flavour="rtx",
        tensorrt_version=tensorrt_version(rtx),
        cuda_version=None,
        portable="none",
        gpu=None,
        compute_capabilities=("8.6",),
        precision=PrecisionCount(1, 0, 0, 1),
        plugin="native",
        batch=(1, 1, 4),
        shapes=((32, 32),),
        gate=None,
        not_run="a test",
        build_seconds=1.0,
        peak_mib=None,
        built_at="2026-11-21T09:30:00+00:00",
        command=(),
        host={},
    )
    write_record(path, record)
    return path


def fake_cuda() -> Any:
    """FakeCuda: a GPU that fits the engine and that is asked for nothing but its name."""
    return SimpleNamespace(
        device_name=lambda: "FakeGPU",
        compute_capability=lambda: "8.6",
        memory_mib=lambda: 8192,
        current=contextlib.nullcontext,
    )


def has_gpu() -> bool:
    try:
        trt_module.open_cuda()
    except MissingDependency:
        return False
    return True


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


@without_gpu
def test_an_engine_that_the_real_library_does_not_read_is_one_sentence_with_its_words(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trt_module, "open_cuda", fake_cuda)
    with pytest.raises(EngineError) as caught:
        TensorRTBackend(engine)
    said = str(caught.value)
    assert said.startswith(f"TensorRT-RTX {rtx.__version__} cannot load {engine} (")
    assert "CUDA" in said or "Cuda" in said or "cuda" in said
    assert "build it again with: deepir-export" in said
    assert "\n" not in said
    assert capfd.readouterr() == ("", "")


@without_gpu
def test_a_damaged_plan_that_is_trusted_is_one_sentence_too(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.write_bytes(b"not a plan")
    monkeypatch.setattr(trt_module, "open_cuda", fake_cuda)
    with pytest.raises(EngineError, match="cannot load"):
        TensorRTBackend(engine, trust=True)


@without_gpu
def test_without_a_gpu_the_first_thing_said_is_that(engine: Path) -> None:
    with pytest.raises(MissingDependency, match="needs an NVIDIA GPU"):
        TensorRTBackend(engine)


def test_the_plan_of_another_version_is_not_given_to_the_library(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = trt_module.read_record(engine)
    write_record(engine, dataclasses.replace(record, tensorrt_version="1.6.0"))
    monkeypatch.setattr(trt_module, "open_cuda", fake_cuda)
    with pytest.raises(EngineError, match=rf"built with TensorRT-RTX 1\.6\.0, this machine has {rtx.__version__}"):
        TensorRTBackend(engine, rebuild="never")


@pytest.mark.slow
def test_a_stale_engine_is_really_built_again_by_deepir_export(
    tmp_path: Path, make_model: Callable[..., Model]
) -> None:
    onnx, engine = tmp_path / "tiny.onnx", tmp_path / "tiny.engine"
    write_onnx(build_onnx(make_model(dim=6)), onnx)
    build_engine(onnx, engine, BuildConfig(flavour=Flavour.RTX, batch=(1, 2, 4)), lambda line: None)
    first = read_record(engine)
    stale = dataclasses.replace(first, tensorrt_version="1.6.0", command=("rm", "-rf", "everything"))
    write_record(engine, stale)
    lines: list[str] = []
    fresh = rebuild_engine(engine, stale, lines.append)
    assert fresh == read_record(engine)
    assert fresh.engine_sha256 == hashlib.sha256(engine.read_bytes()).hexdigest()
    kept = ("card", "onnx_sha256", "flavour", "batch", "plugin", "precision", "tensorrt_version", "shapes")
    assert [getattr(fresh, name) for name in kept] == [getattr(first, name) for name in kept]
    names = {"tiny.onnx", "tiny.engine", "tiny.engine.json", "tiny.engine.bak", "tiny.engine.json.bak"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert lines[-1].endswith("the old one is tiny.engine.bak")
