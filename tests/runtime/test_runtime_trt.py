"""The TensorRT backend over FakeTensorRT and FakeCuda, which stand in for the GPU that this machine may lack."""

import dataclasses
import enum
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepir.card import ModelCard
from deepir.errors import EngineError, MemoryLimitError, MissingDependency, ModelError, ShapeError
from deepir.runtime import trt as trt_module
from deepir.runtime import trt_rebuild
from deepir.runtime.cuda import cuda_error
from deepir.runtime.sidecar import EngineRecord, GpuInfo, read_record, write_record
from deepir.runtime.trt import TensorRTBackend
from deepir.spec import ModelSpec

RECORD = EngineRecord.from_json((Path(__file__).parents[1] / "data" / "engine.json").read_text())

DIM = 5
SPEC = ModelSpec(
    backbone="test:conv", sizes=((32, 48),), mean=(0, 0, 0), std=(1, 1, 1), stride=16, channels=DIM, dim=DIM
)
FIXED = ModelCard(SPEC)
TWO_SIZES = ModelCard(dataclasses.replace(SPEC, sizes=((32, 48), (48, 32)), resize="nearest"), strides=(16,))
FREE = ModelCard(dataclasses.replace(SPEC, sizes=((64, 64),), resize="longest"), strides=(16,))
UINT8 = ModelCard(SPEC, pixels="uint8")
SUMMED = ModelCard(dataclasses.replace(SPEC, sizes=((32, 48), (64, 96))))

Shapes = dict[str, list[tuple[int, ...]]]


