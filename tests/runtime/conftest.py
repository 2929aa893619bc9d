"""A tiny model that tells colours apart, pictures for it, and an index of them."""

import ctypes
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepir.card import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelCard
from deepir.image import Image
from deepir.runtime import roi_kernel
from deepir.runtime import run as run_module
from deepir.runtime.cli import main as run_main
from deepir.runtime.frame import Frame
from deepir.runtime.index import Index
from deepir.runtime.index_cli import main as index_main
from deepir.runtime.recogniser import Recognition
from deepir.runtime.recording import ImageFiles
from deepir.runtime.result import Result as Answer
from deepir.runtime.vitals import Vitals
from deepir.runtime.vote import Status
from deepir.spec import ModelSpec

SIZE = 32
DIM = 8

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 30),
    "green": (30, 220, 40),
    "blue": (40, 40, 235),
    "yellow": (235, 225, 30),
}


def make_card(weights: str = "a") -> ModelCard:
    spec = ModelSpec(
        backbone="test:conv",
        sizes=((SIZE, SIZE),),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        stride=1,
        channels=DIM,
        dim=DIM,
        weights=weights,
    )
    return ModelCard(spec)


def write_model(path: Path, *, card: ModelCard | None, seed: int = 1, factor: float = 1.0) -> Path:
    """Conv 3 -> 8, global max, L2: a real ONNX file in a few hundred bytes."""
    rng = np.random.default_rng(seed)
    kernel = (factor * rng.normal(size=(DIM, 3, 3, 3))).astype(np.float32)
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalMaxPool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("ReduceL2", ["flat"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "floor"], ["divisor"]),
        helper.make_node("Div", ["flat", "divisor"], [OUTPUT_NAME]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", DIM])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.float32(1e-6), "floor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if card is not None:
        helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.save(model, str(path))
    return path


def picture(colour: str, rng: np.random.Generator, size: tuple[int, int] = (48, 64)) -> Image:
    noise = rng.normal(0, 6, (*size, 3))
    pixels: NDArray[np.uint8] = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return pixels


def texture(seed: int, size: tuple[int, int] = (120, 160)) -> Image:
    """Something with coarse and fine detail, as photographs have; the same for the same seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((*size, 3), np.float32)
    for cells in (3, 6, 12, 24, 48, 96):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        total += cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    pixels: NDArray[np.uint8] = np.clip(128 + 60 * total, 0, 255).astype(np.uint8)
    return pixels


def write_picture(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
    return path


def write_video(path: Path, images: Sequence[Image], fps: float = 10.0) -> Path:
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for image in images:
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path


def unit_rows(rng: np.random.Generator, count: int, dim: int = DIM) -> NDArray[np.float32]:
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="session", name="make_card")
def give_make_card() -> Callable[..., ModelCard]:
    return make_card


@pytest.fixture(scope="session", name="write_model")
def give_write_model() -> Callable[..., Path]:
    return write_model


@pytest.fixture(scope="session", name="picture")
def give_picture() -> Callable[..., Image]:
    return picture


@pytest.fixture(scope="session", name="texture")
def give_texture() -> Callable[..., Image]:
    return texture


@pytest.fixture(scope="session", name="write_picture")
def give_write_picture() -> Callable[[Path, Image], Path]:
    return write_picture


@pytest.fixture(scope="session", name="unit_rows")
def give_unit_rows() -> Callable[..., NDArray[np.float32]]:
    return unit_rows


@pytest.fixture(scope="session", name="write_video")
def give_write_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.onnx", card=make_card())


@pytest.fixture
def catalogue(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "catalogue"
    for colour in COLOURS:
        for number in range(3):
            write_picture(folder / colour / f"{number}.png", picture(colour, rng))
    return folder


Command = Callable[..., Result]


@pytest.fixture
def deepir_run() -> Command:
    return lambda *words: CliRunner().invoke(run_main, [str(word) for word in words])


class NoIndex(Index):
    """Stands for an index that nobody asks."""

    def __init__(self) -> None:
        """Nothing to open."""


def make_answer(number: int = 0, label: str | None = "red", **words: Any) -> Answer:
    """An answer to the frame of this number, captured at so many seconds; a match where it has a label."""
    image = words.get("image", np.full((8, 12, 3), 100, np.uint8))
    frame = Frame(number, image, float(number), None, "camera", 1_800_000_000.0 + number)
    status: Status = words.get("status", "unknown" if label is None else "match")
    recognition = Recognition(status, label, 0.7, 0.1, (("red", 0.7),), {"describe": 1.0}, (label,) if label else ())
    return Answer(frame, recognition, 0.05, NoIndex(), words.get("query_1d"), None, words.get("part"))


@pytest.fixture(scope="session", name="make_answer")
def give_make_answer() -> Callable[..., Answer]:
    return make_answer


class StepByStep(ImageFiles):
    """Frames of one picture, each given when the one before was answered; before some of them something happens."""

    def __init__(self, image: Image, count: int, happens: dict[int, Callable[[], object]]) -> None:
        super().__init__([], "step by step")
        self._image, self._count, self._happens = image, count, happens
        self.answered = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self._count):
            if number:
                assert self.answered.acquire(timeout=120)
            self._happens.get(number, lambda: None)()
            yield Frame(number, self._image, time.monotonic(), None, self.name)


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StepByStep]:
    """step_by_step(image, count, {2: what}) is the source of the next deepir-run, whatever its word."""

    def make(image: Image, count: int, happens: dict[int, Callable[[], object]]) -> StepByStep:
        source = StepByStep(image, count, happens)
        note = Vitals.note

        def noted(vitals: Vitals, answer: Answer) -> None:
            note(vitals, answer)
            source.answered.release()

        monkeypatch.setattr(Vitals, "note", noted)
        monkeypatch.setattr(run_module, "open_source", lambda _text, _patience: source)
        return source

    return make


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs the program openssl to make a certificate")
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test -days 2"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run([openssl, *words.split(), *names], check=True, capture_output=True)
    return made, key


class Repeated:
    """A program that is started again whenever it ends: ffmpeg serves one client only."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._stopped = False
        self._changed = threading.Lock()
        self._serving: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._stopped = False
        self._serving = threading.Thread(target=self._run)
        self._serving.start()

    def send(self, number: int) -> None:
        with self._changed:
            assert self.process is not None
            self.process.send_signal(number)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            if self.process is not None:
                self.process.kill()
        if self._serving is not None:
            self._serving.join(60)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                self.process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.process.wait()


@pytest.fixture
def repeated() -> Iterator[Callable[[list[str]], Repeated]]:
    """repeated(words) is such a program, running."""
    programs: list[Repeated] = []

    def run(words: list[str]) -> Repeated:
        programs.append(Repeated(words))
        programs[-1].start()
        return programs[-1]

    yield run
    for program in programs:
        program.stop()


@pytest.fixture
def deepir_index() -> Command:
    return lambda *words: CliRunner().invoke(index_main, [str(word) for word in words])


@pytest.fixture
def shop(tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command) -> Path:
    path = tmp_path / "shop.usearch"
    result = deepir_index("build", path, catalogue, "--model", model)
    assert result.exit_code == 0, result.output
    return path


FAKE_CUDA = r"""
// A driver without a GPU: it runs the very text of the kernel on the host, warp by warp.
#include <cmath>
#include <cstdlib>
#include <cstring>
#define HOST_EMULATION
#define __device__
#define __global__
#define __forceinline__ inline
struct Index { unsigned x; };
static Index threadIdx, blockIdx, blockDim;

// A lane that needs what another lane has not computed yet stops, and its warp runs again with what is known by then.
struct NotYetKnown {};
static float exchanged[8][32];
static int known, exchanges, lane_now;
static float __shfl_xor_sync(unsigned, float value, int distance)
{
    const int number = exchanges++;
    exchanged[number][lane_now] = value;
    if (number >= known) throw NotYetKnown();
    return exchanged[number][lane_now ^ distance];
}

static float widen(unsigned short bits)
{
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
        : exponent ? std::ldexp(mantissa + 1024.0f, exponent - 25) : std::ldexp((float)mantissa, -24);
    return bits >> 15 ? -size : size;
}
static unsigned short narrow(float value)
{
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return 0x7fff;
    if (std::isinf(value)) return sign | 0x7c00;
    if (value == 0) return sign;
    int exponent;
    const float fraction = std::frexp(std::fabs(value), &exponent);
    const bool small = exponent + 14 <= 0;
    const float mantissa = small ? std::ldexp(std::fabs(value), 24) : fraction * 2048 - 1024;
    if (mantissa != std::floor(mantissa)) std::abort();  // a maximum is never rounded
    return sign | (small ? 0 : (exponent + 14) << 10) | (unsigned short)mantissa;
}

#include "roi_pool.cu"

extern "C" {
int launches, loads, preparations, capability = 87, failure;
const char* failing = "";
void* stream_of_last_launch;
static int answer(const char* name) { return std::strcmp(name, failing) ? 0 : failure; }

int cuInit(unsigned) { return answer("cuInit"); }
int cuCtxGetDevice(int* device) { *device = 0; return answer("cuCtxGetDevice"); }
int cuDeviceGetAttribute(int* value, int attribute, int)
{
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
    return answer("cuDeviceGetAttribute");
}
int cuLibraryLoadData(void** library, const void* code, void*, void*, unsigned, void*, void*, unsigned)
{
    ++loads;
    *library = (void*)0x11;
    return std::memcmp(code, "\x7f" "ELF", 4) ? 200 : answer("cuLibraryLoadData");
}
int cuLibraryGetKernel(void** kernel, void* library, const char* name)
{
    *kernel = (void*)0x22;
    return library != (void*)0x11 || std::strcmp(name, "roi_max_pool") ? 500 : answer("cuLibraryGetKernel");
}
int cuKernelGetFunction(void** function, void* kernel)
{
    ++preparations;
    *function = (void*)0x33;
    return kernel != (void*)0x22 ? 400 : answer("cuKernelGetFunction");
}
int cuGetErrorName(int status, const char** name)
{
    *name = status == 200 ? "CUDA_ERROR_INVALID_IMAGE" : status == 201 ? "CUDA_ERROR_INVALID_CONTEXT" : nullptr;
    return *name ? 0 : 1;
}
int cuLaunchKernel(void* kernel, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned,
    void* stream, void** p, void**)
{
    ++launches;
    stream_of_last_launch = stream;
    if (kernel != (void*)0x22) return 400;
    if (const int status = answer("cuLaunchKernel")) return status;
    int n[11];
    for (int i = 0; i < 11; ++i) n[i] = *(int*)p[i + 2];
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (unsigned warp = 0; warp < threads; warp += 32)
        {
            bool finished = false;
            for (known = 0; !finished; ++known)
            {
                finished = true;
                for (lane_now = 0; lane_now < 32; ++lane_now)
                {
                    threadIdx.x = warp + lane_now;
                    exchanges = 0;
                    try
                    {
                        roi_max_pool(*(void**)p[0], *(int**)p[1], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8],
                            n[9], n[10], *(void**)p[13]);
                    }
                    catch (NotYetKnown) { finished = false; }
                }
            }
        }
    return 0;
}
}
"""


@pytest.fixture(scope="session")
def fake_cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libcuda.so.1 that runs runtime/roi_pool.cu on the host; skips where there is no C++ compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernel for the host")
    folder = tmp_path_factory.mktemp("fake_cuda")
    (folder / "fake_cuda.cpp").write_text(FAKE_CUDA, encoding="utf-8")
    library = folder / "libcuda.so.1"
    kernel = Path(roi_kernel.__file__).parent
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    words = [compiler, "-O1", "-shared", "-fPIC", *warnings, f"-I{kernel}", "fake_cuda.cpp", "-o", str(library)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture
def fake_cuda(fake_cuda_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The fake driver in place of the real one, its counters at zero."""
    monkeypatch.setattr(roi_kernel, "DRIVER", str(fake_cuda_library))
    caches = (roi_kernel.open_driver, roi_kernel._kernel_for)
    for cache in caches:
        cache.cache_clear()
    driver = ctypes.CDLL(str(fake_cuda_library))
    for name, value in {"launches": 0, "loads": 0, "preparations": 0, "capability": 87, "failure": 0}.items():
        ctypes.c_int.in_dll(driver, name).value = value
    ctypes.c_char_p.in_dll(driver, "failing").value = b""
    yield driver
    for cache in caches:
        cache.cache_clear()
