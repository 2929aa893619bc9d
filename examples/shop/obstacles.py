"""Obstacles: hands, price tags and neighbours that hide a part of a package."""

from collections.abc import Sequence

import cv2
import numpy as np
from colours import BLACK, WHITE, Colour, Image, Mask, Point, Rng, mix, pick
from placing import Pose, blend, corners_of, outline_in, paste
from shapes import Package

SKINS: tuple[Colour, ...] = ((224, 172, 138), (198, 140, 105), (150, 98, 70), (92, 62, 48))
TRIALS = 3  # obstacles that are offered; those that would hide too much are left out


def occlude(rng: Rng, canvas: Image, target: Mask, others: Sequence[Package], *, limit: float) -> None:
    """Put a hand, a price tag or a neighbour in front of the target, hiding at most `limit` of it."""
    hidden = np.zeros_like(target)
    area = cv2.countNonZero(target)
    for _ in range(TRIALS):
        layer = canvas.copy()
        mask = _draw_obstacle(rng, layer, target, others)
        joined = np.maximum(hidden, mask)
        if cv2.countNonZero(cv2.min(target, joined)) <= limit * area:
            blend(canvas, layer, mask)
            hidden = joined


def draw_tag(rng: Rng, canvas: Image, corner: Point, height: int) -> None:
    """Draw a price tag with its top left corner at the given place."""
    left, top = corner
    colour = WHITE if rng.uniform() < 0.7 else (250, 215, 60)
    cv2.rectangle(canvas, (left, top), (left + 2 * height, top + height), colour, -1)
    price = f"{rng.uniform(0.5, 30):.2f}"
    cv2.putText(canvas, price, (left + 2, top + height - 3), 0, height / 38, BLACK, max(1, height // 16), cv2.LINE_AA)


def _draw_obstacle(rng: Rng, layer: Image, target: Mask, others: Sequence[Package]) -> Mask:
    left, top, width, height = cv2.boundingRect(target)
    kind = rng.choice(["hand", "tag", "neighbour"], p=[0.4, 0.3, 0.3])
    mask = np.zeros_like(target)
    if kind == "tag":
        tall = max(8, round(height * rng.uniform(0.12, 0.22)))
        corner = left + int(rng.integers(-tall, width)), top + height - round(tall * rng.uniform(0.3, 1.1))
        draw_tag(rng, layer, corner, tall)
        cv2.rectangle(mask, corner, (corner[0] + 2 * tall, corner[1] + tall), 255, -1)
        return mask
    side = int(rng.choice([-1, 1]))
    border = left if side < 0 else left + width
    if kind == "neighbour":
        package = pick(rng, others)
        tall = round(height * rng.uniform(0.55, 0.8))
        middle = border + side * package.aspect * tall * rng.uniform(0.15, 0.45), top + height - tall / 2
        corners = corners_of(package, Pose(centre=middle, height=tall, yaw=rng.uniform(-15, 15)))
        paste(layer, package, corners)
        return outline_in(layer, package, corners)
    return _draw_hand(rng, layer, mask, (border, top + round(height * rng.uniform(0.3, 0.8))), -side * height)


def _draw_hand(rng: Rng, layer: Image, mask: Mask, wrist: Point, reach: int) -> Mask:
    skin = pick(rng, SKINS)
    thick = max(4, round(abs(reach) * rng.uniform(0.07, 0.1)))
    start = wrist[0] - reach // 2, wrist[1] + abs(reach) // 3
    for finger in range(int(rng.integers(1, 5))):
        down = wrist[1] + round((finger - 1.5) * thick * 1.05)
        tip = wrist[0] + round(reach * rng.uniform(0.12, 0.3)), down + int(rng.integers(-3, 4))
        shade = mix(skin, BLACK, 0.07 * finger)
        for image, colour in ((layer, shade), (mask, 255)):
            cv2.line(image, (wrist[0] - reach // 8, down + thick // 2), tip, colour, thick, cv2.LINE_AA)
            cv2.line(image, start, (wrist[0] - reach // 8, down + thick // 2), colour, thick, cv2.LINE_AA)
        cv2.circle(layer, tip, max(1, thick // 4), mix(shade, WHITE, 0.35), -1, cv2.LINE_AA)
    return mask
