"""Full TensorRT as far as it goes without a GPU: what FakeTensorRT is told, in its 10.3, 10.16 and 11.4 forms."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from deepir.calib.onnx_file import read_onnx, write_onnx
from deepir.errors import EngineError, GateError, MissingDependency, OptionError
from deepir.export import engine_blueprint
from deepir.export.engine import BuildConfig, build_engine, plan_build
from deepir.export.engine_machine import Gpu
from deepir.export.engine_timing import TimingCache
from deepir.runtime.roi_plugin import plugin_problem
from deepir.runtime.sidecar import GpuInfo, read_record
from deepir.runtime.tensorrt_library import Flavour

CONFIG = BuildConfig(flavour=Flavour.TENSORRT, pool="native")
VERSIONS = ["10.3.0", "10.16.1", "11.4.0"]
STRONGLY_TYPED = 2


def built(onnx: Path, folder: Path, config: BuildConfig = CONFIG) -> list[str]:
    said: list[str] = []
    build_engine(onnx, folder, config, said.append)
    return said


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("numerics", ["fp32", "fp16"])
def test_fp32_and_fp16_are_strongly_typed_on_every_tensorrt(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, version: str, numerics: str
) -> None:
    fake_tensorrt.use(version)
    built(onnx_files[numerics], tmp_path)
    told = fake_tensorrt.trace()
    assert (told["network"], told["flags"], told["pinned"]) == (STRONGLY_TYPED, [], {})
    assert told["verbosity"] == "DETAILED"


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1"])
def test_int8_is_weakly_typed_on_tensorrt_10_with_the_head_kept_in_fp32(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, version: str
) -> None:
    fake_tensorrt.use(version)
    built(onnx_files["int8"], tmp_path)
    told = fake_tensorrt.trace()
    assert told["network"] == 0
    assert told["flags"] == ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"]
    nodes = {node.name: node for node in read_onnx(onnx_files["int8"]).graph.node}
    pool = next(name for name, node in nodes.items() if node.op_type == "RoIMaxPool")
    after_the_pool = list(nodes)[list(nodes).index(pool) + 1 :]
    assert sorted(told["pinned"]) == sorted(after_the_pool)
    assert {tuple(kinds) for kinds in told["pinned"].values()} == {("FLOAT", "0: FLOAT")}


def test_int8_is_strongly_typed_on_tensorrt_11(fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path) -> None:
    fake_tensorrt.use("11.4.0")
    built(onnx_files["int8"], tmp_path)
    told = fake_tensorrt.trace()
    assert (told["network"], told["flags"], told["pinned"]) == (STRONGLY_TYPED, [], {})


@pytest.mark.parametrize("version", VERSIONS)
def test_the_sidecar_names_this_tensorrt_gpu_and_cuda(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, version: str
) -> None:
    fake_tensorrt.use(version)
    built(onnx_files["int8"], tmp_path)
    (engine,) = tmp_path.glob("*.engine")
    record = read_record(engine)
    assert engine.name == f"tiny.int8.trt{'.'.join(version.split('.')[:2])}-sm87.engine"
    assert (record.tensorrt_version, record.cuda_version) == (version, "12.6")
    assert record.gpu == GpuInfo("Fake Orin", "8.7", 7620)
    assert (record.precision.int8, record.precision.convolutions) == (2, 2)


def test_the_batch_makes_one_profile_and_the_workspace_is_what_was_asked_for(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use()
    built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, batch=(1, 4, 8), workspace_mib=300))
    told = fake_tensorrt.trace()
    assert told["profiles"] == [{"images": [[1, 3, 64, 64], [4, 3, 64, 64], [8, 3, 64, 64]]}]
    assert told["WORKSPACE"] == 300 << 20


def test_int8_that_came_out_fp16_is_refused(fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path) -> None:
    fake_tensorrt.use(does="half")
    with pytest.raises(GateError, match="only 0 of 2"):
        built(onnx_files["int8"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("machine", "portable", "expected"),
    [
        (("10.3.0", "8.7"), "version", (["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"], "NONE")),
        (("10.3.0", "8.7"), "arch", ([], "AMPERE_PLUS")),
        (("11.4.0", "8.7"), "both", (["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"], "AMPERE_PLUS")),
        (("11.4.0", "7.5"), "arch", ([], "SAME_COMPUTE_CAPABILITY")),
    ],
)
def test_portable_engines_are_built_with_tensorrts_own_flags(
    fake_tensorrt: Any,
    onnx_files: dict[str, Path],
    tmp_path: Path,
    machine: tuple[str, str],
    portable: Any,
    expected: tuple[list[str], str],
) -> None:
    version, capability = machine
    fake_tensorrt.use(version)
    gpu = Gpu(GpuInfo("Fake", capability, 8000), "12.6")
    fake_tensorrt.monkeypatch.setattr(engine_blueprint, "this_gpu", lambda: gpu)
    said = built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, portable=portable))
    told = fake_tensorrt.trace()
    assert (told["flags"], told["compatibility"]) == expected
    assert any("costs speed" in line for line in said)


def test_an_older_gpu_is_refused_other_gpus_where_tensorrt_has_no_way(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use("10.3.0")
    gpu = Gpu(GpuInfo("Fake", "7.5", 8000), "12.6")
    fake_tensorrt.monkeypatch.setattr(engine_blueprint, "this_gpu", lambda: gpu)
    with pytest.raises(EngineError, match=r"compute capability 8\.0 on: leave --portable out"):
        built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, portable="arch"))


def test_what_tensorrt_measured_is_kept_for_the_next_build(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use()
    built(onnx_files["fp16"], tmp_path)
    assert fake_tensorrt.trace()["timing"] == [0]
    folder = fake_tensorrt.folder / "cache" / "deepir" / "timing"
    assert [path.name for path in folder.iterdir()] == ["fake_orin-sm8.7-trt10.3.0-cuda12.6.timing"]
    built(onnx_files["fp16"], tmp_path)
    assert fake_tensorrt.trace()["timing"] == [len(b"fake timing cache of 10.3.0")]
    built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, timing_cache=False))
    assert fake_tensorrt.trace()["timing"] == []


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 200])
def test_a_damaged_timing_cache_is_passed_over_with_a_note_and_replaced(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    fake_tensorrt.use()
    built(onnx_files["fp16"], tmp_path)
    kept = next((fake_tensorrt.folder / "cache" / "deepir" / "timing").iterdir())
    good = kept.read_bytes()
    kept.write_bytes(content)
    assert any("timing cache" in line for line in built(onnx_files["fp16"], tmp_path))
    assert fake_tensorrt.trace()["timing"] == [0]
    assert kept.read_bytes() == good


def test_a_timing_cache_of_another_device_is_passed_over(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use("10.3.0")
    built(onnx_files["fp16"], tmp_path)
    kept = next((fake_tensorrt.folder / "cache" / "deepir" / "timing").iterdir())
    kept.rename(kept.with_name(kept.name.replace("10.3.0", "10.16.1")))
    fake_tensorrt.use("10.16.1")
    assert any("another device's" in line for line in built(onnx_files["fp16"], tmp_path))
    assert fake_tensorrt.trace()["timing"] == [0]


@pytest.mark.parametrize("content", [b"not a cache", b"fake timing cache of 8.6"])
def test_a_timing_cache_that_tensorrt_itself_refuses_is_made_again_with_a_note(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    fake_tensorrt.use()
    built(onnx_files["fp16"], tmp_path)
    kept = next((fake_tensorrt.folder / "cache" / "deepir" / "timing").iterdir())
    good = kept.read_bytes()
    TimingCache(kept).write(content)
    assert any("made again" in line for line in built(onnx_files["fp16"], tmp_path))
    assert fake_tensorrt.trace()["timing"] == [len(content), 0]
    assert kept.read_bytes() == good


def test_the_plugin_route_leaves_the_bare_node(fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path) -> None:
    problem = plugin_problem(fake_tensorrt.use("10.16.1"))
    if problem:
        pytest.skip(problem)
    built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, pool="auto"))
    told = fake_tensorrt.trace()
    assert "RoIMaxPool" in told["operators"]
    assert told["functions"] == 0
    assert read_record(next(tmp_path.glob("*.engine"))).plugin == "python"


def test_without_the_plugin_auto_falls_back_with_a_note_and_plugin_is_an_error(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use("10.16.1")
    fake_tensorrt.monkeypatch.setattr(engine_blueprint, "plugin_problem", lambda _trt: "no compiler here")
    said = built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, pool="auto"))
    assert any("no compiler here" in line for line in said)
    assert "RoIMaxPool" not in fake_tensorrt.trace()["operators"]
    with pytest.raises(EngineError, match="no compiler here"):
        built(onnx_files["fp16"], tmp_path, dataclasses.replace(CONFIG, pool="plugin"))


def test_a_dry_run_tells_the_typing_and_the_gpu_and_writes_nothing(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use("10.3.0")
    text = plan_build(onnx_files["int8"], tmp_path, CONFIG)
    for words in ("TensorRT 10.3.0", "Fake Orin (8.7)", "CUDA 12.6", "weakly typed with an FP32 head", ".timing"):
        assert words in text
    assert list(tmp_path.iterdir()) == []
    assert not (fake_tensorrt.folder / "trace.json").exists()


def test_without_a_gpu_full_tensorrt_is_refused(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    def none() -> None:
        message = "no NVIDIA GPU"
        raise MissingDependency(message)

    fake_tensorrt.use()
    fake_tensorrt.monkeypatch.setattr(engine_blueprint, "this_gpu", none)
    with pytest.raises(MissingDependency, match="no NVIDIA GPU"):
        built(onnx_files["fp16"], tmp_path)


def test_a_file_of_a_fixed_batch_takes_no_other(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use()
    proto = read_onnx(onnx_files["fp32"])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    write_onnx(proto, tmp_path / "two.onnx")
    with pytest.raises(OptionError, match="exactly 2 pictures"):
        built(tmp_path / "two.onnx", tmp_path)
    built(tmp_path / "two.onnx", tmp_path, dataclasses.replace(CONFIG, batch=(2, 2, 2)))


def test_the_calibration_record_beside_an_int8_file_is_in_the_sidecar(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use()
    (tmp_path / "tiny.int8.onnx").write_bytes(onnx_files["int8"].read_bytes())
    (tmp_path / "tiny.int8.calib.json").write_text(json.dumps({}))
    built(tmp_path / "tiny.int8.onnx", tmp_path)
    record = read_record(next(tmp_path.glob("*.engine")))
    assert record.calibration_sha256 is not None
    assert record.calibration_sha256.startswith("44136fa355b3678a")
