"""Descriptors of pictures from a torch model, at one or several resolutions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, combine_resolutions
from deepir.distill.checkpoint import Model
from deepir.image import Image, prepare, read_image
from deepir.spec import Size

_T = TypeVar("_T")
_BATCH = 8


def describe(model: Model, images: Sequence[Image]) -> Descriptors:
    """One descriptor of length 1 for each image: (N, D); several resolutions are summed (method.md 2.3)."""
    resolutions = [_at_size(model, images, size) for size in model.spec.sizes]
    return resolutions[0] if len(resolutions) == 1 else combine_resolutions(np.stack(resolutions))


def describe_files(model: Model, paths: Iterable[Path]) -> Iterator[Descriptors]:
    """Descriptors of files, a batch at a time.

    Raises:
        InputError: A file that is missing or not a picture.
    """
    for batch in in_batches(paths, _BATCH):
        yield describe(model, [read_image(path) for path in batch])


def region_vectors(model: Model, images: Sequence[Image]) -> list[NDArray[np.float32]]:
    """For each image its region vectors before whitening at every resolution, (R, C)."""
    network = model.network
    with torch.inference_mode():
        resolutions = [
            [
                regions
                for group in _groups(model, images)
                for regions in network.region_vectors(_tensor(model, group, size))
            ]
            for size in model.spec.sizes
        ]
    return [torch.cat(regions).cpu().numpy() for regions in zip(*resolutions, strict=True)]


def in_batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _at_size(model: Model, images: Sequence[Image], size: Size) -> Descriptors:
    with torch.inference_mode():
        rows = [model.network(_tensor(model, group, size)).cpu().numpy() for group in _groups(model, images)]
    return np.concatenate(rows)


def _groups(model: Model, images: Sequence[Image]) -> list[list[Image]]:
    """Images that can go through together: all, or one by one when they keep their aspect."""
    return [list(images)] if model.spec.resize == "stretch" else [[image] for image in images]


def _tensor(model: Model, images: Sequence[Image], size: Size) -> torch.Tensor:
    prepared = np.concatenate([prepare(image, model.spec, size) for image in images])
    device = next(model.network.parameters()).device
    return torch.from_numpy(prepared).to(device, memory_format=torch.channels_last)
