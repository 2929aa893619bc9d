"""The pooling kernel: compiled for every GPU we name, and bit-equal to the numpy reference in each type and layout."""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.errors import EngineError, MissingDependency
from deepir.pooling import roi_pool
from deepir.regions import image_regions, region_windows
from deepir.runtime import roi_cubin, roi_kernel
from deepir.runtime.cuda import Cuda, open_cuda
from deepir.runtime.roi_cubin import compile_cubin, find_compiler, kernel_source
from deepir.runtime.roi_kernel import PoolCall, RoiKernel, kernel_of_current_gpu

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "rmac_image_grid.json").read_text())
CAPABILITIES = (75, 80, 86, 87, 89, 90, 110, 120)
LOOKS_LIKE_A_CUBIN = b"\x7fELF and nothing more"

Map = NDArray[np.float32] | NDArray[np.float16]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "deepir" / "kernels"


@pytest.fixture
def nvrtc() -> None:
    try:
        find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))


def refuse_in(fake_cuda: ctypes.CDLL, call: bytes, status: int) -> None:
    ctypes.c_char_p.in_dll(fake_cuda, "failing").value = call
    ctypes.c_int.in_dll(fake_cuda, "failure").value = status


def random_map(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> Map:
    cells = rng.normal(0, 3, shape).astype(dtype)
    # maps come out of a ReLU: many zeros, and some cells beyond what is usual
    cells[cells < -1] = 0
    return cells


def strides_of(map_nchw: Map) -> tuple[int, int, int, int]:
    batch, channels, rows, columns = (stride // map_nchw.itemsize for stride in map_nchw.strides)
    return batch, channels, rows, columns


def laid_out(map_nchw: Map, layout: str) -> Map:
    """The same values with other strides: channels last, or the inner part of a larger array."""
    if layout == "NHWC":
        return np.ascontiguousarray(map_nchw.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "padded":
        return np.pad(map_nchw, ((0, 0), (0, 0), (1, 1), (0, 3)))[:, :, 1:-1, : map_nchw.shape[3]]
    return np.ascontiguousarray(map_nchw)


def pool_by_kernel(map_nchw: Map, windows: NDArray[np.int32]) -> Map:
    """What the launched kernel writes, on the driver that is in place."""
    windows = np.ascontiguousarray(windows, dtype=np.int32)
    call = PoolCall(
        shape=map_nchw.shape,
        strides=strides_of(map_nchw),
        regions=len(windows),
        half=map_nchw.dtype == np.float16,
    )
    result = np.full((map_nchw.shape[0], len(windows), map_nchw.shape[1]), 77, dtype=map_nchw.dtype)
    pointers = (map_nchw.ctypes.data, windows.ctypes.data, result.ctypes.data)
    RoiKernel(LOOKS_LIKE_A_CUBIN).launch(call, pointers, 5)
    return result


def pool_by_numpy(map_nchw: Map, windows: NDArray[np.int32]) -> Map:
    height, width = map_nchw.shape[2:]
    clipped = np.clip(windows, 0, [height, width, height, width])
    return roi_pool(map_nchw, clipped)


def assert_same_bits(given_map: Map, expected: Map) -> None:
    assert given_map.dtype == expected.dtype
    np.testing.assert_array_equal(given_map, expected)
    np.testing.assert_array_equal(np.signbit(given_map), np.signbit(expected))


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("sm", CAPABILITIES)
def test_the_kernel_compiles_for_a_gpu_and_the_code_is_for_that_gpu(sm: int) -> None:
    cubin = compile_cubin(sm)
    # the flags of an ELF file for CUDA name the architecture; their layout changed with version 8 of the format
    flags = int.from_bytes(cubin[48:52], "little")
    assert cubin[:4] == b"\x7fELF"
    assert int.from_bytes(cubin[18:20], "little") == 190
    assert (flags >> 8 if cubin[8] >= 8 else flags) & 0xFF == sm
    assert b"roi_max_pool" in cubin


@pytest.mark.usefixtures("nvrtc")
def test_a_gpu_that_the_compiler_does_not_know_is_refused_with_those_it_knows() -> None:
    with pytest.raises(EngineError, match=r"sm_.*87.*not for this one of sm_20.*--pool native"):
        compile_cubin(20)


@pytest.mark.usefixtures("nvrtc")
def test_text_that_does_not_compile_gives_the_compilers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_cubin, "kernel_source", lambda: "this is no CUDA")
    with pytest.raises(EngineError, match=r"sm_87 \(.*error.*\): use --pool native"):
        compile_cubin(87)


def test_the_kernel_includes_nothing() -> None:
    assert "#include" not in kernel_source()


class CountingCompiler:
    """Stands for NVRTC where only the cache is looked at."""

    def __init__(self, name: str = "NVRTC 12.6") -> None:
        self.name = name
        self.compiled: list[int] = []

    def compile(self, _source: str, sm: int) -> bytes:
        self.compiled.append(sm)
        return LOOKS_LIKE_A_CUBIN + bytes([sm])


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> CountingCompiler:
    counting = CountingCompiler()
    monkeypatch.setattr(roi_cubin, "find_compiler", lambda: counting)
    return counting


def test_a_kernel_is_compiled_once_for_each_gpu(compiler: CountingCompiler, own_cache: Path) -> None:
    assert [compile_cubin(sm)[-1] for sm in (87, 87, 86, 87)] == [87, 87, 86, 87]
    assert compiler.compiled == [87, 86]
    assert len(list(own_cache.iterdir())) == 2


def test_another_compiler_or_another_source_compiles_again(
    compiler: CountingCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_cubin(87)
    compiler.name = "NVRTC 13.0"
    compile_cubin(87)
    monkeypatch.setattr(roi_cubin, "kernel_source", lambda: "another text")
    compile_cubin(87)
    assert compiler.compiled == [87, 87, 87]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content[:-1] + b"?",
        lambda content: b"\0" * len(content),
        lambda content: LOOKS_LIKE_A_CUBIN,
    ],
)
def test_a_damaged_cubin_is_compiled_again(
    compiler: CountingCompiler, own_cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    compile_cubin(87)
    (kept,) = own_cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert compile_cubin(87) == LOOKS_LIKE_A_CUBIN + bytes([87])
    assert compiler.compiled == [87, 87]
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_changes_nothing(compiler: CountingCompiler, own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("a file where the folder should be")
    assert compile_cubin(87) == compile_cubin(87)
    assert compiler.compiled == [87, 87]


def test_a_user_without_a_home_compiles_each_time(compiler: CountingCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_cubin, "cache_folder", lambda: None)
    compile_cubin(87)
    compile_cubin(87)
    assert compiler.compiled == [87, 87]


def test_an_answer_that_is_no_machine_code_is_refused_and_not_kept(
    compiler: CountingCompiler, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "compile", lambda source, sm: b"")
    with pytest.raises(EngineError, match=r"NVRTC 12.6 gave no machine code for sm_87"):
        compile_cubin(87)
    assert not own_cache.exists()


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_a_compiler_the_sentence_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "cuda.bindings.nvrtc", "pycuda", "pycuda.compiler")
    with pytest.raises(MissingDependency, match=r"cuda-python.*pycuda.*pip install cuda-python.*--pool native"):
        find_compiler()


def test_cuda_python_without_its_library_is_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> None:
        message = "Failed to dlopen libnvrtc.so.12"
        raise RuntimeError(message)

    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", SimpleNamespace(nvrtcVersion=no_library))
    hide(monkeypatch, "pycuda", "pycuda.compiler")
    with pytest.raises(MissingDependency, match=r"libnvrtc\.so\.12"):
        find_compiler()


def fake_pycuda(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    module = ModuleType("pycuda.compiler")
    vars(module).update(functions)
    hide(monkeypatch, "cuda.bindings.nvrtc")
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.compiler", module)


def test_pycuda_compiles_where_cuda_python_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def compile_source(source: str, **options: object) -> bytes:
        asked.update(options, source=source)
        return LOOKS_LIKE_A_CUBIN

    fake_pycuda(monkeypatch, get_nvcc_version=lambda nvcc: "nvcc\nBuild 12.6\n", compile=compile_source)
    assert find_compiler().name == "nvcc Build 12.6"
    assert compile_cubin(87) == LOOKS_LIKE_A_CUBIN
    assert asked == {"source": kernel_source(), "arch": "sm_87", "no_extern_c": True, "cache_dir": False}


def test_pycuda_without_nvcc_is_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_nvcc(nvcc: str) -> str:
        message = "error invoking 'nvcc --version'"
        raise OSError(message)

    fake_pycuda(monkeypatch, get_nvcc_version=no_nvcc)
    with pytest.raises(MissingDependency, match="error invoking 'nvcc"):
        find_compiler()


def test_what_pycuda_cannot_compile_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, **options: object) -> bytes:
        message = "nvcc compilation of x failed\n\nunsupported gpu"
        raise RuntimeError(message)

    fake_pycuda(monkeypatch, get_nvcc_version=lambda nvcc: "", compile=refuse)
    with pytest.raises(EngineError, match=r"sm_87 .nvcc compilation of x failed unsupported gpu.: use --pool native"):
        compile_cubin(87)


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "padded"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_golden_grid_has_the_bits_of_numpy(dtype: type, layout: str, rng: np.random.Generator) -> None:
    for case in GOLDEN:
        height, width = case["torch_fm"]
        regions = image_regions(case["H"], case["W"], case["L"])
        windows = region_windows(regions, height, width, 32)
        map_nchw = random_map(rng, (2, 5, height, width), dtype)
        pooled = pool_by_kernel(laid_out(map_nchw, layout), windows)
        assert_same_bits(pooled, pool_by_numpy(map_nchw, windows))


corners = st.integers(-3, 12) | st.sampled_from([-(2**31), 2**31 - 1])


@pytest.mark.usefixtures("fake_cuda")
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    rows=st.lists(st.tuples(corners, corners, corners, corners), min_size=1, max_size=5),
    layout=st.sampled_from(["NCHW", "NHWC", "padded"]),
    dtype=st.sampled_from([np.float32, np.float16]),
    seed=st.integers(0, 99),
)
def test_any_window_empty_reversed_or_outside_has_the_bits_of_numpy(
    shape: tuple[int, int, int, int],
    rows: list[tuple[int, int, int, int]],
    layout: str,
    dtype: type,
    seed: int,
) -> None:
    map_nchw = random_map(np.random.default_rng(seed), shape, dtype)
    windows = np.array(rows, dtype=np.int32)
    assert_same_bits(pool_by_kernel(laid_out(map_nchw, layout), windows), pool_by_numpy(map_nchw, windows))


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_do_as_in_numpy(special: float, dtype: type, layout: str, rng: np.random.Generator) -> None:
    map_nchw = -np.abs(random_map(rng, (1, 40, 6, 7), dtype)) - 1
    for channel in range(40):
        map_nchw[0, channel].flat[channel] = special
    windows = np.array([[0, 0, 6, 7], [1, 2, 4, 5], [5, 4, 6, 6]], dtype=np.int32)
    pooled = pool_by_kernel(laid_out(map_nchw, layout), windows)
    np.testing.assert_array_equal(pooled, pool_by_numpy(map_nchw, windows))


@pytest.mark.usefixtures("fake_cuda")
def test_every_number_of_sixteen_bits_comes_through_unchanged() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    numbers = bits[np.isfinite(bits.view(np.float16))]
    map_nchw = numbers.view(np.float16).reshape(1, -1, 1, 1)
    pooled = pool_by_kernel(map_nchw, np.array([[0, 0, 1, 1]], dtype=np.int32))
    np.testing.assert_array_equal(pooled.view(np.uint16).ravel(), numbers)


@pytest.mark.parametrize(
    ("layout", "dtype", "lanes"),
    [("NCHW", np.float32, 8), ("NCHW", np.float16, 16), ("NHWC", np.float32, 1), ("NHWC", np.float16, 1)],
)
def test_neighbouring_threads_read_neighbouring_cells(layout: str, dtype: type, lanes: int) -> None:
    strides = strides_of(laid_out(np.zeros((1, 4, 5, 6), dtype), layout))
    call = PoolCall(shape=(1, 4, 5, 6), strides=strides, regions=1, half=dtype == np.float16)
    assert call.lanes == lanes


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 0, 5, 6)])
def test_nothing_to_compute_launches_nothing(fake_cuda: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    RoiKernel(LOOKS_LIKE_A_CUBIN).launch(PoolCall.packed(shape, 3, half=False), (0, 0, 0), 0)
    RoiKernel(LOOKS_LIKE_A_CUBIN).launch(PoolCall.packed((1, 1, 1, 1), 0, half=False), (0, 0, 0), 0)
    assert ctypes.c_int.in_dll(fake_cuda, "launches").value == 0


@pytest.mark.usefixtures("fake_cuda")
def test_a_map_without_cells_gives_zeros() -> None:
    empty = np.zeros((2, 3, 0, 4), dtype=np.float32)
    assert pool_by_kernel(empty, np.array([[0, 0, 1, 1]], dtype=np.int32)).tolist() == np.zeros((2, 1, 3)).tolist()


@pytest.mark.parametrize(("shape", "regions"), [((64, 2048, 4, 4), 5000), ((1, 2048, 1024, 1025), 1)])
def test_more_than_the_gpu_can_count_is_refused(fake_cuda: ctypes.CDLL, shape: tuple[int, ...], regions: int) -> None:
    refuse_in(fake_cuda, b"cuLaunchKernel", 1)
    with pytest.raises(EngineError, match=rf"{regions} windows of a map .* use a smaller batch"):
        RoiKernel(LOOKS_LIKE_A_CUBIN).launch(PoolCall.packed(shape, regions, half=True), (0, 0, 0), 0)


def test_a_launch_that_is_refused_is_one_sentence(fake_cuda: ctypes.CDLL) -> None:
    refuse_in(fake_cuda, b"cuLaunchKernel", 700)
    with pytest.raises(EngineError, match="cuLaunchKernel fails with error 700"):
        RoiKernel(LOOKS_LIKE_A_CUBIN).launch(PoolCall.packed((1, 1, 1, 1), 1, half=True), (0, 0, 0), 0)


def test_the_launch_goes_to_the_callers_stream(fake_cuda: ctypes.CDLL, rng: np.random.Generator) -> None:
    pool_by_kernel(random_map(rng, (1, 2, 3, 4), np.float32), np.array([[0, 0, 3, 4]], dtype=np.int32))
    assert ctypes.c_void_p.in_dll(fake_cuda, "stream_of_last_launch").value == 5


def test_one_process_loads_the_kernel_once_for_each_kind_of_gpu(
    fake_cuda: ctypes.CDLL, compiler: CountingCompiler
) -> None:
    first = kernel_of_current_gpu()
    assert kernel_of_current_gpu() is first
    ctypes.c_int.in_dll(fake_cuda, "capability").value = 120
    assert kernel_of_current_gpu() is not first
    assert compiler.compiled == [87, 120]
    assert ctypes.c_int.in_dll(fake_cuda, "loads").value == 2


@pytest.mark.parametrize(
    ("failing", "status", "words"),
    [
        (b"cuInit", 100, "cuInit fails with error 100"),
        (b"cuCtxGetDevice", 201, "cuCtxGetDevice fails with CUDA_ERROR_INVALID_CONTEXT"),
        (b"cuLibraryLoadData", 209, "cuLibraryLoadData fails with error 209"),
        (b"cuKernelGetFunction", 201, "cuKernelGetFunction fails with CUDA_ERROR_INVALID_CONTEXT"),
    ],
)
@pytest.mark.usefixtures("compiler")
def test_what_the_driver_refuses_is_one_sentence(
    fake_cuda: ctypes.CDLL, failing: bytes, status: int, words: str
) -> None:
    refuse_in(fake_cuda, failing, status)
    with pytest.raises(EngineError, match=f"{words}; use --pool native"):
        kernel_of_current_gpu().prepare()


@pytest.mark.usefixtures("fake_cuda")
def test_code_that_is_no_cubin_is_refused() -> None:
    with pytest.raises(EngineError, match="cuLibraryLoadData fails with CUDA_ERROR_INVALID_IMAGE"):
        RoiKernel(b"no machine code at all")


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_kernel, "open_driver", lambda: ctypes.CDLL(None))
    with pytest.raises(EngineError, match=r"older than CUDA 12 .it lacks cuLibraryLoadData.: update it"):
        RoiKernel(LOOKS_LIKE_A_CUBIN)


