"""Pictures for training: read, varied at random, prepared as everywhere else."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepir.errors import OptionError
from deepir.image import Image, prepare, read_image
from deepir.optional import need
from deepir.spec import ModelSpec, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How a training picture varies from one sight to the next.

    Attributes:
        smallest_crop: Least share of the picture's area that a crop keeps, 0..1; 1 crops nothing.
        flip: Mirror half of the pictures; wrong for goods with text on them.
        light: Largest relative change of brightness, contrast and saturation.
        perspective: Largest displacement of a corner, as a share of half the side.
        blur: Share of the pictures that are blurred.
    """

    smallest_crop: float = 0.3
    flip: bool = False
    light: float = 0.4
    perspective: float = 0.2
    blur: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.smallest_crop <= 1:
            message = f"smallest_crop must be above 0 and at most 1, got {self.smallest_crop}"
            raise OptionError(message)

    def transform(self, size: Size) -> Callable[[Tensor], Tensor]:
        """A torchvision transform of uint8 (3, H, W) to uint8 (3, *size)."""
        return _transform(self, size)


@dataclass(frozen=True, slots=True)
class PictureSights:
    """The sights of picture files, each varied anew in every epoch.

    Attributes:
        paths: Picture k is paths[k].
        spec: How they are prepared, and their size where a batch has none of its own.
        augmentation: How they vary.
        seed: What is drawn depends on it, the epoch and the picture's number.
    """

    paths: Sequence[Path]
    spec: ModelSpec
    augmentation: Augmentation
    seed: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
        """The picture as the network sees it in this epoch, (3, H, W).

        Raises:
            InputError: It is missing or not a picture.
        """
        image = read_image(self.paths[number])
        with drawing(self.seed, epoch, number):
            return see(image, self.spec, self.augmentation, size)


def see(image: Image, spec: ModelSpec, augmentation: Augmentation, size: Size | None = None) -> Tensor:
    """An image varied with torch's generator and prepared, (3, H, W) at `size`, by default the model's."""
    size = size or spec.size
    return torch.from_numpy(prepare(vary(image, augmentation.transform(size)), spec, size)[0])


@contextmanager
def drawing(*numbers: int) -> Iterator[None]:
    """What torch draws within depends on these numbers alone, and what it draws afterwards is as if nothing was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        yield


def vary(image: Image, transform: Callable[[Tensor], Tensor]) -> Image:
    """Apply a transform of uint8 (3, H, W) tensors to an image (H, W, 3)."""
    varied = transform(torch.from_numpy(image).permute(2, 0, 1))
    return np.ascontiguousarray(varied.permute(1, 2, 0).numpy())


def set_training(network: nn.Module, *, freeze_norm: bool) -> None:
    """Training mode; batch norm stays in evaluation mode when its statistics are frozen."""
    network.train()
    if freeze_norm:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


@functools.cache
def _transform(augmentation: Augmentation, size: Size) -> Callable[[Tensor], Tensor]:
    v2 = need("torchvision.transforms.v2")
    steps = [v2.RandomResizedCrop(size, scale=(augmentation.smallest_crop, 1.0), antialias=True)]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.perspective > 0:
        steps.append(v2.RandomPerspective(augmentation.perspective, p=0.3))
    if augmentation.light > 0:
        steps.append(v2.ColorJitter(augmentation.light, augmentation.light, augmentation.light))
    if augmentation.blur > 0:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=augmentation.blur))
    transform: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return transform
