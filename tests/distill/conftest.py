"""Weight files of other projects, made up: .caffemodel by hand, checkpoints with a class named like scikit-learn's."""

import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
FACTOR = 999.98
"""Of the BatchNorm layers: Caffe stores sums, this one is usual in published files."""

_NOISE = np.random.default_rng(5).standard_normal(1 << 16).astype(np.float32)


@dataclass
class CaffeLayer:
    """A layer to write."""

    name: str
    type: str
    blobs: Sequence[np.ndarray] = ()
    bottoms: Sequence[str] = ()


def varint(number: int) -> bytes:
    """Seven bits a byte, least first."""
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, *, packed: bool = True, old_shape: bool = False) -> bytes:
    """BlobProto; one float at a time where not packed, num to width where the shape is old."""
    number, wire, dtype = (8, 1, "<f8") if array.dtype == np.float64 else (5, 5, "<f4")
    axes = (1,) * (4 - array.ndim) + array.shape if old_shape else array.shape
    if old_shape:
        shape = b"".join(varint(place << 3) + varint(axis) for place, axis in enumerate(axes, 1))
    else:
        shape = message(7, message(1, b"".join(map(varint, axes))))
    values = array.astype(dtype)
    if packed:
        return shape + message(number, values.tobytes())
    tag = varint(number << 3 | wire)
    return shape + b"".join(tag + value.tobytes() for value in values.ravel())


def layer_message(layer: CaffeLayer, **form: bool) -> bytes:
    """LayerParameter as a field of NetParameter."""
    head = message(1, layer.name.encode()) + message(2, layer.type.encode())
    bottoms = b"".join(message(3, bottom.encode()) for bottom in layer.bottoms)
    return message(100, head + bottoms + b"".join(message(7, blob(array, **form)) for array in layer.blobs))


def write_caffemodel(path: Path, layers: Sequence[CaffeLayer]) -> Path:
    with path.open("wb") as stream:
        stream.write(message(1, b"made up"))
        stream.writelines(layer_message(layer) for layer in layers)
    return path


