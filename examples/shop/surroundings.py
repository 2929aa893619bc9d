"""Surroundings: walls, shelves, tables and heaps that a package is photographed in."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from camera import saturated
from colours import WHITE, Image, Rng, from_hsv, mix, pick
from obstacles import draw_tag
from placing import Pose, corners_of, paste
from shapes import Package


def draw_surrounding(rng: Rng, size: int, pose: Pose, others: Sequence[Package]) -> Image:
    """Return a square background for a package in the pose; other packages in it are smaller than that one."""
    canvas = draw_wall(rng, size, size)
    base = round(pose.centre[1] + pose.height / 2)
    kind = rng.choice(["shelf", "table", "heap"], p=[0.6, 0.25, 0.15])
    if kind == "shelf":
        _draw_shelves(rng, canvas, base, pose, others)
    elif kind == "table":
        _draw_table(rng, canvas, base, pose, others)
    else:
        _draw_heap(rng, canvas, pose, others)
    if rng.uniform() < 0.4:
        cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.6, 2.2), dst=canvas)
    return canvas


def draw_wall(rng: Rng, width: int, height: int) -> Image:
    """Return a wall of one colour with coarse and fine texture; flat grain looks like wood."""
    colour = np.array(from_hsv(rng.uniform(), rng.uniform(0, 0.45), rng.uniform(0.25, 0.92)), dtype=np.float32)
    texture = _coarse_noise(rng, (int(rng.integers(3, 40)), int(rng.integers(3, 40))), width, height)
    grain = _coarse_noise(rng, (height // 2, 9), width, height)
    relief = np.linspace(rng.uniform(-25, 25), rng.uniform(-25, 25), height, dtype=np.float32)[
        :, None
    ] + texture * rng.uniform(2, 18)
    relief += grain * rng.uniform(0, 9)
    return saturated(relief[..., None] + colour)


def _coarse_noise(rng: Rng, cells: tuple[int, int], width: int, height: int) -> npt.NDArray[np.float32]:
    noise = rng.standard_normal(cells, dtype=np.float32)
    return np.asarray(cv2.resize(noise, (width, height)), dtype=np.float32)


def draw_board(rng: Rng, canvas: Image, top: int, thickness: int) -> None:
    """Draw a shelf board across the canvas, with the shadow it throws and price tags on its edge."""
    width = canvas.shape[1]
    board = from_hsv(rng.uniform(), rng.uniform(0, 0.3), rng.uniform(0.45, 0.95))
    shadow = canvas[max(0, top + thickness) : max(0, top + 3 * thickness)]
    shadow[:] = shadow * 0.65
    cv2.rectangle(canvas, (0, top), (width, top + thickness), board, -1)
    cv2.line(canvas, (0, top), (width, top), mix(board, WHITE, 0.5), 2)
    for left in range(int(rng.integers(90)), width, int(rng.integers(70, 180))):
        draw_tag(rng, canvas, (left, top + 2), max(6, thickness - 4))


def _draw_row(rng: Rng, canvas: Image, base: int, tallest: float, others: Sequence[Package]) -> None:
    left = rng.uniform(-0.5, 0.3) * tallest
    while left < canvas.shape[1]:
        package = pick(rng, others)
        height = tallest * rng.uniform(0.75, 1.0)
        for _ in range(rng.integers(1, 4)):
            middle = left + package.aspect * height / 2
            pose = Pose(centre=(middle, base - height / 2), height=height, yaw=rng.uniform(-12, 12))
            paste(canvas, package, corners_of(package, pose))
            left += package.aspect * height * rng.uniform(1.0, 1.1)
        left += tallest * rng.uniform(0, 0.7)


def _draw_shelves(rng: Rng, canvas: Image, base: int, pose: Pose, others: Sequence[Package]) -> None:
    spacing = round(pose.height * rng.uniform(1.25, 1.6))
    thickness = max(6, round(pose.height * rng.uniform(0.07, 0.13)))
    filled = rng.uniform() < 0.85
    for top in range(base - 3 * spacing, canvas.shape[0] + spacing, spacing):
        if filled:
            _draw_row(rng, canvas, top, 0.78 * pose.height, others)
        draw_board(rng, canvas, top, thickness)


def _draw_table(rng: Rng, canvas: Image, base: int, pose: Pose, others: Sequence[Package]) -> None:
    size = canvas.shape[0]
    edge = int(np.clip(base - rng.uniform(0.1, 0.4) * pose.height, 0, size - 1))
    canvas[edge:] = draw_wall(rng, size, size)[edge:]
    for _ in range(rng.integers(0, 4)):
        package = pick(rng, others)
        height = pose.height * rng.uniform(0.45, 0.75)
        foot = edge + rng.uniform(0.0, 0.5) * (base - edge)
        place = Pose(centre=(rng.uniform(0, size), foot - height / 2), height=height, yaw=rng.uniform(-30, 30))
        paste(canvas, package, corners_of(package, place))


def _draw_heap(rng: Rng, canvas: Image, pose: Pose, others: Sequence[Package]) -> None:
    size = canvas.shape[0]
    for _ in range(rng.integers(2, 9)):
        points = rng.uniform(0, size, 2) + rng.normal(0, size * 0.14, (4, 2))
        colour = from_hsv(rng.uniform(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.95))
        cv2.fillConvexPoly(canvas, cv2.convexHull(points.astype(np.int32)), colour, cv2.LINE_AA)
    for _ in range(rng.integers(1, 5)):
        package = pick(rng, others)
        middle = rng.uniform(0, size), rng.uniform(0, size)
        place = Pose(centre=middle, height=pose.height * rng.uniform(0.4, 0.75), roll=rng.uniform(-80, 80))
        paste(canvas, package, corners_of(package, place))
