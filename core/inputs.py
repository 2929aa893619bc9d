"""What a model file takes of pictures: arrays in the order of its inputs, for groups of pictures of one size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.image import Box, Image, prepare, resize
from deepir.regions import Windows, head_windows
from deepir.spec import Size

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InputGroup:
    """Pictures that run together.

    Attributes:
        rows: Their places in the list of pictures.
        arrays: What the file takes, in the order of `ModelCard.inputs`.
    """

    rows: list[int]
    arrays: tuple[Array, ...]


def model_inputs(
    images: Sequence[Image], card: ModelCard, boxes: Sequence[Box | None] | None = None
) -> list[InputGroup]:
    """Pictures as a file's inputs, those that come out at one size together.

    Args:
        images: RGB, uint8 (H, W, 3).
        card: Of the file.
        boxes: The part of each picture to describe; see `deepir.image.resize`.

    Raises:
        ShapeError: Not such pictures, or nothing of one lies in its box.
    """
    groups: dict[tuple[Size, ...], list[tuple[int, list[Array]]]] = {}
    for row, image in enumerate(images):
        arrays = [_one(image, card, size, None if boxes is None else boxes[row]) for size in card.spec.resolutions]
        groups.setdefault(tuple(_size(array, card) for array in arrays), []).append((row, arrays))
    return [_join(members, sizes, card) for sizes, members in groups.items()]


def input_windows(card: ModelCard, sizes: Sequence[Size]) -> list[Windows]:
    """The windows that a file of free size takes for pictures of these (height, width), one for each resolution.

    A grid on the map itself needs the map's size: one cell for each stride begun. Windows of the other grids may end
    beyond the map, where the pooling stops; so a trunk whose map is a cell larger loses nothing.
    """
    head = card.spec.head
    beyond = int(head.levels == 0 or head.grid == "image")
    return [
        head_windows(head, size, (-(-size[0] // stride) + beyond, -(-size[1] // stride) + beyond), stride)
        for size in sizes
        for stride in card.strides
    ]


def _one(image: Image, card: ModelCard, size: Size | None, box: Box | None) -> Array:
    if card.pixels == "uint8":
        return resize(image, card.spec, size, box)[None]
    return prepare(image, card.spec, size, box)


def _size(array: Array, card: ModelCard) -> Size:
    height, width = array.shape[1:3] if card.pixels == "uint8" else array.shape[2:4]
    return int(height), int(width)


def _join(members: list[tuple[int, list[Array]]], sizes: tuple[Size, ...], card: ModelCard) -> InputGroup:
    columns = zip(*(arrays for _, arrays in members), strict=True)
    # one picture, as of a camera, needs no copy
    joined = [column[0] if len(column) == 1 else np.concatenate(column) for column in columns]
    return InputGroup([row for row, _ in members], (*joined, *input_windows(card, sizes)))
