"""What a network sees in training: numbered sights, read in the order of the batches by worker processes."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepir.errors import DeepIRError, ShapeError
from deepir.optional import need
from deepir.spec import Size


@dataclass(frozen=True, slots=True)
class Batch:
    """The pictures of one step, of all processes together.

    Attributes:
        numbers: Which sights, the same list in every process.
        size: Height and width in pixels; None for the model's own size.
    """

    numbers: tuple[int, ...]
    size: Size | None = None


class Sights(Protocol):
    """What a network sees of numbered pictures; the same arguments give the same tensor in any process."""

    def __len__(self) -> int: ...

    def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
        """A prepared picture (3, H, W), float32; what varies is drawn from (seed, epoch, number) alone."""
        ...


Request = tuple[int, int, Size | None]
"""Number, epoch and size of one sight."""


class SightReader:
    """Reads sights a few requests ahead of whoever uses them.

    Args:
        sights: Pickled for the workers where the system starts them afresh.
        workers: Processes that read; 0 reads in this one.
        pinned: Put the tensors where a GPU fetches them fastest.
    """

    def __init__(self, sights: Sights, *, workers: int, pinned: bool = False) -> None:
        self._plan = _Plan()
        if workers:
            # a process made while OpenCV has threads waits for ever for those it did not inherit; those that read
            # pictures leave the other cores alone in any case
            need("cv2").setNumThreads(1)
        self._loader = DataLoader(
            _Numbered(sights),
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_stack,
            pin_memory=pinned,
            persistent_workers=workers > 0,
            worker_init_fn=_prepare_worker,
            # its own: a loader draws a seed when it begins, which a resumed training does in another step
            generator=torch.Generator(),
        )

    def read(self, requests: Sequence[Sequence[Request]]) -> Iterator[Tensor]:
        """A tensor (N, 3, H, W) for each request, in order.

        Raises:
            InputError: A picture that cannot be read, when its turn comes.
            ShapeError: Pictures of one request that are not of one size.
        """
        self._plan.requests = requests
        for images in self._loader:
            if isinstance(images, DeepIRError):
                raise images
            yield images


class _Plan:
    """The requests of an epoch, as the sampler of a loader that outlives it."""

    def __init__(self) -> None:
        self.requests: Sequence[Sequence[Request]] = ()

    def __iter__(self) -> Iterator[list[Request]]:
        return map(list, self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class _Numbered(Dataset[Tensor | DeepIRError]):
    def __init__(self, sights: Sights) -> None:
        self._sights = sights

    def __getitem__(self, request: Request) -> Tensor | DeepIRError:
        try:
            return self._sights.sight(*request)
        except DeepIRError as error:
            # raised in a worker, it would reach us with the worker's traceback for a message
            return error


def _stack(found: list[Tensor | DeepIRError]) -> Tensor | DeepIRError:
    errors = [one for one in found if isinstance(one, DeepIRError)]
    images = [one for one in found if not isinstance(one, DeepIRError)]
    if errors:
        return errors[0]
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        message = f"the pictures of a batch must have one size, got {shapes[0]} and {shapes[-1]}: use chunks of 1"
        return ShapeError(message)
    return torch.stack(images)


def _prepare_worker(_: int) -> None:
    """Leave Ctrl-C to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
