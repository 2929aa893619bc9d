"""Descriptors of pictures from a torch model, at one or several resolutions."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepir.descriptors import Descriptors, combine_resolutions
from deepir.distill.checkpoint import Model
from deepir.image import Box, Image, prepare
from deepir.reading import read_images
from deepir.spec import Size

_T = TypeVar("_T")
_BATCH = 8

Boxes = Sequence[Box | None]


def describe(model: Model, images: Sequence[Image], boxes: Boxes | None = None) -> Descriptors:
    """One descriptor of length 1 for each image, (N, D), whatever their sizes (method.md 2.3).

    Args:
        model: In evaluation mode.
        images: RGB, uint8 (H, W, 3).
        boxes: The part of each image to describe, x1, y1, x2, y2 in its pixels; None for the whole.
    """
    network = model.network
    resolutions = [_at_size(model, images, boxes, size) for size in model.spec.resolutions]
    combined = resolutions[0]
    if len(resolutions) > 1:
        combined = combine_resolutions(np.stack(resolutions), model.spec.head.combine)
    with torch.inference_mode():
        projected: Descriptors = network.project(torch.from_numpy(combined).to(_device(model))).cpu().numpy()
    return projected


def describe_files(model: Model, paths: Iterable[Path]) -> Iterator[Descriptors]:
    """Descriptors of files, a batch at a time.

    Raises:
        InputError: A file that is missing or not a picture.
    """
    with contextlib.closing(read_images(paths)) as images:
        for batch in in_batches(images, _BATCH):
            yield describe(model, batch)


def region_vectors(model: Model, images: Sequence[Image], branch: int = -1) -> list[NDArray[np.float32]]:
    """For each image what a branch whitens, at every resolution together: (R, C)."""
    module = model.network.branch_list[branch]
    found: list[list[NDArray[np.float32]]] = [[] for _ in images]
    for size in model.spec.resolutions:
        for rows, tensor in _batches(model, images, None, size):
            with torch.inference_mode():
                regions = module.whitening_inputs(model.network.region_vectors(tensor)[branch]).cpu().numpy()
            for row, vectors in zip(rows, regions, strict=True):
                found[row].append(vectors)
    return [np.concatenate(vectors) for vectors in found]


def in_batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _at_size(model: Model, images: Sequence[Image], boxes: Boxes | None, size: Size | None) -> Descriptors:
    descriptors_nd = np.empty((len(images), _resolution_dim(model)), dtype=np.float32)
    for rows, tensor in _batches(model, images, boxes, size):
        with torch.inference_mode():
            regions = model.network.region_vectors(tensor)
            descriptors_nd[rows] = model.network.aggregate(regions).cpu().numpy()
    return descriptors_nd


def _resolution_dim(model: Model) -> int:
    projection = model.network.projection
    return model.network.dim if projection is None else projection.in_features


def _batches(
    model: Model, images: Sequence[Image], boxes: Boxes | None, size: Size | None
) -> Iterator[tuple[list[int], Tensor]]:
    """Images that come out at one size together, with their places in the list."""
    prepared: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = {}
    for row, image in enumerate(images):
        array = prepare(image, model.spec, size, None if boxes is None else boxes[row])
        prepared.setdefault(array.shape, []).append((row, array))
    for group in prepared.values():
        tensor = torch.from_numpy(np.concatenate([array for _, array in group]))
        yield [row for row, _ in group], tensor.to(_device(model), memory_format=torch.channels_last)


def _device(model: Model) -> torch.device:
    return next(model.network.parameters()).device
