"""The shapes an engine is built for: optimisation profiles from the batch, the file's inputs and the model's sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from deepir.card import ModelCard
from deepir.errors import ModelError, OptionError, ShapeError
from deepir.inputs import input_windows
from deepir.spec import Size

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""Smallest, usual and largest shape of an input."""

Profile = dict[str, Range]
Batch = tuple[int, int, int]

_SMALLEST_SIDE = 32
"""Pixels of the smallest picture, or part of one, where pictures keep their aspect; as ModelSpec's own limit."""

_USUAL_ASPECT = 0.75
"""Of photographs: 4 to 3."""

_SIDE_STEP = 16


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles of an engine, and the sizes that its sidecar states.

    Attributes:
        profiles: One; with alternative sizes one for each.
        sizes: (height, width) of each alternative, or of each resolution; smallest, usual and largest of the first
            resolution where pictures keep their aspect.
    """

    profiles: tuple[Profile, ...]
    sizes: tuple[Size, ...]

    def largest_bytes(self, pixel_bytes: int) -> int:
        """The pictures of the largest profile, all resolutions, in bytes."""
        counts = []
        for profile in self.profiles:
            images = [largest for _, _, largest in profile.values() if len(largest) == 4]
            counts.append(sum(math.prod(shape) for shape in images))
        return max(counts) * pixel_bytes


def plan_profiles(proto: Any, card: ModelCard, batch: Batch) -> Profiles:
    """Profiles for an ONNX file.

    Raises:
        ModelError: The file's inputs are not those that its card tells of.
        OptionError: A batch that the file does not take.
    """
    dims = _input_dims(proto)
    if tuple(dims) != card.inputs():
        message = f"the file's inputs are {tuple(dims)}, its card says {card.inputs()}: export the model again"
        raise ModelError(message)
    _check_batch(dims[card.inputs()[0]][0], batch)
    spec = card.spec
    if not card.free_size:
        return Profiles((_profile(card, dims, batch, [spec.sizes] * 3),), spec.sizes)
    if spec.resize == "nearest":
        profiles = (_profile(card, dims, batch, [(size,)] * 3) for size in spec.sizes)
        return Profiles(tuple(profiles), spec.sizes)
    if spec.resize == "stretch":
        return Profiles((_profile(card, dims, batch, [spec.sizes] * 3),), spec.sizes)
    steps = _aspect_steps(spec.sizes)
    return Profiles((_profile(card, dims, batch, steps),), tuple(sizes[0] for sizes in steps))


def _profile(
    card: ModelCard, dims: dict[str, list[int | None]], batch: Batch, steps: Sequence[tuple[Size, ...]]
) -> Profile:
    """One profile: for smallest, usual and largest, the size at each resolution."""
    names = card.inputs()
    count = len(steps[0])
    ranges: Profile = {}
    for position, name in enumerate(names[:count]):
        shapes = tuple(_image_shape(card, number, sizes[position]) for number, sizes in zip(batch, steps, strict=True))
        for shape in shapes:
            _check_shape(name, dims[name], shape)
        ranges[name] = _three(shapes)
    for name, (least, usual, most) in zip(names[count:], _window_counts(card, steps), strict=True):
        ranges[name] = ((least, 4), (usual, 4), (most, 4))
    return ranges


def _image_shape(card: ModelCard, number: int, size: Size) -> Shape:
    return (number, *size, 3) if card.pixels == "uint8" else (number, 3, *size)


def _window_counts(card: ModelCard, steps: Sequence[tuple[Size, ...]]) -> list[tuple[int, int, int]]:
    """For each map of each resolution how many windows there are at least, usually and at most."""
    if not card.free_size:
        return []
    smallest, usual, largest = steps
    candidates = [usual] if smallest == largest else [usual, *_aspects(largest)]
    counts = [found for sizes in candidates if (found := _counts(card, sizes)) is not None]
    usually = _counts(card, usual)
    if usually is None:
        message = f"the model's {card.spec.head.levels} levels do not fit into pictures of {usual}: use larger sizes"
        raise OptionError(message)
    return [(min(some), one, max(some)) for some, one in zip(zip(*counts, strict=True), usually, strict=True)]


def _counts(card: ModelCard, sizes: Sequence[Size]) -> list[int] | None:
    try:
        return [len(windows) for windows in input_windows(card, sizes)]
    except ShapeError:  # a picture so narrow that a level of the grid has no region in it
        return None


def _aspect_steps(sizes: Sequence[Size]) -> list[tuple[Size, ...]]:
    """Smallest, usual and largest sizes, where the longest side of a picture is made max(size)."""
    longest = [max(size) for size in sizes]
    return [
        tuple((_SMALLEST_SIDE, _SMALLEST_SIDE) for _ in longest),
        tuple((max(_SMALLEST_SIDE, round(_USUAL_ASPECT * side)), side) for side in longest),
        tuple((side, side) for side in longest),
    ]


def _aspects(largest: Sequence[Size]) -> list[tuple[Size, ...]]:
    """Pictures from square to the narrowest, at every resolution; upright ones have as many windows."""
    first = largest[0][0]
    shorts = range(_SMALLEST_SIDE, first + 1, _SIDE_STEP)
    return [tuple((max(1, round(short * side / first)), side) for side, _ in largest) for short in (*shorts, first)]


def _input_dims(proto: Any) -> dict[str, list[int | None]]:
    """The file's inputs in order, each with its dimensions; None where one is free."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
        if value.name not in constants
    }


def _check_batch(fixed: int | None, batch: Batch) -> None:
    if any(number < 1 for number in batch) or any(after < before for before, after in pairwise(batch)):
        message = f"--batch needs smallest:usual:largest, 1 or more and not falling, got {batch}"
        raise OptionError(message)
    if fixed is not None and batch != (fixed,) * 3:
        message = f"this file takes exactly {fixed} pictures at once, got --batch {batch}"
        raise OptionError(message)


def _check_shape(name: str, dims: list[int | None], shape: Shape) -> None:
    if len(dims) != len(shape) or any(dim not in (None, side) for dim, side in zip(dims, shape, strict=True)):
        message = f"the file's input {name} is {dims}, its card says {shape}: export the model again"
        raise ModelError(message)


def _three(shapes: Sequence[Shape]) -> Range:
    smallest, usual, largest = shapes
    return smallest, usual, largest