def noise(*shape: int, scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """Cheap numbers of about that deviation."""
    values = np.resize(_NOISE, int(np.prod(shape))).reshape(shape)
    return values * np.float32(scale) + np.float32(mean)


def convolution(name: str, out: int, into: int, side: int, *, bias: bool = False) -> list[CaffeLayer]:
    """A convolution with its BatchNorm and Scale, named as the Microsoft models name them."""
    rest = "_conv1" if name == "conv1" else name[3:]
    weight = noise(out, into, side, side, scale=(2 / (into * side * side)) ** 0.5)
    norm = [noise(out, scale=0.1 * FACTOR), np.abs(noise(out, scale=0.2, mean=1)) * FACTOR, np.float32([FACTOR])]
    gamma = noise(out, scale=0.1, mean=0.3 if name.endswith("2c") else 1)
    return [
        CaffeLayer(name, "Convolution", [weight, noise(out, scale=0.1)] if bias else [weight]),
        CaffeLayer(f"bn{rest}", "BatchNorm", [blob.astype(np.float32) for blob in norm]),
        CaffeLayer(f"scale{rest}", "Scale", [gamma, noise(out, scale=0.1)]),
    ]


def caffe_resnet(network: str, *, thin: bool = False, bias: bool = False) -> list[CaffeLayer]:
    """The layers of a ResNet; a thin one has a single channel everywhere and is good for its names only."""
    layers = convolution("conv1", 1 if thin else 64, 3, 7, bias=bias)
    into = 1 if thin else 64
    for stage, count in enumerate(BLOCKS[network], 2):
        width = 1 if thin else 32 << (stage - 1)
        out = width if thin else 4 * width
        numbered = count > 6 or (network == "resnet101" and stage == 3)
        for block in range(count):
            letter = f"b{block}" if numbered and block else chr(ord("a") + block)
            name = f"res{stage}{letter}_branch"
            if not block:
                layers += convolution(f"{name}1", out, into, 1)
            layers += convolution(f"{name}2a", width, into, 1)
            layers += convolution(f"{name}2b", width, width, 3)
            layers += convolution(f"{name}2c", out, width, 1)
            into = out
    return layers


def projection(name: str, out: int, into: int, shift: str | None = None) -> list[CaffeLayer]:
    """An InnerProduct, after the Scale layer that centres its input when that has a name."""
    inner = CaffeLayer(name, "InnerProduct", [noise(out, into, scale=0.05), noise(out, scale=0.02)], [shift or ""])
    if shift is None:
        return [inner]
    return [CaffeLayer(shift, "Scale", [noise(into, scale=0.01, mean=1), noise(into, scale=0.01)]), inner]


@pytest.fixture(scope="session")
def caffe() -> SimpleNamespace:
    """The writer of .caffemodel files and of their layers."""
    return SimpleNamespace(
        Layer=CaffeLayer,
        varint=varint,
        message=message,
        layer_message=layer_message,
        write=write_caffemodel,
        convolution=convolution,
        resnet=caffe_resnet,
        projection=projection,
        factor=FACTOR,
    )


@pytest.fixture(scope="session")
def resnet101_caffemodel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The released model's 314 layers with weights, full size (187 MB)."""
    layers = caffe_resnet("resnet101") + projection("pooled_rois/pca", 2048, 2048, "pooled_rois/centered")
    path = write_caffemodel(tmp_path_factory.mktemp("caffe") / "resnet101.caffemodel", layers)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def resnet50_layers() -> list[CaffeLayer]:
    """The ResNet-50 student of 512 values, whose first convolution has a bias."""
    head = projection("pooled_rois/pca_512", 512, 2048, "pooled_rois/centered")
    return caffe_resnet("resnet50", bias=True) + head


@pytest.fixture(scope="session")
def resnet50_caffemodel(resnet50_layers: list[CaffeLayer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_caffemodel(tmp_path_factory.mktemp("caffe") / "resnet50.caffemodel", resnet50_layers)
    yield path
    path.unlink()


@pytest.fixture
def large_path(tmp_path: Path) -> Iterator[Path]:
    """Where to write a .caffemodel that is removed after the test."""
    yield tmp_path / "m.caffemodel"
    (tmp_path / "m.caffemodel").unlink(missing_ok=True)


@contextmanager
def foreign_modules(**classes: str) -> Iterator[dict[str, type]]:
    """Classes in modules of these names for the time of writing a pickle: foreign_modules(PCA="sklearn...pca")."""
    made = {name: type(name, (), {"__module__": module}) for name, module in classes.items()}
    names = {part for module in classes.values() for part in (module, module.rpartition(".")[0])}
    before = {name: sys.modules.get(name) for name in names}
    try:
        for name in names:
            sys.modules[name] = ModuleType(name)
        for name, module in classes.items():
            setattr(sys.modules[module], name, made[name])
        yield made
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


@pytest.fixture
def write_naver() -> Callable[..., Path]:
    """write_naver(path, content, pca={name: attributes}) saves a checkpoint with PCA objects of a class made here."""

    def write(
        path: Path,
        content: dict[str, Any],
        pca: dict[str, dict[str, Any]] | None = None,
        *,
        legacy: bool = False,
        module: str = "sklearn.decomposition.pca",
    ) -> Path:
        with foreign_modules(PCA=module, AverageMeter="utils.watcher") as classes:
            meter = classes["AverageMeter"]()
            meter.vals = [np.float64(0.5)]
            content = {**content, "meters": {"loss": meter}}
            if pca is not None:
                content["pca"] = {name: classes["PCA"]() for name in pca}
                for name, attributes in pca.items():
                    vars(content["pca"][name]).update(attributes)
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        return path

    return write


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """file_size_limit(bytes): within, no file can grow beyond them, as on a full disk."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit
