"""Scenes: studio views of a package, and photographs of it among the clutter of a shop."""

from collections.abc import Sequence

import numpy as np
from camera import take_photograph
from colours import Corners, Image, Rng
from obstacles import occlude
from placing import Pose, cast_shadow, corners_of, outline_in, paste
from shapes import Package
from surroundings import draw_surrounding

SMALLEST = 0.25  # share of the image height
LARGEST_HIDDEN = 0.3  # share of the package
LEAST_INSIDE = 0.85  # share of the package's width and height inside the image
VIEW_YAWS = (0.0, 22.0, -22.0)


def studio_view(package: Package, rng: Rng, *, view: int, size: int) -> Image:
    """Return the package before a light ground; view 0 is frontal, the next ones are turned."""
    ground = np.linspace(rng.uniform(238, 250), rng.uniform(222, 240), size)[:, None, None]
    canvas = np.asarray(np.tile(ground + rng.uniform(-3, 3, 3), (1, size, 1)).clip(0, 255), dtype=np.uint8)
    height = size * rng.uniform(0.76, 0.88) * min(1.0, 1.05 / package.aspect)
    turned = float(view > 0)
    pose = Pose(
        centre=(size / 2, size / 2),
        height=height,
        roll=turned * rng.uniform(-4, 4),
        yaw=VIEW_YAWS[view % 3] + turned * rng.uniform(-5, 5),
        pitch=turned * rng.uniform(-8, 8),
    )
    corners = corners_of(package, pose)
    shadow = outline_in(canvas, package, corners)
    cast_shadow(canvas, shadow, shift=(size * 0.012, size * 0.02), softness=size * 0.02, strength=0.35)
    paste(canvas, package, corners)
    return canvas


def photograph(package: Package, rng: Rng, *, size: int, others: Sequence[Package]) -> Image:
    """Return the package in a scene; it is the largest and most complete one, the others are clutter."""
    pose = _draw_pose(package, rng, size)
    corners = corners_of(package, pose)
    canvas = draw_surrounding(rng, size, pose, others)
    target = outline_in(canvas, package, corners)
    shift = pose.height * rng.uniform(-0.05, 0.05), pose.height * rng.uniform(0.01, 0.04)
    cast_shadow(canvas, target, shift=shift, softness=2 + pose.height * 0.02, strength=rng.uniform(0.3, 0.7))
    paste(canvas, package, corners)
    if rng.uniform() < 0.6:
        occlude(rng, canvas, target, others, limit=rng.uniform(0.05, LARGEST_HIDDEN))
    return take_photograph(rng, canvas, detail=pose.height)


def _draw_pose(package: Package, rng: Rng, size: int) -> Pose:
    largest = min(1.0, 1 / package.aspect)
    height = size * float(np.exp(rng.uniform(np.log(SMALLEST), np.log(largest))))
    roll = rng.uniform(-15, 15) if rng.uniform() < 0.92 else rng.uniform(-40, 40)
    pose = Pose(
        centre=(0.0, 0.0),
        height=height,
        roll=roll * rng.choice([0.3, 1.0]),
        yaw=rng.uniform(-32, 32),
        pitch=rng.uniform(-18, 18),
    )
    low, high = _range_of_centres(corners_of(package, pose), size)
    centre = rng.uniform(low, high)
    return Pose(centre=(centre[0], centre[1]), height=height, roll=pose.roll, yaw=pose.yaw, pitch=pose.pitch)


def _range_of_centres(corners: Corners, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest centre that leave enough of the package inside the image."""
    extent = corners.max(axis=0) - corners.min(axis=0)
    allowance = (1 - LEAST_INSIDE) * extent
    low = -corners.min(axis=0) - allowance
    high = size - corners.max(axis=0) + allowance
    middle = (low + high) / 2
    return np.minimum(low, middle), np.maximum(high, middle)
