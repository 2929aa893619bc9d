"""CUDA through cuda-python and pycuda: the real bindings over FakeLibcuda, a driver whose memory is the host's."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepir.errors import EngineError, MemoryLimitError, MissingDependency
from deepir.runtime import cuda_pycuda, cuda_python
from deepir.runtime.cuda import cuda_error, open_cuda

FAKES = Path(__file__).with_name("fake_gpu")

SCRIPT = """
import ctypes, importlib, json, sys, threading
import numpy as np
from deepir.errors import DeepIRError

module, kind = sys.argv[1].rsplit(".", 1)
seen = {}

def state():
    text = ctypes.create_string_buffer(1000)
    ctypes.CDLL("libcuda.so.1").fake_state(text, 1000)
    return json.loads(text.value)

def refused(work, *arguments):
    try:
        work(*arguments)
    except DeepIRError as error:
        return f"{type(error).__name__}: {error}"

def work(cuda, name):
    with cuda.current():
        to, back, pointer, stream = cuda.pinned(64), cuda.pinned(64), cuda.allocate(64), cuda.stream()
        to[:] = np.arange(64)
        cuda.upload(pointer, to, stream)
        cuda.download(back, pointer, stream)
        cuda.synchronise(stream)
        found = {"copied": back.tolist() == list(range(64)), "free": cuda.free_mib()}
        cuda.begin_capture(stream)
        cuda.upload(pointer, to[:32].view(np.float32), stream)
        cuda.download(back[:32], pointer, stream)
        graph = cuda.end_capture(stream)
        to[:] = 7
        found["captured"] = back.tolist() == list(range(64))
        cuda.launch(graph, stream)
        cuda.synchronise(stream)
        found["launched"] = back.tolist() == [7] * 32 + list(range(32, 64))
        found["held"] = state()
        found["no memory"] = refused(cuda.allocate, 1 << 40)
        cuda.begin_capture(stream)
        found["wait in a capture"] = refused(cuda.synchronise, stream)
        found["spoiled capture"] = refused(cuda.end_capture, stream)
        cuda.upload(pointer, to, stream)
        cuda.synchronise(stream)
        cuda.free_graph(graph)
        cuda.unpin(to)
        cuda.unpin(back)
        cuda.free(pointer)
        cuda.end_stream(stream)
    seen[name] = found

try:
    cuda = getattr(importlib.import_module(module), kind)()
    before = state()
    seen["what"] = [cuda.name, cuda.device_name(), cuda.compute_capability(), cuda.memory_mib(), cuda.version()]
    seen["retained by questions"] = state()["retained"]
    seen["no context"] = refused(cuda.allocate, 10)
    work(cuda, "main")
    thread = threading.Thread(target=work, args=(cuda, "thread"))
    thread.start()
    thread.join()
    work(getattr(importlib.import_module(module), kind)(), "opened again")
    seen["end"] = state()
except DeepIRError as error:
    seen["error"] = f"{type(error).__name__}: {error}"
