"""The parts of the engine builder: memory, machine, names, progress, precision read back."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import MemoryLimitError
from deepir.export import engine_machine, engine_progress
from deepir.export.engine_machine import HostMemory, describe_host, host_memory, this_gpu
from deepir.export.engine_memory import LIBRARIES_MIB, estimate_mib, killed_message, plan_memory
from deepir.export.engine_monitor import Phases, make_monitor
from deepir.export.engine_names import engine_name
from deepir.export.engine_precision import count_in_layers, count_in_log, dropped, worst
from deepir.export.engine_progress import Heartbeat
from deepir.export.engine_timing import TimingCache, timing_cache
from deepir.runtime.sidecar import GpuInfo, PrecisionCount
from deepir.runtime.tensorrt_library import Flavour

ORIN = GpuInfo("Orin", "8.7", 7620)


@pytest.mark.parametrize(
    ("onnx", "version", "gpu", "flavour", "name"),
    [
        ("shop.int8.onnx", "10.3.0", ORIN, Flavour.TENSORRT, "shop.int8.trt10.3-sm87.engine"),
        ("shop.onnx", "10.16.1.11", GpuInfo("Thor", "11.0", 1), Flavour.TENSORRT, "shop.trt10.16-sm110.engine"),
        ("shop.fp16.onnx", "1.7.1.116", None, Flavour.RTX, "shop.fp16.rtx1.7.engine"),
        ("shop.onnx", "1.7.1.116", ORIN, Flavour.RTX, "shop.rtx1.7.engine"),
    ],
)
def test_an_engine_is_named_after_model_tensorrt_and_gpu(
    onnx: str, version: str, gpu: GpuInfo | None, flavour: Flavour, name: str
) -> None:
    assert engine_name(Path("models") / onnx, version, gpu, flavour) == name


def test_memory_is_read_as_linux_counts_it(tmp_path: Path) -> None:
    text = "MemTotal:        7802880 kB\nMemFree:  100 kB\nMemAvailable:    3145728 kB\nSwapFree:  1048576 kB\nX:   3\n"
    (tmp_path / "meminfo").write_text(text)
    assert host_memory(tmp_path / "meminfo") == HostMemory(available=3072, total=7620, swap=1024)


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n", "MemAvailable: lots\n"])
def test_memory_that_is_not_told_is_not_guessed(tmp_path: Path, text: str) -> None:
    (tmp_path / "meminfo").write_text(text)
    assert host_memory(tmp_path / "meminfo") is None
    assert host_memory(tmp_path / "none") is None


def test_the_estimate_grows_with_weights_and_pictures() -> None:
    assert estimate_mib(0, 0) == LIBRARIES_MIB
    assert estimate_mib(100 << 20, 0) == LIBRARIES_MIB + 400
    assert estimate_mib(0, 10 << 20) == LIBRARIES_MIB + 100


@given(st.integers(0, 4000), st.none() | st.integers(1, 20000), st.integers(0, 30000), st.integers(0, 9000))
def test_memory_is_refused_only_when_not_even_half_is_there(
    needed: int, asked: int | None, available: int, swap: int
) -> None:
    memory = HostMemory(available=available, total=32000, swap=swap)
    if available + swap < needed // 2:
        with pytest.raises(MemoryLimitError, match=f"{available} MiB of 32000 MiB"):
            plan_memory(needed, asked, memory, 8000)
        return
    plan = plan_memory(needed, asked, memory, 8000)
    assert plan.workspace == asked if asked else 64 <= plan.workspace <= 4000
    assert bool(plan.warning) == (available < needed + plan.workspace)


def test_a_workspace_is_chosen_where_memory_is_not_told() -> None:
    assert plan_memory(500, None, None, 8000).workspace == 4000
    assert plan_memory(500, None, None, None).workspace == 64
    assert plan_memory(500, 77, None, None).workspace == 77


def test_a_killed_build_is_told_with_figures_where_there_are_some() -> None:
    assert "1200 MiB of 3900 MiB" in killed_message(900, HostMemory(available=1200, total=3900, swap=0))
    assert "about 900 MiB" in killed_message(900, None)


def test_a_jetson_tells_its_release(tmp_path: Path) -> None:
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    assert describe_host(tmp_path / "release")["jetpack"] == "R36.4.3"
    assert set(describe_host(tmp_path / "none")) == {"os", "arch"}


class FakeCuda:
    """The few answers that describe a GPU."""

    def device_name(self) -> str:
        return "Orin"

    def compute_capability(self) -> str:
        return "8.7"

    def memory_mib(self) -> int:
        return 7620

    def version(self) -> str:
        return "12.6"


def test_the_gpu_is_asked_through_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_machine, "open_cuda", FakeCuda)
    gpu = this_gpu()
    assert (gpu.info, gpu.cuda_version) == (ORIN, "12.6")


def test_a_timing_cache_is_read_back_and_nothing_else_is(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "a.timing")
    assert cache.read() == (None, "")
    assert cache.write(b"measured")
    assert cache.read() == (b"measured", "")
    for damaged in (b"", b"measured", cache.path.read_bytes()[:-1], cache.path.read_bytes() + b"x"):
        cache.path.write_bytes(damaged)
        content, note = cache.read()
        assert content is None
        assert "damaged" in note
    (tmp_path / "b.timing").mkdir()
    assert "cannot be read" in TimingCache(tmp_path / "b.timing").read()[1]


def test_a_timing_cache_belongs_to_device_tensorrt_and_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caches = {
        timing_cache(GpuInfo(name, capability, 1), version, cuda)
        for name in ("Orin", "NVIDIA GeForce RTX 4090")
        for capability in ("8.7", "8.9")
        for version in ("10.3.0", "10.16.1")
        for cuda in ("12.6", "13.0")
    }
    assert len(caches) == 16
    assert {cache.path.parent for cache in caches if cache} == {tmp_path / "deepir" / "timing"}


def test_nested_phases_are_one_share_that_never_falls() -> None:
    phases = Phases()
    phases.start("build", None, 4)
    assert phases.share() == 0.0
    phases.step("build", 0)
    phases.start("tactics", "build", 10)
    phases.step("tactics", 4)
    assert phases.share() == pytest.approx(0.25 + 0.5 / 4)
    phases.finish("tactics")
    assert phases.share() == pytest.approx(0.25 + 0.5 / 4)
    phases.step("build", 1)
    assert phases.share() == pytest.approx(0.5)
    phases.step("unknown", 3)
    phases.finish("build")
    assert phases.share() == 1.0


names = st.sampled_from(["a", "b", "c"])
events = st.lists(
    st.tuples(st.just("start"), names, st.none() | names, st.integers(-1, 5))
    | st.tuples(st.just("step"), names, st.integers(0, 9))
    | st.tuples(st.just("finish"), names)
)


@given(events)
def test_whatever_tensorrt_says_the_share_stays_between_0_and_1_and_never_falls(said: list[tuple]) -> None:
    phases, before = Phases(), 0.0
    for what, *arguments in said:
        getattr(phases, what)(*arguments)
        assert before <= phases.share() <= 1.0
        before = phases.share()


def test_the_monitor_tells_each_step_and_lets_tensorrt_go_on() -> None:
    module = ModuleType("fake")
    module.IProgressMonitor = object
    shares: list[float] = []
    monitor = make_monitor(module, shares.append)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is True
    monitor.phase_finish("build")
    assert shares == [0.5, 1.0]


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left() -> None:
    now, lines = [0.0], []
    beat = Heartbeat(lines.append, lambda: now[0])
    for seconds, share in ((1, 0.1), (9.9, 0.2), (10, 0.25), (15, 0.4), (20, None), (90, 0.5)):
        now[0] = seconds
        beat(share)
    assert lines == [
        "building the engine: 25%, 10 s gone, about 30 s left",
        "building the engine: 40%, 20 s gone, about 30 s left",
        "building the engine: 50%, 1 min 30 s gone, about 1 min 30 s left",
    ]


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, lines = [], []

    @contextmanager
    def bar(_title: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: moved.append(done / total)

    monkeypatch.setattr(engine_progress, "progress_bar", bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with engine_progress.build_progress(lines.append, lambda: 1e9) as tick:
        for share in (0.25, None, 0.5, 1.0):
            tick(share)
    assert (moved, lines) == ([0.25, 0, 0.25, 0.5], [])


def test_a_log_tells_no_time_left_before_anything_is_done() -> None:
    now, lines = [0.0], []
    beat = Heartbeat(lines.append, lambda: now[0])
    now[0] = 11
    beat(None)
    assert lines == ["building the engine: 0%, 11 s gone"]


def layers(*kinds: dict, names: str = "Bindings") -> str:
    return json.dumps({"Layers": list(kinds), names: []})


INT8_WEIGHTS = {"LayerType": "CaskConvolution", "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 9}}
BY_FORMAT = {"LayerType": "CaskConvActPool", "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format"}]}
BY_KERNEL = {
    "LayerType": "CaskConvolution",
    "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32",
}
FP32_KERNEL = {"LayerType": "CaskConvolution", "TacticName": "ampere_scudnn_128x64_relu_f32f32_nn_v1"}
COMPILED = {"LayerType": "correlation", "Inputs": [{"Datatype": "Half"}]}
NO_CONVOLUTION = {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major Int8 format"}]}


@pytest.mark.parametrize("names", ["Bindings", "I/O Tensors"])
def test_convolutions_are_counted_in_the_words_of_tensorrt_10_and_11(names: str) -> None:
    text = layers(INT8_WEIGHTS, BY_FORMAT, BY_KERNEL, FP32_KERNEL, COMPILED, NO_CONVOLUTION, names=names)
    assert count_in_layers(text) == PrecisionCount(5, 2, 2, 1)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": ["conv1", "conv2"]}', '{"Layers": []}'])
def test_layers_without_detail_count_nothing(text: str) -> None:
    assert count_in_layers(text) == PrecisionCount(0, 0, 0, 0)


def kernel(kind: str, datatype: str, *nodes: str) -> str:
    made_of = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    tensors = f"Inputs: [ {{ Datatype: {datatype}, Format: (NHWC) }}], Outputs: [ {{ Datatype: Int8 }}]"
    return f"Name: {nodes[0]}_1, LayerType: {kind}, {tensors}, Metadata: {made_of}"


KERNELS = "\n".join(
    [
        "Layers:",
        kernel("kgen", "Float", "stem"),
        kernel("correlation", "Int8", "stem"),
        kernel("correlation", "Half", "next", "add"),
    ]
)


def test_the_last_kernel_list_of_tensorrt_rtx_counts() -> None:
    lines = [("VERBOSE", "Layers:\nName: old, LayerType: correlation, Inputs: [ { Datatype: Float }]")]
    assert count_in_log([*lines, ("INFO", "something else"), ("VERBOSE", KERNELS)]) == PrecisionCount(2, 1, 1, 0)
    assert count_in_log([]) == PrecisionCount(0, 0, 0, 0)


def test_a_convolution_that_is_compiled_together_with_others_counts_by_its_name_and_its_weights() -> None:
    fused = (
        "Name: _1, LayerType: runtime_fusion, Inputs: [ { Datatype: Float }], Constants: [ { Datatype: Half }, "
        "{ Datatype: Float }], Outputs: [ { Datatype: Int8 }], Metadata: [ONNX Layer: last][ONNX Layer: add]"
    )
    log = [("VERBOSE", f"{KERNELS}\n{fused}")]
    assert count_in_log(log, ["stem", "next", "last"]) == PrecisionCount(3, 1, 2, 0)
    assert count_in_log(log, ["stem", "next"]) == PrecisionCount(2, 1, 1, 0)


def test_a_node_that_no_kernel_tells_of_was_dropped() -> None:
    assert dropped([("VERBOSE", KERNELS)], ["stem", "next", "last"]) == ["last"]


def test_the_worst_of_several_capabilities_counts() -> None:
    assert worst([PrecisionCount(4, 4, 0, 0), PrecisionCount(4, 1, 3, 0)]).int8 == 1
