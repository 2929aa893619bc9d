"""Colours: the image types, how palettes are mixed, and the one source of randomness."""

import colorsys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.uint8]
Corners: TypeAlias = npt.NDArray[np.float32]
Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[int, int]
Rng: TypeAlias = np.random.Generator
Chosen = TypeVar("Chosen")

WHITE: Colour = (250, 249, 245)
BLACK: Colour = (24, 22, 26)
GOLD: Colour = (212, 175, 85)


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours one brand prints with."""

    ground: Colour
    second: Colour
    accent: Colour


def rng_for(seed: int, *words: str) -> Rng:
    """Return a generator that depends on the seed and the words alone, so nothing depends on the order of drawing."""
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])


def pick(rng: Rng, choices: Sequence[Chosen]) -> Chosen:
    """Return one of the choices, each as likely as the others."""
    return choices[int(rng.integers(len(choices)))]


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour that lies `share` of the way from first to second."""
    red, green, blue = (round((1 - share) * one + share * two) for one, two in zip(first, second, strict=True))
    return red, green, blue


def brightness(colour: Colour) -> float:
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def ink_on(ground: Colour) -> Colour:
    """Return black or white, whichever can be read on the ground."""
    return BLACK if brightness(ground) > 0.55 else WHITE


def draw_palette(rng: Rng) -> Palette:
    """Draw a ground of one of four moods, a second colour near it and an accent across the colour circle."""
    hue = rng.uniform()
    mood = rng.choice(["vivid", "pale", "dark", "white"], p=[0.45, 0.2, 0.2, 0.15])
    saturation, value = {
        "vivid": (rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)),
        "pale": (rng.uniform(0.12, 0.35), rng.uniform(0.86, 0.98)),
        "dark": (rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.4)),
        "white": (0.03, 0.96),
    }[str(mood)]
    second_hue = hue + rng.choice([0.08, -0.08, 0.3, 0.5])
    accent_hue = hue + rng.choice([0.33, 0.5, 0.62])
    return Palette(
        ground=from_hsv(hue, saturation, value),
        second=from_hsv(second_hue, rng.uniform(0.4, 0.9), rng.uniform(0.45, 0.95)),
        accent=from_hsv(accent_hue, rng.uniform(0.6, 0.95), rng.uniform(0.5, 0.95)),
    )
