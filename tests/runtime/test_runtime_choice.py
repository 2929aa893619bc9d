"""--backend: what is chosen, why, what is measured only once, and what happens where something is missing."""

import dataclasses
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepir.card import GateVerdict, ModelCard
from deepir.errors import EngineError, MissingDependency, ModelError, OptionError
from deepir.files import file_sha256
from deepir.runtime import choice, choice_probe, engine_beside
from deepir.runtime.backend import BackendName, Device
from deepir.runtime.cache import keep, keep_record, kept_record
from deepir.runtime.choice import choose_backend, decide
from deepir.runtime.choice_probe import Probe
from deepir.runtime.sidecar import EngineRecord, write_record

PROVEN = "proven on 32 made-up pictures: cosine min 0.9987"
DAY = "2026-11-21"
WriteEngine = Callable[..., Path]


class Probes:
    """Stands in for the child processes: answers what it was given, and counts."""

    def __init__(self) -> None:
        self.answers = {"onnxruntime": Probe(64.9), "openvino": Probe(7.8, PROVEN), "cuda": Probe(None, "no driver")}
        self.asked: list[tuple[str, int]] = []

    def __call__(self, path: Path, backend: str, threads: int) -> Probe:
        self.asked.append((backend, threads))
        return self.answers[backend]


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Probes:
    """A machine with OpenVINO, without a GPU, with an empty cache."""
    found = Probes()
    monkeypatch.setattr(choice_probe, "probe", found)
    monkeypatch.setattr(choice, "_has_gpu", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


@pytest.fixture
def gpu(probes: Probes, monkeypatch: pytest.MonkeyPatch) -> Probes:
    """The same machine with a GPU, CUDA compiled into ONNX Runtime."""
    monkeypatch.setattr(choice, "_has_gpu", lambda: True)
    monkeypatch.setattr(choice, "_lists_cuda", lambda: True)
    probes.answers["cuda"] = Probe(1.2)
    return probes


def test_openvino_wins_with_its_reasons(model: Path, probes: Probes) -> None:
    chosen = choose_backend(model, "auto", "auto", 0)
    assert (chosen.backend, chosen.path) == ("openvino", model)
    assert chosen.why.startswith("OpenVINO: 7.8 ms against 64.9 ms in ONNX Runtime, " + PROVEN + " (measured 20")
    assert probes.asked == [("onnxruntime", 0), ("openvino", 0)]


def test_the_choice_is_remembered(model: Path, probes: Probes) -> None:
    first = choose_backend(model, "auto", "auto", 0)
    assert choose_backend(model, "auto", "auto", 0) == first
    assert len(probes.asked) == 2


def test_another_content_device_or_number_of_threads_is_measured_anew(
    model: Path, probes: Probes, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    choose_backend(model, "auto", "auto", 0)
    choose_backend(model, "auto", "auto", 1)
    choose_backend(model, "auto", "cpu", 0)
    write_model(model, card=make_card(), seed=9)
    choose_backend(model, "auto", "auto", 0)
    assert [threads for _, threads in probes.asked] == [0, 0, 1, 1, 0, 0, 0, 0]


def test_another_version_is_measured_anew(model: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_backend(model, "auto", "auto", 0)
    monkeypatch.setattr(choice, "_version", lambda _: "99.0")
    choose_backend(model, "auto", "auto", 0)
    assert len(probes.asked) == 4


def test_a_copy_under_another_name_is_the_same_file(model: Path, probes: Probes) -> None:
    choose_backend(model, "auto", "auto", 0)
    copy = model.with_name("copy.onnx")
    copy.write_bytes(model.read_bytes())
    assert choose_backend(copy, "auto", "auto", 0).path == copy
    assert len(probes.asked) == 2


def test_onnx_runtime_wins_where_it_is_faster(model: Path, probes: Probes) -> None:
    probes.answers["onnxruntime"] = Probe(3.0)
    chosen = choose_backend(model, "auto", "auto", 0)
    assert chosen.backend == "onnxruntime"
    assert chosen.why.startswith("ONNX Runtime: 3.0 ms against 7.8 ms in OpenVINO (measured 20")


def test_a_refused_openvino_is_passed_over_with_the_reason(model: Path, probes: Probes) -> None:
    probes.answers["openvino"] = Probe(None, "OpenVINO does not run x as ONNX Runtime does")
    chosen = choose_backend(model, "auto", "auto", 0)
    assert chosen.backend == "onnxruntime"
    assert "OpenVINO is passed over: OpenVINO does not run x as ONNX Runtime does" in chosen.why
    choose_backend(model, "auto", "auto", 0)
    assert len(probes.asked) == 2


def test_without_vnni_the_faster_fp32_form_beside_an_int8_file_is_named(
    model: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = f"INT8 is slower here than FP32: give {model.name}"
    int8 = model.with_name(f"{model.stem}.int8.onnx")
    int8.write_bytes(model.read_bytes())
    monkeypatch.setattr(choice, "lacks_vnni", lambda: True)
    assert sentence not in choose_backend(int8, "auto", "auto", 0).why  # OpenVINO runs it
    probes.answers["openvino"] = Probe(None, "its descriptors differ")
    assert choose_backend(int8, "auto", "cpu", 0).why.endswith(f"; {sentence}")
    assert sentence not in choose_backend(model, "auto", "cpu", 0).why
    monkeypatch.setattr(choice, "lacks_vnni", lambda: False)
    assert sentence not in choose_backend(int8, "auto", "cpu", 0).why


def test_a_file_that_nothing_runs_is_not_remembered(model: Path, probes: Probes) -> None:
    probes.answers["onnxruntime"] = Probe(None, "truncated")
    for _ in range(2):
        chosen = choose_backend(model, "auto", "auto", 0)
        assert (chosen.backend, chosen.why) == ("onnxruntime", "ONNX Runtime: truncated")
    assert probes.asked == [("onnxruntime", 0)] * 2


def test_without_openvino_nothing_is_measured(model: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(choice_probe, "probe", probes)
    monkeypatch.setattr(choice, "_has_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    chosen = choose_backend(model, "auto", "auto", 0)
    assert (chosen.backend, chosen.why) == ("onnxruntime", "ONNX Runtime: the one program for this")
    assert probes.asked == []


def test_cuda_goes_before_the_processor(model: Path, gpu: Probes) -> None:
    chosen = choose_backend(model, "auto", "auto", 0)
    assert chosen.backend == "cuda"
    assert chosen.why.startswith("ONNX Runtime, CUDA: 1.2 ms (measured")
    assert gpu.asked == [("cuda", 0)]


def test_cuda_that_does_not_load_leaves_the_processor(model: Path, gpu: Probes) -> None:
    gpu.answers["cuda"] = Probe(None, "no driver")
    assert choose_backend(model, "auto", "auto", 0).backend == "openvino"
    choose_backend(model, "auto", "auto", 0)
    assert [name for name, _ in gpu.asked] == ["cuda", "onnxruntime", "openvino"]


def test_device_cpu_leaves_cuda_and_engines_out(model: Path, gpu: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_engine", None)
    assert choose_backend(model, "auto", "cpu", 0).backend == "openvino"
    assert [name for name, _ in gpu.asked] == ["onnxruntime", "openvino"]


def test_device_cuda_measures_nothing(model: Path, gpu: Probes) -> None:
    assert choose_backend(model, "auto", "cuda", 0).backend == "cuda"
    assert gpu.asked == []


@pytest.mark.parametrize("wish", ["openvino", "onnxruntime", "cuda"])
def test_a_wish_is_taken_without_measuring(model: Path, probes: Probes, wish: BackendName) -> None:
    chosen = choose_backend(model, wish, "auto", 0)
    assert chosen.backend == wish
    assert chosen.why.endswith("asked for")
    assert probes.asked == []


@pytest.mark.parametrize(("wish", "device"), [("tensorrt", "cpu"), ("cuda", "cpu"), ("openvino", "cuda")])
def test_a_wish_that_contradicts_the_device_is_refused(model: Path, wish: BackendName, device: Device) -> None:
    with pytest.raises(OptionError, match=f"--backend {wish} and --device {device} contradict"):
        choose_backend(model, wish, device, 0)


def test_an_engine_is_for_tensorrt_alone(tmp_path: Path) -> None:
    engine = tmp_path / "shop.engine"
    engine.write_bytes(b"plan")
    assert choose_backend(engine, "auto", "auto", 0).backend == "tensorrt"
    for wish, device, named in (("openvino", "auto", "--backend openvino"), ("auto", "cpu", "--device cpu")):
        with pytest.raises(OptionError, match=rf"shop\.engine is a TensorRT engine.*{named}"):
            choose_backend(engine, wish, device, 0)  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such model: .*nothing\.onnx"):
        choose_backend(tmp_path / "nothing.onnx", "auto", "auto", 0)
    with pytest.raises(ModelError, match=r"no such model: .*nothing\.engine"):
        choose_backend(tmp_path / "nothing.engine", "auto", "auto", 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda text: text[:40],
        lambda text: text.replace("deepir.choice/1", "deepir.choice/9"),
        lambda text: text.replace("7.8", '"quick"'),
        lambda text: text.replace('"probes"', '"other"'),
        lambda _: '{"schema": "deepir.choice/1", "measured": "x", "probes": 7}',
        lambda _: '{"schema": "deepir.choice/1", "measured": "x", "probes": {"openvino": null}}',
    ],
)
def test_a_damaged_memory_is_made_again(model: Path, probes: Probes, change: Callable[[str], str]) -> None:
    first = choose_backend(model, "auto", "auto", 0)
    path = choice.choice_path(model, "auto", 0)
    assert path is not None
    path.write_text(change(path.read_text()))
    assert choose_backend(model, "auto", "auto", 0) == first
    assert len(probes.asked) == 4
    record = kept_record(path, "deepir.choice/1")
    assert record is not None
    assert record["probes"]["openvino"]["milliseconds"] == 7.8


def test_a_cache_that_cannot_be_written_is_told_and_no_error(
    model: Path, probes: Probes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        chosen = choose_backend(model, "auto", "auto", 0)
        assert chosen.backend == "openvino"
        assert "cannot be written: set XDG_CACHE_HOME" in chosen.why
    assert len(probes.asked) == 4


def test_a_full_disk_leaves_no_half_written_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_record(tmp_path / "one.json", "s", {"value": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not keep(tmp_path / "one.json", b"half")
    assert kept_record(tmp_path / "one.json", "s") == {"schema": "s", "value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_what_was_measured_decides() -> None:
    plain, quick = Probe(10.0), Probe(2.0, PROVEN)
    assert decide({}, DAY)[0] == "onnxruntime"
    assert decide({"openvino": quick}, DAY) == ("openvino", f"OpenVINO: 2.0 ms, {PROVEN} (measured {DAY})")
    assert decide({"openvino": Probe(10.0), "onnxruntime": plain}, DAY)[0] == "openvino"
    assert decide({"cuda": Probe(1.0), "openvino": quick}, DAY)[0] == "cuda"


class FakeTensorRT:
    """Stands in for TensorRT, which needs NVIDIA's libraries: a version is all that is asked of it."""

    __version__ = "10.3.0"


@pytest.fixture
def write_engine(model: Path, make_card: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch) -> WriteEngine:
    """write_engine(name, **changes) puts an engine and its sidecar beside the model."""
    monkeypatch.setattr(engine_beside, "load_tensorrt", lambda _: FakeTensorRT())
    record = dataclasses.replace(
        EngineRecord.from_json((Path(__file__).parents[1] / "data" / "engine.json").read_text()),
        card=make_card(),
        onnx_file=model.name,
        onnx_sha256=file_sha256(model),
        gate=GateVerdict(passed=True, cosine_min=0.99, cosine_mean=0.999, agreement=1.0, images=32),
        not_run="",
        host={"arch": platform.machine()},
    )

    def write(name: str, **changes: Any) -> Path:
        engine = model.with_name(name)
        engine.write_bytes(b"plan")
        write_record(engine, dataclasses.replace(record, **changes))
        return engine

    return write


def test_an_engine_beside_the_model_goes_first(model: Path, gpu: Probes, write_engine: WriteEngine) -> None:
    write_engine("old.engine", built_at="2026-11-20T00:00:00+00:00")
    newest = write_engine("new.engine")
    chosen = choose_backend(model, "auto", "auto", 0)
    assert (chosen.backend, chosen.path) == ("tensorrt", newest)
    assert chosen.why == "TensorRT: new.engine was built from tiny.onnx"
    assert choose_backend(model, "tensorrt", "auto", 0).path == newest
    assert gpu.asked == []


def test_an_engine_of_another_tensorrt_is_passed_over_and_said(
    model: Path, gpu: Probes, write_engine: WriteEngine
) -> None:
    write_engine("old.engine", tensorrt_version="8.6.2")
    chosen = choose_backend(model, "auto", "auto", 0)
    assert chosen.backend == "cuda"
    assert "old.engine is passed over: built with TensorRT 8.6.2, this machine has 10.3.0; build it again" in chosen.why
    with pytest.raises(EngineError, match=r"8\.6\.2.*deepir-export .*tiny\.onnx --backend tensorrt"):
        choose_backend(model, "tensorrt", "auto", 0)
    write_engine("old.engine", tensorrt_version="10.0.1", portable="version")
    assert choose_backend(model, "auto", "auto", 0).backend == "tensorrt"


def test_an_engine_of_another_file_is_not_ours(model: Path, gpu: Probes, write_engine: WriteEngine) -> None:
    write_engine("other.engine", onnx_sha256="0" * 64)
    assert choose_backend(model, "auto", "auto", 0).backend == "cuda"
    with pytest.raises(EngineError, match=r"no engine built from tiny\.onnx lies beside it"):
        choose_backend(model, "tensorrt", "auto", 0)


def test_an_engine_without_a_description_is_not_looked_at(model: Path, gpu: Probes) -> None:
    model.with_name("stray.engine").write_bytes(b"plan")
    assert choose_backend(model, "auto", "auto", 0).backend == "cuda"


def test_an_engine_that_never_ran_is_passed_over(model: Path, gpu: Probes, write_engine: WriteEngine) -> None:
    write_engine("built_elsewhere.engine", gate=None, not_run="no GPU")
    why = choose_backend(model, "auto", "auto", 0).why
    assert "built_elsewhere.engine is passed over: it was never run and proven" in why


def test_who_asks_is_told_before_programs_are_tried(model: Path, probes: Probes) -> None:
    told: list[str] = []
    choose_backend(model, "auto", "auto", 0, told.append)
    assert told == [f"trying which program runs {model.name} best here; the outcome is remembered"]
    choose_backend(model, "auto", "auto", 0, told.append)
    assert len(told) == 1


def test_an_engine_whose_library_is_absent_is_passed_over(
    model: Path, gpu: Probes, write_engine: WriteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: object) -> None:
        raise MissingDependency

    write_engine("rtx.engine", flavour="rtx", gpu=None, compute_capabilities=("8.9",))
    assert choose_backend(model, "auto", "auto", 0).backend == "tensorrt"
    monkeypatch.setattr(engine_beside, "load_tensorrt", absent)
    assert (
        "rtx.engine is passed over: TensorRT-RTX is not installed here" in choose_backend(model, "auto", "auto", 0).why
    )


def test_a_machine_without_a_gpu_asks_for_no_engine(model: Path, probes: Probes, write_engine: WriteEngine) -> None:
    write_engine("new.engine")
    assert choose_backend(model, "auto", "auto", 0).backend == "openvino"


def test_a_real_child_process_measures_and_proves(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # a folder in which Python must not look for modules
    (tmp_path / "openvino.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    found = choice_probe.probe(Path(model.name), "openvino", 1)
    assert found.milliseconds is not None
    assert found.milliseconds > 0
    assert found.note.startswith("proven on 32 made-up pictures: cosine min ")
    assert list((tmp_path / "cache" / "deepir" / "openvino").glob("*.blob"))
    assert capfd.readouterr() == ("", "")


def test_a_child_tells_the_error_of_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    found = choice_probe.probe(tmp_path / "damaged.onnx", "onnxruntime", 1)
    assert found.milliseconds is None
    assert "is truncated or not an ONNX model" in found.note


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal SIGSEGV"),
        ("import sys; sys.exit('first\\nlast words')", "exit code 1: last words"),
        ("print('{}')", "exit code 0"),
        ("print('[1]')", "exit code 0"),
    ],
)
def test_a_child_that_dies_is_told(
    model: Path, program: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    assert choice_probe.probe(model, "openvino", 0) == Probe(None, f"its process ended with {told}")


@pytest.mark.parametrize("executable", ["", "/nothing/python"])
def test_a_python_that_cannot_be_started_is_told(model: Path, executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    found = choice_probe.probe(model, "openvino", 0)
    assert found.milliseconds is None
    assert "no process could be started" in found.note


def test_a_child_that_takes_too_long_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_probe, "_MOST_SECONDS", 0.01)
    assert choice_probe.probe(model, "onnxruntime", 0) == Probe(None, "it took more than 0.01 s")
