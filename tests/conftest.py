"""What several rooms test with: pictures of a few made-up things, and a small trained-by-hand model."""

import functools
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.spec import Size
from deepir.whitening import Whitening

# how long an example took says how busy the machine was
settings.register_profile("deepir", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deepir")

LABELS = ("bread", "milk", "salt", "soap", "tea", "wine")
SIDE = 72


def picture(label: str, view: int) -> np.ndarray:
    """A pattern that belongs to the label, shifted, lit and sprinkled by the view."""
    pattern = np.random.default_rng(LABELS.index(label)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    large = cv2.resize(pattern, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    varied = np.random.default_rng(1000 + view * 7 + LABELS.index(label))
    moved = np.roll(large, varied.integers(-6, 7, 2), axis=(0, 1)).astype(np.float32)
    noisy = moved * varied.uniform(0.8, 1.2) + varied.normal(0, 8, moved.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, views: int) -> Path:
    """`views` pictures of each label as folder/<label>/<view>.png."""
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for view in range(views):
            cv2.imwrite(str(folder / label / f"{view}.png"), picture(label, view)[:, :, ::-1])
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models run in ONNX Runtime unless a test says otherwise: trying programs takes seconds for each new file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPIR_BACKEND", "onnxruntime")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labels with eight pictures each."""
    return write_pictures(tmp_path_factory.mktemp("pictures"), 8)


class TinyTrunk(nn.Module):
    """Four convolutions with batch norm and a residual sum: stride 8, 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.down = nn.MaxPool2d(2)
        self.last = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        skip = self.down(self.middle(self.stem(images)))
        return torch.relu(self.last(skip) + skip)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    """make_model(sizes=..., seed=..., dim=...) gives a model on a TinyTrunk, whitened at random when dim is given."""

    def make(*, sizes: tuple[Size, ...] = ((64, 64),), seed: int = 0, dim: int | None = None) -> Model:
        torch.manual_seed(seed)
        model = new_model(wrap_module("tiny", TinyTrunk()), sizes=sizes)
        if dim is not None:
            rng = np.random.default_rng(seed)
            weight, bias = rng.normal(size=(dim, 12)), rng.normal(scale=0.1, size=dim)
            model.network.whiten_with(Whitening(weight.astype(np.float32), bias.astype(np.float32)))
        model.network.eval()
        return model.sealed()

    return make


class ThreeMaps(nn.Module):
    """Maps of 4, 6 and 10 channels and stride 4 (middle stage 1), 8 (middle stage 2) and 16."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, 1)
            for before, after, stride in zip((3, 4, 6), (4, 6, 10), (4, 2, 2), strict=True)
        )

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        maps = []
        for stage in self.stages:
            images_nchw = stage(images_nchw).relu()
            maps.append(images_nchw)
        # the middle maps come with the deepest first: 3, 2 of a ResNet
        return [*maps[-2 : -2 - self.count : -1], maps[-1]] if self.count else maps[-1]


@pytest.fixture(scope="session")
def staged_trunk() -> Callable[[int], Trunk]:
    """staged_trunk(count) gives the last of three small maps, after `count` of the middle ones, the deepest first."""

    def build(count: int) -> Trunk:
        torch.manual_seed(1)
        return wrap_module("three", ThreeMaps(count))

    return build


TENSORRT_WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.16": "tensorrt-cu12-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}

TENSORRT_STUB = r"""
// What the Python module of TensorRT needs from its libraries in order to be imported; nothing can be built with it.
#include <cstdlib>
static int registered;
// every function of the registry counts the call and says yes
struct FakeRegistry
{
#define YES(n) virtual bool function##n(void*, char const*) { ++registered; return true; }
    YES(0) YES(1) YES(2) YES(3) YES(4) YES(5) YES(6) YES(7) YES(8) YES(9) YES(10) YES(11) YES(12) YES(13) YES(14)
    YES(15) YES(16) YES(17) YES(18) YES(19) YES(20) YES(21) YES(22) YES(23) YES(24) YES(25) YES(26) YES(27) YES(28)
};
static FakeRegistry registry;
extern "C" {
int fake_registrations() { return registered; }
void* getPluginRegistry() { return std::getenv("FAKE_REGISTRY") ? &registry : nullptr; }
#define NOTHING(name) void* name() { return nullptr; }
NOTHING(getBuilderPluginRegistry)
NOTHING(createInferBuilder_INTERNAL)
NOTHING(createInferRefitter_INTERNAL)
NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL)
NOTHING(getNvOnnxParserVersion)
NOTHING(initLibNvInferPlugins)
}
"""


def download_tensorrt_bindings(version: str, folder: Path) -> Path:
    """The real Python module of a TensorRT, importable as tensorrt; skips where the package index cannot be reached."""
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    try:
        done = subprocess.run(
            [*words, TENSORRT_WHEELS[version]], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index does not answer: no {TENSORRT_WHEELS[version]}")
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        pytest.skip(f"cannot download {TENSORRT_WHEELS[version]}: {done.stderr.strip().splitlines()[-1:]}")
    zipfile.ZipFile(wheels[0]).extractall(folder / "packages")
    module = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    (folder / "packages" / "tensorrt.py").write_text(module, encoding="utf-8")
    return folder / "packages"


def build_tensorrt_stubs(major: str, folder: Path) -> Path:
    """Libraries with the names that TensorRT's module wants and nothing inside; skips without a C++ compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build stub libraries of TensorRT")
    if folder.is_dir():
        return folder
    folder.mkdir()
    (folder / "stub.cpp").write_text(TENSORRT_STUB, encoding="utf-8")
    library = folder / f"libnvinfer.so.{major}"
    words = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "stub.cpp", "-o", str(library)]
    subprocess.run(words, cwd=folder, check=True)
    for name in ("nvinfer_plugin", "nvonnxparser"):
        # one library under three names is loaded once, so that there is one counter
        (folder / f"lib{name}.so.{major}").symlink_to(library)
    return folder


@pytest.fixture(scope="session")
def tensorrt_bindings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """tensorrt_bindings("10.3") gives the variables of a process that imports the real module over stub libraries.

    Also "10.16" and "11.4"; with FAKE_REGISTRY set there is a plugin registry that accepts everything.
    """

    @functools.cache
    def packages(version: str, folder: Path) -> Path | str:
        # an index that does not answer is asked once, not by every test
        try:
            return download_tensorrt_bindings(version, folder)
        except pytest.skip.Exception as reason:
            return str(reason)

    root = tmp_path_factory.mktemp("tensorrt")

    def variables(version: str) -> dict[str, str]:
        found = packages(version, root / version)
        if isinstance(found, str):
            pytest.skip(found)
        stubs = build_tensorrt_stubs(version.partition(".")[0], root / version / "stubs")
        return {**os.environ, "PYTHONPATH": str(found), "LD_LIBRARY_PATH": str(stubs)}

    return variables


@pytest.fixture(scope="session")
def rtx_build() -> Callable[..., tuple[bytes, str]]:
    """rtx_build(content, *profiles) gives a plan for compute capability 8.6, and TensorRT-RTX's list of its kernels.

    A profile has the smallest, usual and largest shape of each input; without one, one to four pictures of 64 x 64.
    """
    trt: Any = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[object, str]] = []

        def log(self, severity: object, message: str) -> None:
            self.lines.append((severity, message))

    def build(content: bytes, *profiles: dict[str, list[tuple[int, ...]]]) -> tuple[bytes, str]:
        log = Log()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.parse(content), [str(parser.get_error(number)) for number in range(parser.num_errors)]
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        for shapes in profiles or ({"images": [(batch, 3, 64, 64) for batch in (1, 1, 4)]},):
            profile = builder.create_optimization_profile()
            for name, (smallest, usual, largest) in shapes.items():
                profile.set_shape(name, smallest, usual, largest)
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        assert plan is not None, [line for severity, line in log.lines if severity == trt.ILogger.ERROR]
        return bytes(plan), next(line for _, line in log.lines if line.startswith("Layers:"))

    return build
