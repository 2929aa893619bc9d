"""Artwork: the printed grounds and patterns of a package, drawn into RGB images."""

from collections.abc import Callable

import cv2
import numpy as np
from colours import Colour, Image, Palette, Rng, mix, pick


def print_ground(rng: Rng, width: int, height: int, palette: Palette) -> Image:
    """Return a ground that runs from the first to the second colour of the palette."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(0, 1, width, dtype=np.float32)[None]
    ramp = {
        "plain": 0 * down,
        "vertical": down,
        "diagonal": (down + across) / 2,
        "radial": np.hypot(down - 0.5, across - 0.5) * 1.4,
        "halves": (down > 0.55).astype(np.float32),
        "sides": (np.abs(across - 0.5) > 0.34).astype(np.float32),
    }[str(rng.choice(["plain", "vertical", "diagonal", "radial", "halves", "sides"]))]
    first, second = np.array([palette.ground, palette.second], dtype=np.float32)
    ground = first + ramp[..., None] * (second - first)
    return np.array(np.broadcast_to(ground, (height, width, 3)).clip(0, 255), dtype=np.uint8)


def print_pattern(rng: Rng, image: Image, colour: Colour) -> None:
    """Print one pattern over the image, more or less strongly."""
    pattern = pick(rng, PATTERNS)
    layer = image.copy()
    pattern(rng, layer, colour)
    strength = rng.uniform(0.3, 0.9)
    cv2.addWeighted(layer, strength, image, 1 - strength, 0, dst=image)


def _stripes(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    step = int(rng.integers(14, 60))
    slant = int(rng.choice([0, width // 2, -width // 2, width]))
    for left in range(-2 * width, 2 * width, step):
        cv2.line(layer, (left, 0), (left + slant, height), colour, max(2, step // 3), cv2.LINE_AA)


def _bars(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    for _ in range(rng.integers(2, 6)):
        top, thick = int(rng.integers(height)), int(rng.integers(4, 40))
        cv2.rectangle(layer, (0, top), (width, top + thick), mix(colour, (255, 255, 255), rng.uniform(0, 0.5)), -1)


def _dots(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    step = int(rng.integers(18, 56))
    radius = int(step * rng.uniform(0.15, 0.4))
    for row, top in enumerate(range(0, height + step, step)):
        for left in range(-step // 2 * (row % 2), width + step, step):
            cv2.circle(layer, (left, top), radius, colour, -1, cv2.LINE_AA)


def _rings(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    centre = int(rng.integers(width)), int(rng.integers(height))
    step = int(rng.integers(16, 46))
    for radius in range(step, 2 * height, step):
        cv2.circle(layer, centre, radius, colour, max(2, step // 3), cv2.LINE_AA)


def _waves(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    across = np.arange(0, width + 8, 8)
    step, period = int(rng.integers(22, 70)), rng.uniform(40, 160)
    for top in range(0, height + step, step):
        wave = top + step * 0.4 * np.sin(across / period * 2 * np.pi)
        points = np.stack([across, wave], axis=1).astype(np.int32)
        cv2.polylines(layer, [points], False, colour, max(2, step // 4), cv2.LINE_AA)


def _shards(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    for _ in range(rng.integers(5, 16)):
        centre = rng.uniform((0, 0), (width, height))
        points = (centre + rng.normal(0, height * 0.16, (3, 2))).astype(np.int32)
        cv2.fillConvexPoly(layer, points, mix(colour, (255, 255, 255), rng.uniform(0, 0.7)), cv2.LINE_AA)


def _rays(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    centre = np.array([width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.9)])
    count = int(rng.integers(8, 22))
    for turn in np.arange(count) * 2 * np.pi / count:
        tips = [[np.cos(turn + edge), np.sin(turn + edge)] for edge in (0.0, np.pi / count)]
        points = np.array([centre, *(centre + 2 * height * np.array(tips))]).astype(np.int32)
        cv2.fillConvexPoly(layer, points, colour, cv2.LINE_AA)


def _confetti(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    for left, top in rng.uniform((0, 0), (width, height), (int(rng.integers(30, 110)), 2)).astype(int).tolist():
        shade = mix(colour, (255, 255, 255) if rng.uniform() < 0.5 else (0, 0, 0), rng.uniform(0, 0.5))
        cv2.ellipse(layer, (left, top), (int(rng.integers(3, 12)), 4), rng.uniform(0, 180), 0, 360, shade, -1)


def _marble(rng: Rng, layer: Image, colour: Colour) -> None:
    height, width = layer.shape[:2]
    coarse = rng.uniform(0, 1, (int(rng.integers(4, 22)), int(rng.integers(4, 22)))).astype(np.float32)
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None].clip(0, 1)
    layer[:] = layer + clouds * (np.array(colour, dtype=np.float32) - layer)


PATTERNS: tuple[Callable[[Rng, Image, Colour], None], ...] = (
    _stripes, _bars, _dots, _rings, _waves, _shards, _rays, _confetti, _marble,
)  # fmt: skip
