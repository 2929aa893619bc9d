"""What an engine takes and gives: tensors checked against the card, profiles, and the profile for given arrays."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deepir.card import OUTPUT_NAME, REGIONS_INPUT, ModelCard
from deepir.errors import EngineError, ShapeError

Shape = tuple[int, ...]

_DTYPES = {"float32": "FLOAT", "uint8": "UINT8"}
_WINDOWS = "INT32"


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest, usual and largest shape of an input."""

    smallest: Shape
    usual: Shape
    largest: Shape


@dataclass(frozen=True, slots=True)
class Profile:
    """An optimisation profile: its number in the engine, and the limits of each input by name, in the card's order."""

    number: int
    inputs: Mapping[str, Limits]

    @property
    def batch(self) -> tuple[int, int]:
        """The fewest and the most pictures of one run."""
        first = next(iter(self.inputs.values()))
        return first.smallest[0], first.largest[0]

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether the shapes are within the limits; the number of pictures does not count, for runs can be split."""
        same_axes = all(len(shape) == len(self.inputs[name].largest) for name, shape in shapes.items())
        return same_axes and all(low <= side <= high for low, _, high, side in self._sides(shapes))

    def distance(self, shapes: Mapping[str, Shape]) -> int:
        """How far the shapes are from those that the profile is fastest for."""
        return sum(abs(usual - side) for _, usual, _, side in self._sides(shapes))

    def _sides(self, shapes: Mapping[str, Shape]) -> Iterator[tuple[int, int, int, int]]:
        for name, shape in shapes.items():
            limits = self.inputs[name]
            ends = zip(limits.smallest, limits.usual, limits.largest, shape, strict=True)
            yield from islice(ends, 1 if counts_pictures(name) else 0, None)


def counts_pictures(name: str) -> bool:
    """Whether the first axis of this input is the batch; the windows are the same for all pictures of a run."""
    return not name.startswith(REGIONS_INPUT)


def check_tensors(trt: Any, engine: Any, card: ModelCard, path: Path) -> None:
    """Refuse an engine whose inputs and outputs are not those that its card tells of.

    Raises:
        EngineError: Other names, types or descriptors of another length.
    """
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, engine.get_tensor_dtype(name).name)
        for name in names
    }
    expected = {
        **{name: (True, _DTYPES[card.pixels] if counts_pictures(name) else _WINDOWS) for name in card.inputs()},
        OUTPUT_NAME: (False, "FLOAT"),
    }
    if found != expected:
        message = (
            f"{path} has the tensors {_described(found)}, its card tells of {_described(expected)}: "
            "build it again with deepir-export"
        )
        raise EngineError(message)
    dim = int(tuple(engine.get_tensor_shape(OUTPUT_NAME))[-1])
    if dim != card.spec.dim:
        message = f"{path} gives {dim} values, its card tells of {card.spec.dim}: build it again with deepir-export"
        raise EngineError(message)


def read_profiles(engine: Any, card: ModelCard) -> list[Profile]:
    """The engine's optimisation profiles; an engine without one has its fixed shapes as the only one."""
    return [
        Profile(number, {name: _limits(engine.get_tensor_profile_shape(name, number)) for name in card.inputs()})
        for number in range(max(1, engine.num_optimization_profiles))
    ]


def choose_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> Profile:
    """The profile that takes the shapes, the nearest of several.

    Raises:
        ShapeError: None does; says what the engine takes.
    """
    fitting = [profile for profile in profiles if profile.takes(shapes)]
    if not fitting:
        taken = " or ".join(_limits_text(profile) for profile in profiles)
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        message = f"this engine takes {taken}, got {given}: prepare the pictures for it, or build one for their size"
        raise ShapeError(message)
    return min(fitting, key=lambda profile: profile.distance(shapes))


def largest_bytes(profiles: Sequence[Profile], name: str, item_size: int) -> int:
    """Bytes of the largest shape of an input over all profiles."""
    return max(math.prod(profile.inputs[name].largest) for profile in profiles) * item_size


def _limits(shapes: Sequence[Any]) -> Limits:
    smallest, usual, largest = (tuple(int(side) for side in shape) for shape in shapes)
    return Limits(smallest, usual, largest)


def _limits_text(profile: Profile) -> str:
    return ", ".join(
        f"{name} ({', '.join(_range_text(*ends) for ends in zip(limits.smallest, limits.largest, strict=True))})"
        for name, limits in profile.inputs.items()
    )


def _range_text(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _described(tensors: Mapping[str, tuple[bool, str]]) -> str:
    return ", ".join(f"{'in' if is_input else 'out'} {name} {dtype}" for name, (is_input, dtype) in tensors.items())
