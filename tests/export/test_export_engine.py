"""Real TensorRT-RTX builds through the child process, on a machine without a GPU."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deepir.calib.half import keep_half
from deepir.calib.onnx_file import read_card, read_onnx, write_card, write_onnx
from deepir.calib.quantise import place, quantise
from deepir.distill.checkpoint import Model
from deepir.errors import (
    EngineError,
    GateError,
    InputError,
    MemoryLimitError,
    MissingDependency,
    ModelError,
    OptionError,
)
from deepir.export import engine, engine_blueprint
from deepir.export.engine import BuildConfig, build_engine, plan_build
from deepir.export.engine_config import int8_capabilities
from deepir.export.engine_machine import HostMemory
from deepir.export.engine_request import BuildResult
from deepir.export.graph import build_onnx
from deepir.runtime.sidecar import PrecisionCount, read_record, sidecar_path
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt, tensorrt_version
from deepir.spec import Numerics

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
pytestmark = pytest.mark.rtx

RTX = BuildConfig(flavour=Flavour.RTX)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without one, so that the tests say the same everywhere."""

    def none() -> None:
        message = "no GPU"
        raise MissingDependency(message)

    monkeypatch.setattr(engine_blueprint, "this_gpu", none)


def built(onnx: Path, folder: Path, config: BuildConfig = RTX) -> list[str]:
    """Build into a folder; what was reported."""
    said: list[str] = []
    build_engine(onnx, folder, config, said.append, command=("deepir-export", str(onnx)))
    return said


@pytest.mark.parametrize(
    ("numerics", "count"),
    [
        ("fp32", PrecisionCount(3, 0, 0, 3)),
        ("fp16", PrecisionCount(3, 0, 3, 0)),
        ("int8", PrecisionCount(3, 3, 0, 0)),
    ],
)
def test_the_convolutions_come_out_in_the_precision_of_the_file(
    onnx_files: dict[str, Path], tmp_path: Path, numerics: str, count: PrecisionCount
) -> None:
    said = built(onnx_files[numerics], tmp_path)
    (engine,) = tmp_path.glob("*.engine")
    record = read_record(engine)
    assert record.precision == count
    assert record.card.numerics.value == numerics
    assert f"3 convolutions: {count.int8} INT8, {count.fp16} FP16, {count.fp32} FP32" in said


