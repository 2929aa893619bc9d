"""Shapes: the outline of a package and how its surface catches light."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from colours import Colour, Image, Mask, Rng, mix

SHAPES = ("box", "box", "rounded", "pouch", "can", "bottle")
NECK = 0.24  # share of a bottle's height above its label


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """The front of one product: what is printed on it, and where the package ends."""

    label: str
    front: Image
    outline: Mask

    @property
    def aspect(self) -> float:
        """Width over height."""
        return float(self.front.shape[1] / self.front.shape[0])


def shape_package(label: str, front: Image, shape: str, *, cap: Colour, rng: Rng) -> Package:
    """Cut the printed front to the shape and shade it like a body of that shape."""
    if shape == "bottle":
        front = _with_neck(front, cap)
    outline = _outline(front, shape)
    shade = _shade(front, shape, rng)
    shaded = np.asarray((front * shade.astype(np.float32)[..., None]).clip(0, 255), dtype=np.uint8)
    return Package(label, shaded, outline)


def _with_neck(front: Image, cap: Colour) -> Image:
    height, width = front.shape[:2]
    neck = round(height * NECK)
    body = np.full_like(front, mix(cap, (235, 240, 240), 0.6))
    body[neck:] = cv2.resize(front, (width, height - neck), interpolation=cv2.INTER_AREA)
    cv2.rectangle(body, (0, 0), (width, round(height * 0.1)), cap, -1)
    for left in range(0, width, 6):
        cv2.line(body, (left, 0), (left, round(height * 0.1)), mix(cap, (0, 0, 0), 0.25), 1)
    return body


def _outline(front: Image, shape: str) -> Mask:
    height, width = front.shape[:2]
    outline = np.zeros((height, width), dtype=np.uint8)
    points = _edge_points(shape) * (width - 1, height - 1)
    cv2.fillPoly(outline, [points.astype(np.int32)], 255, cv2.LINE_AA)
    return outline


def _edge_points(shape: str) -> npt.NDArray[np.float64]:
    if shape == "bottle":
        right = [[0.66, 0], [0.66, 0.1], [0.62, 0.12], [0.64, 0.16], [0.9, 0.21], [1, 0.26], [1, 0.98], [0.96, 1]]
    elif shape == "can":
        bulge = [[0.5 + 0.5 * np.sin(turn), 0.04 - 0.04 * np.cos(turn)] for turn in np.linspace(0, 1.57, 8)]
        right = [*bulge, *([across, 1 - down] for across, down in reversed(bulge))]
    elif shape == "rounded":
        arc = [[0.9 + 0.1 * np.sin(turn), 0.07 - 0.07 * np.cos(turn)] for turn in np.linspace(0, 1.57, 6)]
        right = [*arc, *([across, 1 - down] for across, down in reversed(arc))]
    elif shape == "pouch":
        right = [[1, 0], [0.985, 0.06], [0.95, 0.2], [0.95, 0.5], [0.96, 0.8], [0.985, 0.94], [1, 1]]
    else:
        right = [[1, 0], [1, 1]]
    left = [[1 - across, down] for across, down in reversed(right)]
    return np.array(right + left)


def _shade(front: Image, shape: str, rng: Rng) -> npt.NDArray[np.float64]:
    height, width = front.shape[:2]
    across = np.linspace(-1, 1, width)
    if shape in ("can", "bottle"):
        profile = 0.5 + 0.55 * np.sqrt(1 - 0.9 * across**2) + 0.25 * np.exp(-(((across + 0.45) / 0.12) ** 2))
        return np.tile(profile, (height, 1))
    if shape == "pouch":
        coarse = rng.uniform(0.75, 1.25, (9, 6)).astype(np.float32)
        wrinkles = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float64)
        return wrinkles * (1 - 0.25 * across**6)
    return np.tile(np.linspace(1.04, 0.94, width), (height, 1))
