"""Shelf: one long picture of a shelf for a camera to walk along, and where each known product stands on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from colours import Corners, Image, Rng
from placing import Pose, cast_shadow, corners_of, outline_in, paste
from shapes import Package
from surroundings import draw_board, draw_wall

FRAME_SIZE = (640, 360)
MARGIN = 90  # shelf around the frame, so that a shaking camera never sees its end
BASE = MARGIN + 318  # where the packages stand
GROUP = 4  # known products that stand together
EMPTY = 960  # pixels of empty shelf: more than a frame shows
UNKNOWNS = 4  # unknown packages in a row: they too fill more than a frame


@dataclass(frozen=True, slots=True)
class Shelf:
    """The picture of the shelf and the corners of the known products, in pixels of the picture."""

    picture: Image
    corners: dict[str, Corners]


def build_shelf(known: Sequence[Package], unknown: Sequence[Package], rng: Rng) -> Shelf:
    """Put the known products up in groups; after each group comes, in turn, empty shelf or unknown packages."""
    stands, width = _plan(known, unknown, rng)
    picture = _draw_empty_shelf(rng, width)
    for package, corners in stands:
        _put(picture, package, corners)
    names = {package.label for package in known}
    return Shelf(picture, {package.label: corners for package, corners in stands if package.label in names})


def _plan(known: Sequence[Package], unknown: Sequence[Package], rng: Rng) -> tuple[list[tuple[Package, Corners]], int]:
    stands: list[tuple[Package, Corners]] = []
    left = MARGIN + FRAME_SIZE[0] / 2
    for number, start in enumerate(range(0, len(known), GROUP)):
        left = _line_up(known[start : start + GROUP], left, rng, stands)
        if number % 2 == 0:
            left += EMPTY
        else:
            strangers = [unknown[place] for place in rng.permutation(len(unknown))[:UNKNOWNS]]
            left = _line_up(strangers, left, rng, stands)
    return stands, round(left) + MARGIN


def _line_up(packages: Sequence[Package], left: float, rng: Rng, stands: list[tuple[Package, Corners]]) -> float:
    for package in packages:
        height = FRAME_SIZE[1] * rng.uniform(0.62, 0.78)
        middle = left + package.aspect * height / 2
        turns = rng.uniform(-1, 1, 2) * (14, 1.5)
        pose = Pose(centre=(middle, BASE - height / 2), height=height, yaw=turns[0], roll=turns[1])
        stands.append((package, corners_of(package, pose)))
        left += package.aspect * height + rng.uniform(35, 90)
    return left


def _draw_empty_shelf(rng: Rng, width: int) -> Image:
    height = FRAME_SIZE[1] + 2 * MARGIN
    picture = np.concatenate([draw_wall(rng, FRAME_SIZE[0], height) for _ in range(width // FRAME_SIZE[0] + 1)], axis=1)
    for seam in range(0, picture.shape[1], FRAME_SIZE[0]):
        cv2.rectangle(picture, (seam - 7, 0), (seam + 7, height), (120, 122, 128), -1)
    for row, darkness in enumerate(np.linspace(0.35, 1.0, 60)):
        picture[MARGIN + 12 + row] = picture[MARGIN + 12 + row] * darkness
    draw_board(rng, picture, MARGIN - 20, 32)
    draw_board(rng, picture, BASE, 30)
    return np.ascontiguousarray(picture[:, :width])


def _put(picture: Image, package: Package, corners: Corners) -> None:
    left, right = int(corners[:, 0].min()) - 60, int(corners[:, 0].max()) + 60
    window = picture[:, left:right]
    placed = corners - np.array([left, 0], dtype=np.float32)
    shadow = outline_in(window, package, placed)
    cast_shadow(window, shadow, shift=(9, 5), softness=8, strength=0.5)
    paste(window, package, placed)
