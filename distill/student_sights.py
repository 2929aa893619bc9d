"""What a student sees of each view: at its size, varied; views of one shape share a batch."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deepir.distill.pictures import Augmentation, drawing, vary
from deepir.distill.trainer import Batch
from deepir.distill.views import View, hash_pictures, read_views
from deepir.image import prepare, resize
from deepir.spec import ModelSpec, Size

_SIDE_STEP = 32
_SMALLEST_SIDE = 64


class StudentSights:
    """The sights of views for the trainer; what varies depends on (seed, epoch, number) alone.

    Pictures that keep their aspect come in many shapes: those of about the same are stretched to one, so that they
    can share a batch. The stretch is 16 pixels at most.
    """

    def __init__(self, views: Sequence[View], spec: ModelSpec, augmentation: Augmentation, seed: int) -> None:
        self._views = views
        self._seed = seed
        self._augmentation = augmentation
        # the shape was chosen already
        self._spec = replace(spec, resize="stretch")
        self._shapes = _shapes(views, spec)

    def __len__(self) -> int:
        return len(self._views)

    def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
        """A view (3, H, W), varied and prepared.

        Raises:
            InputError: The picture cannot be read.
        """
        image, size = self._views[number].read(), size or self._shapes[number]
        if self._augmentation.smallest_crop == 1:
            image = resize(image, self._spec, size)
        with drawing(self._seed, epoch, number):
            image = vary(image, self._augmentation.transform(size))
        return torch.from_numpy(prepare(image, self._spec, size)[0])

    def plain(self, numbers: Sequence[int]) -> Tensor:
        """Views of one shape as they are, (N, 3, H, W)."""
        images = [prepare(self._views[number].read(), self._spec, self._shapes[number]) for number in numbers]
        return torch.from_numpy(np.concatenate(images))

    def in_shapes(self, numbers: Sequence[int], most: int) -> list[list[int]]:
        """The numbers in lists of at most `most`, each of one shape."""
        groups: dict[Size, list[int]] = defaultdict(list)
        for number in numbers:
            groups[self._shapes[number]].append(number)
        return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]

    def batches(self, numbers: Sequence[int], batch: int, jitter: tuple[float, float]) -> Callable[[int], list[Batch]]:
        """The batches of an epoch: in random order, each of one shape and at one of the sizes that jitter allows.

        What is left of a shape after whole batches is left out for this epoch if it is less than half a batch.
        """

        def of_epoch(epoch: int) -> list[Batch]:
            generator = np.random.default_rng([self._seed, epoch])
            lists = self.in_shapes(generator.permutation(np.asarray(numbers)).tolist(), batch)
            whole = [group for group in lists if 2 * len(group) >= batch] or lists
            return [
                Batch(tuple(whole[place]), _jittered(self._shapes[whole[place][0]], jitter, generator))
                for place in generator.permutation(len(whole))
            ]

        return of_epoch


def _shapes(views: Sequence[View], spec: ModelSpec) -> list[Size]:
    """The student's size of each view."""
    if spec.resize == "stretch":
        return [spec.size] * len(views)
    images = read_views(views, hash_pictures(view.path for view in views))
    if spec.resize == "nearest":
        return [_nearest(image.shape, spec.sizes) for image in images]
    longest = max(spec.size)
    return [
        (_stepped(longest * min(1, height / width)), _stepped(longest * min(1, width / height)))
        for height, width in (image.shape[:2] for image in images)
    ]


def _nearest(shape: tuple[int, ...], sizes: Sequence[Size]) -> Size:
    aspect = math.log(shape[1] / shape[0])
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0]) - aspect))


def _jittered(shape: Size, jitter: tuple[float, float], generator: np.random.Generator) -> Size:
    if jitter == (1.0, 1.0):
        return shape
    factor = generator.uniform(*jitter)
    return _stepped(shape[0] * factor), _stepped(shape[1] * factor)


def _stepped(side: float) -> int:
    return max(_SMALLEST_SIDE, _SIDE_STEP * round(side / _SIDE_STEP))
