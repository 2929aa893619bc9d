"""What several rooms test with: pictures of a few made-up things, and a small trained-by-hand model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.spec import Size
from deepir.whitening import Whitening

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