sys.stdout.write(json.dumps(seen))
"""

PACKAGES = {"cuda-python": "deepir.runtime.cuda_python.CudaPython", "pycuda": "deepir.runtime.cuda_pycuda.PyCuda"}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FakeLibcuda as libcuda.so.1."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build FakeLibcuda")
    folder = tmp_path_factory.mktemp("driver")
    words = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", FAKES / "libcuda.c", "-ldl"]
    subprocess.run([compiler, *map(str, words)], check=True)
    return folder


def over_the_fake(package: str, driver: Path, **environment: str) -> dict:
    if package == "cuda-python":
        pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python")
    paths = [str(FAKES)] if package == "pycuda" else []
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, PACKAGES[package]],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.mark.parametrize("package", PACKAGES)
def test_memory_streams_and_graphs_work_in_any_thread_and_leave_nothing(package: str, driver: Path) -> None:
    seen = over_the_fake(package, driver)
    assert seen["what"] == [package, "FakeGPU", "8.7", 7620, "12.6"]
    for thread in ("main", "thread", "opened again"):
        found = seen[thread]
        assert (found["copied"], found["captured"], found["launched"], found["free"]) == (True, True, True, 5000)
        held = {"memory": 1, "pinned": 2, "streams": 1, "graphs": 0, "executables": 1, "pushed": 1}
        assert held.items() <= found["held"].items()
    nothing = {"memory": 0, "pinned": 0, "streams": 0, "graphs": 0, "executables": 0, "pushed": 0, "launches": 3}
    assert nothing.items() <= seen["end"].items()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_primary_context_is_retained_when_it_is_used_and_once_for_each_opening_at_most(
    package: str, driver: Path
) -> None:
    seen = over_the_fake(package, driver)
    assert seen["retained by questions"] == 0
    assert seen["main"]["held"]["retained"] == seen["thread"]["held"]["retained"] == 1
    assert seen["end"]["retained"] <= 2


@pytest.mark.parametrize("package", PACKAGES)
def test_what_cuda_refuses_is_an_error_with_its_name(package: str, driver: Path) -> None:
    seen = over_the_fake(package, driver)
    assert seen["no context"].startswith("EngineError: the GPU refused ")
    assert ("CUDA_ERROR_INVALID_CONTEXT" if package == "cuda-python" else "error 201") in seen["no context"]
    for thread in ("main", "thread"):
        assert seen[thread]["no memory"].startswith("MemoryLimitError: the GPU has no memory left")
        assert "CUDA_ERROR_OUT_OF_MEMORY" in seen[thread]["no memory"]
        assert seen[thread]["wait in a capture"].startswith("EngineError: ")
        assert "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in seen[thread]["spoiled capture"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_driver_without_a_gpu_is_a_missing_device(package: str, driver: Path) -> None:
    seen = over_the_fake(package, driver, FAKE_CUDA_INIT="100")
    assert seen["error"].startswith(f"MissingDependency: {package}: the NVIDIA driver says ")
    assert ("CUDA_ERROR_NO_DEVICE" if package == "cuda-python" else "error 100") in seen["error"]


def test_the_real_package_without_a_driver_gives_one_sentence() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python")
    with pytest.raises(MissingDependency, match=r"needs an NVIDIA GPU.*cuda-python finds no NVIDIA driver") as caught:
        open_cuda()
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_without_either_package_the_sentence_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(name: str) -> None:
        raise MissingDependency(name) from ModuleNotFoundError(f"No module named {name!r}")

    for module in (cuda_python, cuda_pycuda):
        monkeypatch.setattr(module, "need", not_there)
    with pytest.raises(MissingDependency) as caught:
        open_cuda()
    assert "pycuda cannot be imported: No module named 'pycuda.driver'" in str(caught.value)
    assert "cuda-python cannot be imported: No module named 'cuda.bindings.driver'" in str(caught.value)
    assert "pip install cuda-python" in str(caught.value)


def test_pycuda_is_taken_where_both_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_python.CudaPython, "__init__", lambda self: None)
    monkeypatch.setattr(cuda_pycuda.PyCuda, "__init__", lambda self: None)
    assert open_cuda().name == "pycuda"


def test_errors_of_cuda_are_sorted_by_their_names() -> None:
    assert isinstance(cuda_error("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY"), MemoryLimitError)
    assert isinstance(cuda_error("cuGraphLaunch", "CUDA_ERROR_ILLEGAL_ADDRESS"), EngineError)
    assert "cuGraphLaunch with CUDA_ERROR_ILLEGAL_ADDRESS" in str(
        cuda_error("cuGraphLaunch", "CUDA_ERROR_ILLEGAL_ADDRESS")
    )


@pytest.mark.parametrize("file", ["cuda.py", "cuda_python.py", "cuda_pycuda.py"])
def test_pycuda_is_never_initialised_by_its_import(file: str) -> None:
    source = Path(cuda_python.__file__).with_name(file).read_text(encoding="utf-8")
    assert "autoinit" not in source
