"""Placing: turns a package in space and pastes it into an image."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from colours import Corners, Image, Mask
from shapes import Package

FOCAL_LENGTH = 3.0  # in package heights: how far the camera stands from the package
LEVELS_PER_OCTAVE = 2
SHADOW_GRID = 4  # pixels: shadows are too soft to need all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where a package stands: centre and height in pixels, turns in degrees."""

    centre: tuple[float, float]
    height: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0


def corners_of(package: Package, pose: Pose) -> Corners:
    """Return the four corners (x, y) of the package, clockwise from the top left."""
    half = np.array([package.aspect, 1.0, 0.0]) / 2
    flat = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * half
    turned = flat @ _rotation(pose).T
    depth = 1 + turned[:, 2:] / FOCAL_LENGTH
    return np.asarray(turned[:, :2] / depth * pose.height + pose.centre, dtype=np.float32)


def _rotation(pose: Pose) -> np.ndarray:
    roll, yaw, pitch = np.radians([pose.roll, pose.yaw, pose.pitch])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return np.asarray(about_z @ about_y @ about_x)


def paste(canvas: Image, package: Package, corners: Corners) -> None:
    """Paste the package so that its front fills the four corners; what lies outside the canvas is cut off."""
    left, top, right, bottom = _window(canvas, corners)
    if left >= right or top >= bottom:
        return
    size = right - left, bottom - top
    front, outline = _reduced(package, _level_of(package, corners))
    transform = _transform(outline, corners - np.array([left, top], dtype=np.float32))
    ink = cv2.warpPerspective(front, transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpPerspective(outline, transform, size, flags=cv2.INTER_LINEAR)
    blend(canvas[top:bottom, left:right], np.asarray(ink, dtype=np.uint8), np.asarray(alpha, dtype=np.uint8))


def outline_in(canvas: Image, package: Package, corners: Corners) -> Mask:
    """Return the mask of the pixels of the canvas that the package covers."""
    size = canvas.shape[1], canvas.shape[0]
    return np.asarray(cv2.warpPerspective(package.outline, _transform(package.outline, corners), size), dtype=np.uint8)


def blend(canvas: Image, ink: Image, alpha: Mask) -> None:
    """Paint ink over the canvas as far as alpha (0 to 255) covers it."""
    cover = cv2.merge([alpha] * 3)
    front = cv2.multiply(ink, cover, scale=1 / 255)
    cv2.add(cv2.multiply(canvas, 255 - cover, scale=1 / 255), front, dst=canvas)


def cast_shadow(canvas: Image, mask: Mask, *, shift: tuple[float, float], softness: float, strength: float) -> None:
    """Darken the canvas where the mask, shifted and softened, would throw its shadow."""
    height, width = mask.shape
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], dtype=np.float32) / SHADOW_GRID
    coarse = cv2.warpAffine(mask, move, (width // SHADOW_GRID, height // SHADOW_GRID))
    soft = cv2.GaussianBlur(coarse, (0, 0), softness / SHADOW_GRID)
    shade = 255 - np.asarray(cv2.resize(soft, (width, height)), dtype=np.float32) * strength
    cv2.multiply(canvas, cv2.merge([shade.astype(np.uint8)] * 3), dst=canvas, scale=1 / 255)


def _window(canvas: Image, corners: Corners) -> tuple[int, int, int, int]:
    height, width = canvas.shape[:2]
    left, top = np.floor(corners.min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
    return max(0, left), max(0, top), min(width, right + 1), min(height, bottom + 1)


def _level_of(package: Package, corners: Corners) -> int:
    seen = max(1.0, float(np.linalg.norm(corners[3] - corners[0])))
    return max(0, int(np.log2(package.front.shape[0] / seen) * LEVELS_PER_OCTAVE))


@lru_cache(maxsize=1024)
def _reduced(package: Package, level: int) -> tuple[Image, Mask]:
    """Return front and outline a little larger than they are seen, so that warping does not alias."""
    share = 2 ** (-level / LEVELS_PER_OCTAVE)
    width, height = max(2, round(package.front.shape[1] * share)), max(2, round(package.front.shape[0] * share))
    front = cv2.resize(package.front, (width, height), interpolation=cv2.INTER_AREA)
    outline = cv2.resize(package.outline, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(front, dtype=np.uint8), np.asarray(outline, dtype=np.uint8)


def _transform(outline: Mask, corners: Corners) -> np.ndarray:
    height, width = outline.shape
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    return np.asarray(cv2.getPerspectiveTransform(flat, corners.astype(np.float32)))