def test_the_sidecar_tells_what_was_built_of_what(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    config = dataclasses.replace(RTX, batch=(1, 2, 4))
    built(onnx_files["fp32"], tmp_path, config)
    release = ".".join(trt.__version__.split(".")[:2])
    plan = tmp_path / f"tiny.rtx{release}.engine"
    record = read_record(plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == [plan.name, sidecar_path(plan).name]
    assert record.engine_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert record.engine_bytes == plan.stat().st_size > 10_000
    assert record.onnx_file == "tiny.onnx"
    assert record.onnx_sha256 == hashlib.sha256(onnx_files["fp32"].read_bytes()).hexdigest()
    assert (record.flavour, record.tensorrt_version) == ("rtx", tensorrt_version(load_tensorrt(Flavour.RTX)))
    assert (record.gpu, record.compute_capabilities) == (None, ("8.6", "8.9", "12.0"))
    assert (record.batch, record.shapes) == ((1, 2, 4), ((64, 64),))
    assert (record.gate, record.plugin, record.portable) == (None, "native", "none")
    assert record.not_run
    assert record.peak_mib is not None
    assert record.peak_mib > 50
    assert record.command == ("deepir-export", str(onnx_files["fp32"]))


def test_an_engine_that_is_there_is_replaced_whole(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    plan = tmp_path / "robot.engine"
    plan.write_bytes(b"an old one")
    os.link(plan, tmp_path / "old")
    build_engine(onnx_files["fp16"], plan, RTX, lambda _line: None)
    assert (tmp_path / "old").read_bytes() == b"an old one"
    assert read_record(plan).engine_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    text = plan_build(onnx_files["int8"], tmp_path, dataclasses.replace(RTX, batch=(1, 4, 8)))
    assert list(tmp_path.iterdir()) == []
    for words in ("strongly typed", "8.6, 8.9, 12.0", "native", "images 1x3x64x64 4x3x64x64 8x3x64x64", "MiB", "int8"):
        assert words in text


def test_other_compute_capabilities_are_built_for(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    built(onnx_files["int8"], tmp_path, dataclasses.replace(RTX, compute_capabilities=("12.0", "8.9")))
    record = read_record(next(tmp_path.glob("*.engine")))
    assert (record.compute_capabilities, record.precision.int8) == (("8.9", "12.0"), 3)


def test_every_newer_capability_is_counted_and_an_older_one_is_not(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    config = dataclasses.replace(RTX, compute_capabilities=("8.0", "8.6"))
    built(onnx_files["int8"], tmp_path, config)
    assert read_record(next(tmp_path.glob("*.engine"))).precision.int8 == 3
    assert int8_capabilities(("7.5", "8.0", "8.6", "8.9", "12.0")) == ["8.6", "8.9", "12.0"]


@pytest.mark.parametrize(
    ("resize", "sizes", "profiles", "convolutions"),
    [
        ("stretch", ((64, 64), (96, 96)), ["images_0", "images_1"], 6),
        ("nearest", ((64, 96), (96, 64)), ["images", "rois"], 6),
        ("longest", ((128, 128),), ["images", "rois"], 3),
    ],
)
def test_several_resolutions_alternatives_and_free_sizes_build(
    make_model: Callable[..., Model],
    tmp_path: Path,
    resize: str,
    sizes: tuple[tuple[int, int], ...],
    profiles: list[str],
    convolutions: int,
) -> None:
    model = make_model(sizes=sizes)
    proto = build_onnx(Model(model.network, dataclasses.replace(model.spec, resize=resize)))
    write_onnx(proto, tmp_path / "model.onnx")
    text = plan_build(tmp_path / "model.onnx", tmp_path, RTX)
    assert all(f"{name} " in text for name in profiles)
    built(tmp_path / "model.onnx", tmp_path)
    # of two profiles TensorRT-RTX compiles and lists each
    assert read_record(next(tmp_path.glob("*.engine"))).precision.fp32 == convolutions


def test_a_capability_that_this_tensorrt_does_not_know_is_named_with_those_it_knows(
    onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"SM86.*not for 3\.5"):
        built(onnx_files["fp16"], tmp_path, dataclasses.replace(RTX, compute_capabilities=("3.5",)))
    assert list(tmp_path.iterdir()) == []


def test_int8_is_refused_when_too_few_convolutions_come_out_int8(
    onnx_files: dict[str, Path], tmp_path: Path, make_model: Callable[..., Model]
) -> None:
    # a file that says INT8 and computes in FP32: what TensorRT makes of it is what counts
    proto = build_onnx(make_model(dim=6))
    card = {entry.key: entry.value for entry in read_onnx(onnx_files["int8"]).metadata_props}
    proto.metadata_props[0].value = card[proto.metadata_props[0].key]
    write_onnx(proto, tmp_path / "lie.onnx")
    config = dataclasses.replace(RTX, compute_capabilities=("8.6",))
    with pytest.raises(GateError, match=r"only 0 of 3 convolutions \(0%\) came out INT8 and 90% must") as caught:
        built(tmp_path / "lie.onnx", tmp_path, config)
    assert caught.value.exit_code == 6
    assert [path.name for path in tmp_path.iterdir()] == ["lie.onnx"]
    assert any(
        "3 FP32" in line
        for line in built(tmp_path / "lie.onnx", tmp_path, dataclasses.replace(config, least_int8_share=0))
    )


@pytest.fixture(scope="module")
def mixed_file(make_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file of which one convolution of three stays FP16."""
    master = build_onnx(make_model(dim=6))
    kept = ("middle.0",)
    mixed = quantise(master, place(master, keep=kept), dict.fromkeys(place(master).tensors, 4.0))
    keep_half(mixed, kept)
    write_card(mixed, dataclasses.replace(read_card(master), numerics=Numerics.INT8))
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    write_onnx(mixed, path)
    return path


def test_what_calibration_keeps_in_fp16_need_not_come_out_int8(mixed_file: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(RTX, compute_capabilities=("8.6",), least_int8_share=1.0)
    assert "3 convolutions: 2 INT8, 1 FP16, 0 FP32" in built(mixed_file, tmp_path, config)


def test_what_calibration_left_int8_must_come_out_int8(
    monkeypatch: pytest.MonkeyPatch, mixed_file: Path, tmp_path: Path
) -> None:
    result = BuildResult(precision=PrecisionCount(3, 1, 2, 0), dropped=[], peak_mib=1.0, notes=[])
    monkeypatch.setattr(engine, "run_build", lambda *_: result)
    words = r"only 1 of 3 convolutions \(33%\) came out INT8 and 60% must \(of the 67% that calibration left INT8\)"
    with pytest.raises(GateError, match=words):
        built(mixed_file, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_kernels_for_a_convolution_is_refused(
    monkeypatch: pytest.MonkeyPatch, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    result = BuildResult(precision=PrecisionCount(2, 2, 0, 0), dropped=["stem.0"], peak_mib=1.0, notes=[])
    monkeypatch.setattr(engine, "run_build", lambda *_: result)
    with pytest.raises(EngineError, match=r"no kernel for stem\.0"):
        built(onnx_files["int8"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_below_compute_capability_8_6_the_share_is_not_asked_for(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    config = dataclasses.replace(RTX, compute_capabilities=("8.0",), least_int8_share=1.0)
    assert any("from compute capability 8.6 on" in line for line in built(onnx_files["int8"], tmp_path, config))


@pytest.mark.parametrize("content", [b"", b"no ONNX at all"])
def test_a_damaged_file_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        built(tmp_path / "bad.onnx", tmp_path)


def test_a_file_that_the_parser_refuses_is_an_engine_error_with_its_words(
    onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    proto = read_onnx(onnx_files["fp32"])
    del proto.functions[:]
    write_onnx(proto, tmp_path / "bare.onnx")
    with pytest.raises(EngineError, match=r"TensorRT-RTX .* does not take this file: .*RoIMaxPool") as caught:
        built(tmp_path / "bare.onnx", tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bare.onnx"]


def test_missing_files_and_folders_are_named(onnx_files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx"):
        built(tmp_path / "none.onnx", tmp_path)
    with pytest.raises(InputError, match="create it"):
        built(onnx_files["fp32"], tmp_path / "none" / "a.engine")


def test_a_build_that_cannot_fit_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_blueprint, "host_memory", lambda: HostMemory(available=100, total=3900, swap=50))
    with pytest.raises(MemoryLimitError, match=r"100 MiB of 3900 MiB .*50 MiB of swap.*--workspace") as caught:
        built(onnx_files["fp32"], tmp_path)
    assert caught.value.exit_code == 9


def test_a_build_that_may_not_fit_is_tried_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_blueprint, "host_memory", lambda: HostMemory(available=500, total=3900, swap=50))
    assert any("memory is short" in line for line in built(onnx_files["fp32"], tmp_path))
    assert list(tmp_path.glob("*.engine"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pool": "plugin"}, "takes no plugins"),
        ({"portable": "version"}, "compute capabilities"),
        ({"portable": "arch"}, "compute capabilities"),
        ({"portable": "everything"}, "--portable"),
        ({"batch": (2, 1, 4)}, "--batch"),
        ({"batch": (0, 1, 4)}, "--batch"),
        ({"workspace_mib": 0}, "--workspace"),
        ({"least_int8_share": 1.5}, "0..1"),
        ({"compute_capabilities": ("sm86",)}, "8.6"),
        ({"flavour": Flavour.TENSORRT, "compute_capabilities": ("8.6",)}, "GPU of this machine"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_one_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        dataclasses.replace(RTX, **changes)
