"""Pictures for training: read, varied at random, prepared as everywhere else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

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
        v2 = need("torchvision.transforms.v2")
        steps = [v2.RandomResizedCrop(size, scale=(self.smallest_crop, 1.0), antialias=True)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.perspective > 0:
            steps.append(v2.RandomPerspective(self.perspective, p=0.3))
        if self.light > 0:
            steps.append(v2.ColorJitter(self.light, self.light, self.light))
        if self.blur > 0:
            steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=self.blur))
        transform: Callable[[Tensor], Tensor] = v2.Compose(steps)
        return transform


class Pictures(Dataset[tuple[Tensor, int]]):
    """Prepared pictures (3, H, W), varied at random, each with its number in the list."""

    def __init__(self, paths: Sequence[Path], spec: ModelSpec, augmentation: Augmentation) -> None:
        self._paths = paths
        self._spec = spec
        self._vary = augmentation.transform(spec.size)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image = vary(read_image(self._paths[number]), self._vary)
        return torch.from_numpy(prepare(image, self._spec)[0]), number


def vary(image: Image, transform: Callable[[Tensor], Tensor]) -> Image:
    """Apply a transform of uint8 (3, H, W) tensors to an image (H, W, 3)."""
    varied = transform(torch.from_numpy(image).permute(2, 0, 1))
    return np.ascontiguousarray(varied.permute(1, 2, 0).numpy())