class FakeCuda:
    """A GPU whose memory is numpy arrays; refuses what a real one refuses, and counts."""

    name = "FakeCuda"

    def __init__(self, capability: str = "8.7") -> None:
        self.capability = capability
        self.device: dict[int, np.ndarray] = {}
        self.hosts: dict[int, np.ndarray] = {}
        self.streams: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.refuses = ""
        self.events: list[str] = []
        self.taken = self.launches = 0
        self._next = 1 << 20
        self._pushed = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._pushed.depth = getattr(self._pushed, "depth", 0) + 1
        try:
            yield
        finally:
            self._pushed.depth -= 1

    def device_name(self) -> str:
        return "FakeGPU"

    def compute_capability(self) -> str:
        return self.capability

    def memory_mib(self) -> int:
        return 7620

    def free_mib(self) -> int:
        return 5000

    def version(self) -> str:
        return "12.6"

    def allocate(self, size: int) -> int:
        self._needs_context()
        assert size > 0
        self.taken += 1
        pointer = self._number()
        self.device[pointer] = np.full(size, 0xAB, np.uint8)
        return pointer

    def free(self, pointer: int) -> None:
        self._needs_context()
        self.events.append("free")
        del self.device[pointer]

    def pinned(self, size: int) -> np.ndarray:
        self._needs_context()
        self.taken += 1
        buffer = np.zeros(size, np.uint8)
        self.hosts[buffer.ctypes.data] = buffer
        return buffer

    def unpin(self, buffer: np.ndarray) -> None:
        self._needs_context()
        self.events.append("unpin")
        del self.hosts[buffer.ctypes.data]

    def stream(self) -> int:
        self._needs_context()
        self.streams.add(stream := self._number())
        return stream

    def end_stream(self, stream: int) -> None:
        self.events.append("end stream")
        self.streams.remove(stream)

    def upload(self, pointer: int, host: np.ndarray, stream: int) -> None:
        assert host.flags.c_contiguous
        assert any(host.ctypes.data == start for start in self.hosts)
        target = self.device[pointer]

        def copy() -> None:
            target[: host.nbytes] = host.reshape(-1).view(np.uint8)

        self.submit(stream, copy)

    def download(self, host: np.ndarray, pointer: int, stream: int) -> None:
        assert any(host.ctypes.data == start for start in self.hosts)
        source = self.device[pointer]

        def copy() -> None:
            host.reshape(-1).view(np.uint8)[:] = source[: host.nbytes]

        self.submit(stream, copy)

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        self._needs_context()
        assert stream in self.streams
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def synchronise(self, stream: int) -> None:
        self._needs_context()
        assert self.capturing is None

    def begin_capture(self, stream: int) -> None:
        self._needs_context()
        assert self.capturing is None
        self.capturing = []

    def end_capture(self, stream: int) -> int:
        assert self.capturing is not None
        noted, self.capturing = self.capturing, None
        if self.refuses == "end_capture":
            error = cuda_error("cuStreamEndCapture", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            raise error
        self.graphs[graph := self._number()] = noted
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._needs_context()
        self.launches += 1
        for work in self.graphs[graph]:
            work()

    def free_graph(self, graph: int) -> None:
        self.events.append("free graph")
        del self.graphs[graph]

    def close(self) -> None:
        self.events.append("close")

    def holds_nothing(self) -> bool:
        return not (self.device or self.hosts or self.streams or self.graphs) and self.capturing is None

    def _number(self) -> int:
        self._next += 1 << 20
        return self._next

    def _needs_context(self) -> None:
        if not getattr(self._pushed, "depth", 0):
            error = cuda_error("a call", "CUDA_ERROR_INVALID_CONTEXT")
            raise error


class Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    INT32 = 3
    UINT8 = 5


class Strategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class FakeLogger:
    """The base class that TensorRT's bindings give."""


class FakeContext:
    """An execution context that notices when it is changed after a graph was made with it."""

    def __init__(self, engine: "FakeEngine") -> None:
        self.engine, self.gpu, self.faults = engine, engine.gpu, engine.faults
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.active_optimization_profile = 0
        self.captured = False
        self.busy = False
        self.workspace = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self.gpu.device[memory].size >= size == self.engine.device_memory_size_v2
        self.workspace = memory

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return "address" not in self.faults

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert not self.captured
        self.active_optimization_profile = number
        self.shapes = {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.captured
        low, _, high = self.engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        self.shapes[name] = shape
        if "shape" in self.faults:
            return False
        return len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return 7 if "output" in self.faults else next(iter(self.shapes.values()))[0], DIM

    def execute_async_v3(self, stream: int) -> bool:
        capturing = self.gpu.capturing is not None
        assert not self.captured
        assert not self.engine.device_memory_size_v2 or self.workspace
        self.engine.executions += not capturing
        if "execute" in self.faults or (capturing and "capture" in self.faults):
            self.engine.log.lines.append(("ERROR", "enqueueV3: it does\nnot work"))
            return False
        self.captured = capturing
        shapes = dict(self.shapes)
        self.gpu.submit(stream, lambda: self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        assert not self.engine.busy
        self.engine.busy = True
        arrays = []
        for name, shape in shapes.items():
            dtype = np.dtype(self.engine.plan["inputs"][name])
            memory = self.gpu.device[self.addresses[name]]
            arrays.append(memory[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape))
        result = described(*arrays)
        if "nan" in self.faults:
            result[0, 0] = np.nan
        self.gpu.device[self.addresses["descriptors"]][: result.nbytes] = result.reshape(-1).view(np.uint8)
        self.engine.busy = False


class StillCompiling(FakeContext):
    """As of TensorRT-RTX: for a while it may not be captured."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.executions > 3


class FakeEngine:
    """An engine whose plan is JSON."""

    def __init__(self, plan: dict[str, Any], gpu: FakeCuda, faults: set[str], log: Any) -> None:
        self.plan, self.gpu, self.faults, self.log = plan, gpu, faults, log
        self.names = [*plan["inputs"], "descriptors"]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(plan["profiles"])
        self.device_memory_size_v2 = plan["workspace"]
        self.executions = self.contexts = 0
        self.busy = False

    def __del__(self) -> None:
        self.gpu.events.append("engine gone")

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.OUTPUT if name == "descriptors" else Mode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        dtype = self.plan["inputs"].get(name, "float32")
        return {"float32": DataType.FLOAT, "uint8": DataType.UINT8, "int32": DataType.INT32}[dtype]

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        assert name == "descriptors"
        return -1, self.plan["dim"]

    def get_tensor_profile_shape(self, name: str, number: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.plan["profiles"][number][name]]

    def create_execution_context(self, strategy: Strategy) -> FakeContext | None:
        assert strategy is Strategy.USER_MANAGED
        self.contexts += 1
        if "context" in self.faults:
            return None
        return StillCompiling(self) if "compiling" in self.faults else FakeContext(self)


def fake_tensorrt(gpu: FakeCuda, version: str = "10.3.0") -> Any:
    """FakeTensorRT: a module with what the backend uses of the real one; `faults` names what shall fail."""
    module = SimpleNamespace(
        __version__=version, ILogger=FakeLogger, TensorIOMode=Mode, ExecutionContextAllocationStrategy=Strategy
    )
    module.faults, module.engines, module.events = set(), [], []

    class Runtime:
        def __init__(self, log: Any) -> None:
            if "runtime" in module.faults:
                message = "pybind11::init(): factory function returned nullptr"
                raise TypeError(message)
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            module.events.append("deserialise")
            if "deserialise" in module.faults:
                self.log.lines += [("INFO", "hello"), ("ERROR", "Error Code 6: the engine plan file is not compatible")]
                return None
            engine = FakeEngine(json.loads(plan), gpu, module.faults, self.log)
            module.engines.append(engine)
            return engine

    module.Runtime = Runtime
    return module


def described(*arrays: np.ndarray) -> np.ndarray:
    """What FakeTensorRT computes: (N, DIM) of length 1 from the means of the pictures and the sum of the windows."""
    images = [array for array in arrays if array.ndim == 4]
    windows = sum(int(array.sum()) for array in arrays if array.ndim == 2)
    means = sum(array.astype(np.float64).mean(axis=(1, 2, 3)) for array in images)
    rows = np.cos(np.outer(means, np.arange(1, DIM + 1)) + 0.1 * windows) + 2
    unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def profile(card: ModelCard, batch: tuple[int, int, int], *sizes: tuple[int, int]) -> Shapes:
    """Smallest, usual and largest shape of each input, for one size or for three of them."""
    low, usual, high = sizes * 3 if len(sizes) == 1 else sizes
    shapes: Shapes = {}
    for name in card.inputs():
        if name.startswith("rois"):
            shapes[name] = [(1, 4), (5, 4), (30, 4)]
        else:
            each = zip(batch, (low, usual, high), strict=True)
            shapes[name] = [(count, *size, 3) if card.pixels == "uint8" else (count, 3, *size) for count, size in each]
    return shapes


def write_engine(folder: Path, card: ModelCard, profiles: list[Shapes], **changes: Any) -> Path:
    """A plan for FakeTensorRT and its sidecar; changes of the plan have their names, the others are the sidecar's."""
    dtypes = {name: "int32" if name.startswith("rois") else card.pixels for name in card.inputs()}
    plan: dict[str, Any] = {"inputs": dtypes, "profiles": profiles, "dim": DIM, "workspace": 4096}
    plan |= {name: changes.pop(name) for name in list(changes) if name in plan}
    content = json.dumps(plan).encode()
    engine = folder / "shop.engine"
    engine.write_bytes(content)
    made = {
        "card": card,
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "engine_bytes": len(content),
        "gpu": GpuInfo("FakeGPU", "8.7", 7620),
        "host": {},
    }
    write_record(engine, dataclasses.replace(RECORD, **{**made, **changes}))
    return engine


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    monkeypatch.setattr(trt_module, "open_cuda", lambda: cuda)
    return cuda


@pytest.fixture
def library(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake_tensorrt(gpu)
    monkeypatch.setattr(trt_module, "load_tensorrt", lambda flavour: module)
    return module


@pytest.fixture
def engine(tmp_path: Path, library: Any) -> Path:
    return write_engine(tmp_path, FIXED, [profile(FIXED, (1, 4, 8), (32, 48))])


def pictures(count: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, *size)).astype(np.float32)


USED = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        *("num_io_tensors", "num_optimization_profiles", "device_memory_size_v2", "create_execution_context"),
        *("get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape", "get_tensor_profile_shape"),
    ],
    "IExecutionContext": [
        *("set_device_memory", "set_tensor_address", "set_input_shape", "get_tensor_shape", "execute_async_v3"),
        *("active_optimization_profile", "set_optimization_profile_async"),
    ],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
    "TensorIOMode": ["INPUT"],
    "DataType": ["FLOAT", "UINT8", "INT32"],
}
"""What the backend uses of TensorRT; the fakes have just these names."""

LOOK = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
used = json.loads(sys.argv[2])
lacking = [f"{kind}.{name}" for kind, names in used.items() for name in names
           if not hasattr(getattr(module, kind, None), name)]
sys.stdout.write(f"{module.__version__} lacks {lacking}")
"""


# --- the fakes are like the real ones --------------------------------------------------------------------------------


def test_the_fakes_have_the_names_that_are_looked_up_in_the_real_libraries(gpu: FakeCuda) -> None:
    engine = FakeEngine({"inputs": {}, "profiles": [], "workspace": 0, "dim": 1}, gpu, set(), None)
    for kind, fake in {"ICudaEngine": engine, "IExecutionContext": FakeContext(engine)}.items():
        assert {name for name in USED[kind] if not hasattr(fake, name)} == set()
        methods = {name for name in vars(type(fake)) if not name.startswith("_")}
        assert methods <= set(USED[kind])


@pytest.mark.rtx
def test_tensorrt_rtx_has_every_name_that_is_used() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
    words = [sys.executable, "-c", LOOK, "tensorrt_rtx_bindings", json.dumps(USED)]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.endswith(" lacks []")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.3", "10.16", "11.4"])
def test_every_full_tensorrt_has_every_name_that_is_used(
    version: str, tensorrt_bindings: Callable[[str], dict[str, str]]
) -> None:
    words = [sys.executable, "-c", LOOK, "tensorrt", json.dumps(USED)]
    said = subprocess.run(words, env=tensorrt_bindings(version), check=True, capture_output=True, text=True).stdout
    assert said.startswith(version)
    assert said.endswith(" lacks []")


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 4, 8, 9, 27])
def test_it_gives_what_the_engine_computes_whatever_the_number_of_pictures(engine: Path, count: int) -> None:
    with TensorRTBackend(engine) as backend:
        for _ in range(4):
            descriptors_nd = backend.run(pictures(count))
            assert descriptors_nd.shape == (count, DIM)
            np.testing.assert_array_equal(descriptors_nd, described(pictures(count)))


def test_it_says_what_it_is(engine: Path) -> None:
    with TensorRTBackend(engine) as backend:
        assert backend.card == FIXED
        assert backend.name == "TensorRT 10.3.0, FakeGPU (8.7)"
        assert backend.record == read_record(engine)


def test_a_result_is_not_overwritten_by_the_next(engine: Path) -> None:
    with TensorRTBackend(engine) as backend:
        first = backend.run(pictures(3))
        backend.run(pictures(3, seed=1))
        np.testing.assert_array_equal(first, described(pictures(3)))


def test_arrays_need_not_be_contiguous(engine: Path) -> None:
    turned = np.asfortranarray(pictures(4))[::2]
    with TensorRTBackend(engine) as backend:
        np.testing.assert_array_equal(backend.run(turned), described(turned))


@pytest.mark.parametrize("card", [FIXED, UINT8, SUMMED], ids=["float32", "uint8", "two resolutions"])
def test_every_kind_of_input_arrives(tmp_path: Path, library: Any, card: ModelCard) -> None:
    sizes = card.spec.resolutions
    limits = [profile(card, (1, 2, 4), size) for size in sizes if size]
    merged = {name: limits[number][name] for number, name in enumerate(card.inputs())}
    arrays = [np.ascontiguousarray(pictures(3, size)) for size in sizes if size]
    if card.pixels == "uint8":
        arrays = [(100 * array.transpose(0, 2, 3, 1)).astype(np.uint8) for array in arrays]
    with TensorRTBackend(write_engine(tmp_path, card, [merged])) as backend:
        for _ in range(3):
            np.testing.assert_array_equal(backend.run(*arrays), described(*arrays))


def test_memory_is_taken_when_it_is_opened_and_never_while_it_runs(engine: Path, gpu: FakeCuda) -> None:
    with TensorRTBackend(engine) as backend:
        taken = gpu.taken
        assert taken == 5  # two tensors on either side, and the workspace
        for count in (1, 8, 3, 20, 1, 1):
            backend.run(pictures(count))
        assert gpu.taken == taken


def test_an_engine_without_working_memory_runs(tmp_path: Path, library: Any, gpu: FakeCuda) -> None:
    path = write_engine(tmp_path, FIXED, [profile(FIXED, (1, 1, 1), (32, 48))], workspace=0)
    with TensorRTBackend(path) as backend:
        np.testing.assert_array_equal(backend.run(pictures(2)), described(pictures(2)))
    assert gpu.holds_nothing()


def test_fewer_pictures_than_the_engine_takes_are_no_trouble(tmp_path: Path, library: Any) -> None:
    path = write_engine(tmp_path, FIXED, [profile(FIXED, (4, 4, 4), (32, 48))])
    with TensorRTBackend(path) as backend:
        for count in (1, 3, 4, 6, 6):
            np.testing.assert_array_equal(backend.run(pictures(count)), described(pictures(count)))


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_a_shape_runs_twice_and_is_a_graph_from_then_on(engine: Path, gpu: FakeCuda, library: Any) -> None:
    with TensorRTBackend(engine) as backend:
        for number in range(1, 7):
            seen = pictures(2, seed=number)
            np.testing.assert_array_equal(backend.run(seen), described(seen))
            assert library.engines[0].executions == min(number, 2)
            assert gpu.launches == max(0, number - 2)
        assert library.engines[0].contexts == 1


def test_without_graphs_every_run_is_ordinary(engine: Path, gpu: FakeCuda, library: Any) -> None:
    with TensorRTBackend(engine, graph=False) as backend:
        for _ in range(5):
            backend.run(pictures(2))
    assert (library.engines[0].executions, gpu.launches) == (5, 0)


def test_a_context_is_not_changed_after_a_graph_was_made_with_it(engine: Path, gpu: FakeCuda, library: Any) -> None:
    # FakeContext refuses it; TensorRT would compute something else
    with TensorRTBackend(engine) as backend:
        for count in (1, 1, 2, 2, 1, 2, 3, 1, 3, 3):
            seen = pictures(count, seed=count)
            np.testing.assert_array_equal(backend.run(seen), described(seen))
        assert (len(gpu.graphs), library.engines[0].contexts) == (3, 3)


def test_few_graphs_are_kept_however_many_sizes_come(tmp_path: Path, library: Any, gpu: FakeCuda) -> None:
    path = write_engine(tmp_path, FREE, [profile(FREE, (1, 1, 2), (32, 32), (48, 64), (64, 64))])
    windows = np.array([[0, 0, 2, 2], [1, 1, 3, 3]], np.int32)
    with TensorRTBackend(path) as backend:
        for height in range(32, 65, 2):
            for _ in range(3):
                seen = pictures(1, (height, 64))
                np.testing.assert_array_equal(backend.run(seen, windows), described(seen, windows))
        assert len(gpu.graphs) == 8
    assert gpu.holds_nothing()


def test_the_graph_that_is_used_most_is_not_the_one_that_goes(tmp_path: Path, library: Any, gpu: FakeCuda) -> None:
    path = write_engine(tmp_path, FREE, [profile(FREE, (1, 1, 2), (32, 32), (48, 64), (64, 64))])
    windows = np.zeros((1, 4), np.int32)
    with TensorRTBackend(path) as backend:
        for _ in range(2):
            backend.run(pictures(1, (64, 64)), windows)
        for number, height in enumerate(range(32, 64, 2), 1):
            backend.run(pictures(1, (height, 64)), windows)
            backend.run(pictures(1, (64, 64)), windows)
            assert gpu.launches == number


@pytest.mark.parametrize("fault", ["execute in the capture", "end of the capture"])
def test_a_capture_that_fails_is_noted_and_does_without(
    engine: Path, gpu: FakeCuda, library: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "execute in the capture":
        library.faults.add("capture")
    else:
        gpu.refuses = "end_capture"
    with TensorRTBackend(engine) as backend, caplog.at_level(logging.WARNING):
        for _ in range(5):
            np.testing.assert_array_equal(backend.run(pictures(2)), described(pictures(2)))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "running without CUDA graphs" in caplog.text
    assert gpu.launches == 0
    assert gpu.holds_nothing()


def test_an_engine_that_still_compiles_is_captured_later(engine: Path, gpu: FakeCuda, library: Any) -> None:
    library.faults.add("compiling")
    with TensorRTBackend(engine) as backend:
        for _ in range(6):
            np.testing.assert_array_equal(backend.run(pictures(2)), described(pictures(2)))
    assert (library.engines[0].executions, gpu.launches) == (4, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.booleans())
def test_any_sequence_of_batches_gives_the_same_with_graphs_and_without(
    engine: Path, gpu: FakeCuda, counts: list[int], graph: bool
) -> None:
    with TensorRTBackend(engine, graph=graph) as backend:
        for place, count in enumerate(counts):
            seen = pictures(count, seed=place)
            np.testing.assert_array_equal(backend.run(seen), described(seen))
    assert gpu.holds_nothing()


# --- profiles --------------------------------------------------------------------------------------------------------


def test_the_profile_of_the_pictures_size_is_taken(tmp_path: Path, library: Any) -> None:
    profiles = [profile(TWO_SIZES, (1, 1, 1), (32, 48)), profile(TWO_SIZES, (1, 2, 4), (48, 32))]
    windows = np.array([[0, 0, 2, 2]], np.int32)
    with TensorRTBackend(write_engine(tmp_path, TWO_SIZES, profiles)) as backend:
        for size in ((48, 32), (32, 48), (48, 32), (48, 32), (32, 48)):
            seen = pictures(3, size)
            np.testing.assert_array_equal(backend.run(seen, windows), described(seen, windows))


def test_of_two_profiles_that_fit_the_nearer_is_taken(tmp_path: Path, library: Any) -> None:
    wide = profile(FREE, (1, 1, 2), (32, 32), (64, 64), (64, 64))
    narrow = profile(FREE, (1, 1, 2), (32, 32), (32, 64), (48, 64))
    with TensorRTBackend(write_engine(tmp_path, FREE, [wide, narrow]), graph=False) as backend:
        for size, number in (((32, 64), 1), ((64, 64), 0)):
            backend.run(pictures(1, size), np.zeros((5, 4), np.int32))
            assert backend._session._roaming.active_optimization_profile == number


def test_a_size_that_no_profile_takes_is_refused_with_all_that_are(tmp_path: Path, library: Any) -> None:
    profiles = [profile(TWO_SIZES, (1, 2, 4), (32, 48)), profile(TWO_SIZES, (1, 1, 1), (48, 32))]
    with TensorRTBackend(write_engine(tmp_path, TWO_SIZES, profiles)) as backend:
        sentence = (
            r"images \(1-4, 3, 32, 48\), rois \(1-30, 4\) or images \(1, 3, 48, 32\).*got images \(1, 3, 32, 32\)"
        )
        with pytest.raises(ShapeError, match=sentence):
            backend.run(pictures(1, (32, 32)), np.zeros((1, 4), np.int32))
        with pytest.raises(ShapeError, match=r"rois \(31, 4\)"):
            backend.run(pictures(1), np.zeros((31, 4), np.int32))


@pytest.mark.parametrize(
    "arrays", [(), (np.zeros((1, 3, 32, 32), np.float32),), (np.zeros((1, 3, 32, 48), np.float64),)]
)
def test_arrays_that_are_not_the_models_are_refused(engine: Path, arrays: tuple[np.ndarray, ...]) -> None:
    with TensorRTBackend(engine) as backend, pytest.raises(ShapeError, match="this model takes"):
        backend.run(*arrays)


# --- what fails while it runs ----------------------------------------------------------------------------------------


def test_nan_is_said_and_not_given(engine: Path, library: Any) -> None:
    library.faults.add("nan")
    with TensorRTBackend(engine) as backend, pytest.raises(ModelError, match="gives NaN or infinity"):
        backend.run(pictures(1))


def test_a_run_that_tensorrt_refuses_is_an_error_with_its_words(engine: Path, library: Any) -> None:
    with TensorRTBackend(engine) as backend:
        library.faults.add("execute")
        with pytest.raises(EngineError, match=r"refuses to run \(enqueueV3: it does not work\)"):
            backend.run(pictures(1))
        library.faults.clear()
        np.testing.assert_array_equal(backend.run(pictures(1)), described(pictures(1)))


def test_after_shapes_that_were_refused_the_shapes_before_still_run_right(engine: Path, library: Any) -> None:
    with TensorRTBackend(engine, graph=False) as backend:
        backend.run(pictures(3))
        library.faults.add("shape")
        with pytest.raises(EngineError, match=r"refuses images of shape \(2, 3, 32, 48\)"):
            backend.run(pictures(2))
        library.faults.clear()
        seen = pictures(3, seed=1)
        np.testing.assert_array_equal(backend.run(seen), described(seen))


def test_an_engine_that_would_give_another_number_of_descriptors_is_stopped(engine: Path, library: Any) -> None:
    library.faults.add("output")
    with TensorRTBackend(engine) as backend, pytest.raises(EngineError, match=r"give \(7, 5\) instead of \(2, 5\)"):
        backend.run(pictures(2))


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        ("context", MemoryLimitError, r"cannot start the engine \(it does not say why\): end other programs"),
        ("address", EngineError, "refuses the address of images"),
        ("deserialise", EngineError, r"TensorRT 10\.3\.0 cannot load .*shop\.engine \(Error Code 6: the engine plan"),
        ("runtime", EngineError, "factory function returned nullptr"),
    ],
)
def test_an_engine_that_does_not_start_leaves_nothing_behind(
    engine: Path, gpu: FakeCuda, library: Any, fault: str, kind: type[Exception], sentence: str
) -> None:
    library.faults.add(fault)
    with pytest.raises(kind, match=sentence) as caught:
        TensorRTBackend(engine)
    assert "\n" not in str(caught.value)
    assert gpu.holds_nothing()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inputs": {"images": "uint8"}}, "in images UINT8, out descriptors FLOAT, its card tells of in images FLOAT"),
        ({"inputs": {"images": "float32", "extra": "int32"}}, "in extra INT32"),
        ({"dim": 7}, "gives 7 values, its card tells of 5"),
    ],
)
def test_an_engine_of_another_model_than_its_card_is_refused(
    tmp_path: Path, library: Any, changes: dict[str, Any], sentence: str
) -> None:
    path = write_engine(tmp_path, FIXED, [profile(FIXED, (1, 1, 1), (32, 48))], **changes)
    with pytest.raises(EngineError, match=sentence):
        TensorRTBackend(path)


# --- threads, forks, the end -----------------------------------------------------------------------------------------


def test_threads_share_it_one_at_a_time(engine: Path, gpu: FakeCuda) -> None:
    # FakeCuda refuses a thread without a current context, FakeContext two runs at once
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for _ in range(25):
                np.testing.assert_array_equal(backend.run(pictures(1 + seed, seed=seed)), expected[seed])
        except BaseException as error:
            failures.append(error)

    expected = [described(pictures(1 + seed, seed=seed)) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with TensorRTBackend(engine) as backend:
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert gpu.holds_nothing()


def test_a_fork_of_its_process_is_told_to_open_it_again(engine: Path, gpu: FakeCuda) -> None:
    reading, writing = os.pipe()
    with TensorRTBackend(engine) as backend:
        child = os.fork()
        if not child:
            try:
                backend.run(pictures(1))
                said = "it ran"
            except EngineError as error:
                said = str(error)
            backend.close()
            os.write(writing, f"{said} {gpu.holds_nothing()}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reading, 1000).decode()
        assert "was opened before this process was forked" in said
        assert said.endswith("open the engine in it False")  # closing in the child gave nothing back
        np.testing.assert_array_equal(backend.run(pictures(1)), described(pictures(1)))
    os.close(reading)
    os.close(writing)


def test_closing_gives_back_graphs_then_the_engine_then_memory_then_the_stream(
    engine: Path, gpu: FakeCuda, library: Any
) -> None:
    backend = TensorRTBackend(engine)
    for _ in range(3):
        backend.run(pictures(1))
    library.engines.clear()
    backend.close()
    backend.close()
    order = [event for number, event in enumerate(gpu.events) if event not in gpu.events[:number]]
    assert order == ["free graph", "engine gone", "free", "unpin", "end stream", "close"]
    assert gpu.holds_nothing()
    with pytest.raises(EngineError, match=r"shop\.engine was closed"):
        backend.run(pictures(1))


# --- what is loaded at all -------------------------------------------------------------------------------------------


def test_a_missing_engine_is_named(tmp_path: Path, library: Any) -> None:
    with pytest.raises(ModelError, match=r"no such model: .*gone\.engine"):
        TensorRTBackend(tmp_path / "gone.engine")


@pytest.mark.parametrize("trust", [False, True])
def test_without_its_sidecar_an_engine_is_not_read(engine: Path, library: Any, trust: bool) -> None:
    engine.with_name("shop.engine.json").unlink()
    with pytest.raises(
        EngineError, match=r"no shop\.engine\.json beside it.*build it here with deepir-export"
    ) as caught:
        TensorRTBackend(engine, trust=trust)
    assert caught.value.exit_code == 5
    assert library.events == []


def test_an_engine_with_another_content_is_not_read(engine: Path, library: Any) -> None:
    engine.write_bytes(engine.read_bytes().replace(b"4096", b"4097"))
    with pytest.raises(EngineError, match=r"is not the engine that .*an engine is code: .*deepir-export") as caught:
        TensorRTBackend(engine)
    assert caught.value.exit_code == 5
    assert library.events == []


def test_a_trusted_engine_with_another_content_is_read_with_a_warning(
    engine: Path, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine.write_bytes(engine.read_bytes().replace(b"4096", b"4097"))
    with caplog.at_level(logging.WARNING), TensorRTBackend(engine, trust=True) as backend:
        np.testing.assert_array_equal(backend.run(pictures(2)), described(pictures(2)))
    assert "loaded all the same" in caplog.text


@pytest.mark.parametrize("rebuild", ["never", "auto"])
def test_another_tensorrt_is_named_with_both_versions_before_anything_is_read(
    engine: Path, library: Any, rebuild: Any
) -> None:
    library.__version__ = "10.16.2"
    with pytest.raises(EngineError) as caught:
        TensorRTBackend(engine, rebuild=rebuild)
    assert "built with TensorRT 10.3.0, this machine has 10.16.2" in str(caught.value)
    assert ("deepir-export" if rebuild == "never" else "shop.onnx is not beside it") in str(caught.value)
    assert library.events == []


def test_another_gpu_is_named_with_both(engine: Path, library: Any, gpu: FakeCuda) -> None:
    gpu.capability = "8.6"
    with pytest.raises(
        EngineError, match=r"built for FakeGPU, compute capability 8\.7, this machine has FakeGPU, 8\.6"
    ):
        TensorRTBackend(engine, rebuild="never")


def test_the_plugin_is_registered_before_its_engine_is_read(
    tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_module, "register_plugin", lambda trt: trt.events.append("register"))
    limits = [profile(FIXED, (1, 1, 1), (32, 48))]
    TensorRTBackend(write_engine(tmp_path, FIXED, limits, plugin="python")).close()
    assert library.events == ["register", "deserialise"]
    TensorRTBackend(write_engine(tmp_path, FIXED, limits, plugin="native")).close()
    assert library.events[2:] == ["deserialise"]


def test_without_a_gpu_the_sentence_says_what_is_missing(
    engine: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here() -> FakeCuda:
        message = "a TensorRT engine needs an NVIDIA GPU"
        raise MissingDependency(message)

    monkeypatch.setattr(trt_module, "open_cuda", none_here)
    with pytest.raises(MissingDependency, match="needs an NVIDIA GPU"):
        TensorRTBackend(engine)


# --- building again --------------------------------------------------------------------------------------------------

BUILD = """
import sys, shutil
from pathlib import Path
source = Path(sys.argv[1])
for name in ("shop.engine", "shop.engine.json"):
    shutil.copy(source / name, Path(sys.argv[2]) / name.replace("shop", "fresh"))
sys.stderr.write("building\\n")
"""


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a real child process will write when deepir-export is asked for: the engine in this folder."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    monkeypatch.setattr(
        trt_rebuild, "_command", lambda words: [sys.executable, "-c", BUILD, str(folder), words[words.index("-o") + 1]]
    )
    return folder


def with_onnx(folder: Path) -> dict[str, str]:
    (folder / "shop.onnx").write_bytes(b"onnx")
    return {"onnx_sha256": hashlib.sha256(b"onnx").hexdigest()}


def test_a_stale_engine_is_built_again_where_its_onnx_lies_beside_it(
    tmp_path: Path, library: Any, builder: Path
) -> None:
    limits = [profile(FIXED, (1, 1, 1), (32, 48))]
    old = write_engine(tmp_path, FIXED, limits, **with_onnx(tmp_path))
    stale = old.read_bytes()
    library.__version__ = "10.16.2"
    write_engine(builder, FIXED, limits, workspace=512, tensorrt_version="10.16.2", **with_onnx(tmp_path))
    lines: list[str] = []
    with TensorRTBackend(old, report=lines.append) as backend:
        assert backend.name == "TensorRT 10.16.2, FakeGPU (8.7)"
        np.testing.assert_array_equal(backend.run(pictures(2)), described(pictures(2)))
    assert old.with_name("shop.engine.bak").read_bytes() == stale
    assert lines[0].startswith("building shop.engine again from shop.onnx (it took 212 s")
    assert "building" in lines
    # the next start finds a fresh one
    TensorRTBackend(old, rebuild="never").close()


def test_a_build_that_gives_the_same_stale_engine_is_not_repeated(tmp_path: Path, library: Any, builder: Path) -> None:
    limits = [profile(FIXED, (1, 1, 1), (32, 48))]
    old = write_engine(tmp_path, FIXED, limits, **with_onnx(tmp_path))
    write_engine(builder, FIXED, limits, **with_onnx(tmp_path))
    library.__version__ = "10.16.2"
    with pytest.raises(EngineError, match=r"built with TensorRT 10\.3\.0, this machine has 10\.16\.2: build it again"):
        TensorRTBackend(old)


def test_always_builds_a_fresh_engine_whatever_lies_there(tmp_path: Path, library: Any, builder: Path) -> None:
    limits = [profile(FIXED, (1, 1, 1), (32, 48))]
    old = write_engine(tmp_path, FIXED, limits, **with_onnx(tmp_path))
    old.write_bytes(b"damaged")
    write_engine(builder, FIXED, limits, workspace=512, **with_onnx(tmp_path))
    with TensorRTBackend(old, rebuild="always") as backend:
        np.testing.assert_array_equal(backend.run(pictures(2)), described(pictures(2)))
    assert old.with_name("shop.engine.bak").read_bytes() == b"damaged"


def test_an_engine_that_fits_is_not_built_again(engine: Path, library: Any, builder: Path) -> None:
    TensorRTBackend(engine, rebuild="auto").close()
    assert not engine.with_name("shop.engine.bak").exists()