def test_without_a_driver_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_kernel, "DRIVER", "libcuda_that_is_not_there.so.1")
    roi_kernel.open_driver.cache_clear()
    with pytest.raises(MissingDependency, match="no NVIDIA driver on this machine"):
        kernel_of_current_gpu()


@pytest.fixture
def gpu() -> Iterator[Cuda]:
    try:
        cuda = open_cuda()
        with cuda.current():
            yield cuda
    except MissingDependency as error:
        pytest.skip(str(error))


class OnGpu:
    """A map, its windows and room for the result in the memory of a GPU."""

    def __init__(self, gpu: Cuda, map_nchw: Map, windows: NDArray[np.int32]) -> None:
        self.gpu, self.stream = gpu, gpu.stream()
        self.call = PoolCall(
            shape=map_nchw.shape, strides=strides_of(map_nchw), regions=len(windows), half=map_nchw.dtype == np.float16
        )
        self.result = np.full((map_nchw.shape[0], len(windows), map_nchw.shape[1]), 77, dtype=map_nchw.dtype)
        sizes = (map_nchw.nbytes, windows.nbytes, self.result.nbytes)
        self.pointers = tuple(gpu.allocate(size) for size in sizes)
        self.write(map_nchw)
        gpu.upload(self.pointers[1], np.ascontiguousarray(windows), self.stream)
        gpu.upload(self.pointers[2], self.result, self.stream)

    def write(self, map_nchw: Map) -> None:
        """The map as it lies in memory."""
        order = np.argsort([-stride for stride in map_nchw.strides], kind="stable")
        self.gpu.upload(self.pointers[0], np.ascontiguousarray(map_nchw.transpose(order)), self.stream)
        self.gpu.synchronise(self.stream)

    def read(self) -> Map:
        self.gpu.download(self.result, self.pointers[2], self.stream)
        self.gpu.synchronise(self.stream)
        return self.result.copy()

    def free(self) -> None:
        for pointer in self.pointers:
            self.gpu.free(pointer)
        self.gpu.end_stream(self.stream)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_gpu_gives_the_bits_of_numpy(gpu: Cuda, dtype: type, layout: str, rng: np.random.Generator) -> None:
    kernel = kernel_of_current_gpu()
    for height, width in ((16, 16), (12, 16), (7, 7), (31, 23), (1, 5), (5, 1)):
        map_nchw = random_map(rng, (3, 130, height, width), dtype)
        map_nchw[0, 1, height // 2, width // 2] = np.nan
        windows = rng.integers(-2, max(height, width) + 3, (40, 4)).astype(np.int32)
        there = OnGpu(gpu, laid_out(map_nchw, layout), windows)
        kernel.launch(there.call, there.pointers, there.stream)
        pooled = there.read()
        there.free()
        assert_same_bits(np.nan_to_num(pooled, nan=-1), np.nan_to_num(pool_by_numpy(map_nchw, windows), nan=-1))


@pytest.mark.gpu
def test_a_cuda_graph_replays_the_kernel_on_new_maps(gpu: Cuda, rng: np.random.Generator) -> None:
    windows = region_windows(image_regions(512, 512, 3), 16, 16, 32)
    first, second = (random_map(rng, (2, 64, 16, 16), np.float32) for _ in range(2))
    there, kernel = OnGpu(gpu, first, windows), kernel_of_current_gpu()
    kernel.prepare()
    gpu.begin_capture(there.stream)
    kernel.launch(there.call, there.pointers, there.stream)
    graph = gpu.end_capture(there.stream)
    for map_nchw in (first, second):
        there.write(map_nchw)
        gpu.launch(graph, there.stream)
        assert_same_bits(there.read(), pool_by_numpy(map_nchw, windows))
    gpu.free_graph(graph)
    there.free()
