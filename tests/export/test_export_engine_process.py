"""The child process: what becomes of a build that crashes, is killed, runs out of memory or is interrupted."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepir.errors import INTERRUPTED, EngineError, MemoryLimitError
from deepir.export import engine_blueprint
from deepir.export.engine import BuildConfig, build_engine
from deepir.export.engine_machine import HostMemory
from deepir.runtime.tensorrt_library import Flavour

CONFIG = BuildConfig(flavour=Flavour.TENSORRT, pool="native")

PARENT = """
import signal, sys
from pathlib import Path
from deepir.errors import reports_errors
from deepir.export import engine_blueprint
from deepir.export.engine import BuildConfig, build_engine
from deepir.export.engine_machine import Gpu
from deepir.runtime.sidecar import GpuInfo
from deepir.runtime.tensorrt_library import Flavour

# a shell that starts tests in the background lets them ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
engine_blueprint.this_gpu = lambda: Gpu(GpuInfo("Fake Orin", "8.7", 7620), "12.6")
config = BuildConfig(flavour=Flavour.TENSORRT, pool="native")
reports_errors(build_engine)(Path(sys.argv[1]), Path(sys.argv[2]), config, lambda line: None)
"""


def failure(onnx: Path, folder: Path) -> Exception:
    """What building raises; it must leave no file and be one sentence."""
    with pytest.raises((EngineError, MemoryLimitError)) as caught:
        build_engine(onnx, folder, CONFIG, lambda _line: None)
    assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_crash_is_one_sentence_with_tensorrts_last_words(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use(does="abort")
    error = failure(onnx_files["fp16"], tmp_path)
    assert isinstance(error, EngineError)
    for words in ("SIGABRT", "nvinfer1::Bad", "[INFO] timing kernels"):
        assert words in str(error)


def test_a_kill_is_told_as_want_of_memory_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_blueprint, "host_memory", lambda: HostMemory(available=3210, total=7620, swap=0))
    fake_tensorrt.use(does="kill")
    error = failure(onnx_files["fp16"], tmp_path)
    assert isinstance(error, MemoryLimitError)
    assert error.exit_code == 9
    for words in ("3210 MiB of 7620 MiB", "add swap", "desktop", "--workspace"):
        assert words in str(error)


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        ("no memory", MemoryLimitError, "out of memory"),
        ("nothing", EngineError, "Could not find any implementation for node stem.0"),
        ("no gpu", EngineError, "cannot start: CUDA initialization failure"),
        ("unloadable", EngineError, "cannot load the plan that it just built"),
    ],
)
def test_what_tensorrt_refuses_is_told_in_its_own_words(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, does: str, kind: type[Exception], words: str
) -> None:
    fake_tensorrt.use(does=does)
    error = failure(onnx_files["fp16"], tmp_path)
    assert type(error) is kind
    assert words in str(error)


def test_a_child_that_cannot_even_start_is_told_with_its_last_line(
    fake_tensorrt: Any, monkeypatch: pytest.MonkeyPatch, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use(does="an act that the fake does not know")
    assert "KeyError" in str(failure(onnx_files["fp16"], tmp_path))


def test_what_native_code_prints_does_not_disturb_the_answers(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    fake_tensorrt.use(does="print")
    build_engine(onnx_files["fp16"], tmp_path, CONFIG, lambda _line: None)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".engine", ".json"]


@pytest.fixture
def hanging_build(
    fake_tensorrt: Any, onnx_files: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], tuple[subprocess.Popen[bytes], int, int]]:
    """Start a process whose build hangs; gives it, the open end of the child's pipe, and the child's process id."""
    fifo = tmp_path_factory.mktemp("fifo") / "pipe"
    os.mkfifo(fifo)
    fake_tensorrt.use(does="hang")
    fake_tensorrt.monkeypatch.setenv("FAKE_TENSORRT_FIFO", str(fifo))

    def start() -> tuple[subprocess.Popen[bytes], int, int]:
        command = [sys.executable, "-c", PARENT, str(onnx_files["fp16"]), str(tmp_path)]
        # a group of its own, as a shell gives it, so that the signal of Ctrl-C reaches parent and child alone
        parent = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        pipe = os.open(fifo, os.O_RDONLY)
        return parent, pipe, int(os.read(pipe, 20))

    return start


def test_ctrl_c_ends_the_child_too_and_leaves_no_file(
    hanging_build: Callable[[], tuple[subprocess.Popen[bytes], int, int]], tmp_path: Path
) -> None:
    parent, pipe, child = hanging_build()
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=30) == INTERRUPTED
    # the pipe ends when the child, its only writer, is gone
    assert os.read(pipe, 1) == b""
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_child_does_not_outlive_a_parent_that_is_killed(
    hanging_build: Callable[[], tuple[subprocess.Popen[bytes], int, int]],
) -> None:
    parent, pipe, _ = hanging_build()
    parent.kill()
    parent.wait(timeout=30)
    assert os.read(pipe, 1) == b""
