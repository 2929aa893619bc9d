"""Motifs: the flavour pictures of a package (fruit, leaves, cups, ...), drawn into RGB images."""

from collections.abc import Callable

import cv2
import numpy as np
from colours import BLACK, WHITE, Colour, Image, Point, Rng, mix

LEAF_GREEN: Colour = (70, 135, 50)


def draw_motif(image: Image, name: str, centre: Point, radius: int, *, colour: Colour, rng: Rng) -> None:
    """Draw the named motif inside the circle around centre."""
    MOTIFS[name](image, centre, radius, colour, rng)


def _around(centre: Point, distance: float, turn: float) -> Point:
    return round(centre[0] + distance * np.cos(turn)), round(centre[1] + distance * np.sin(turn))


def _ball(image: Image, centre: Point, radius: int, colour: Colour) -> None:
    for step in range(5):
        shade = mix(mix(colour, BLACK, 0.35), mix(colour, WHITE, 0.2), step / 4)
        shift = round(radius * 0.07 * step)
        spot = centre[0] - shift, centre[1] - shift
        cv2.circle(image, spot, max(1, round(radius * (1 - 0.16 * step))), shade, -1, cv2.LINE_AA)
    cv2.circle(image, _around(centre, radius * 0.5, -2.3), max(1, radius // 7), WHITE, -1, cv2.LINE_AA)


def _leaf(image: Image, root: Point, length: float, turn: float, colour: Colour) -> None:
    middle = _around(root, length / 2, turn)
    axes = max(1, round(length / 2)), max(1, round(length / 5))
    cv2.ellipse(image, middle, axes, np.degrees(turn), 0, 360, colour, -1, cv2.LINE_AA)
    cv2.line(image, root, _around(root, length * 0.9, turn), mix(colour, WHITE, 0.45), 1, cv2.LINE_AA)


def _citrus(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    _ball(image, _around(centre, radius * 0.45, -0.6), round(radius * 0.62), colour)
    middle, size = _around(centre, radius * 0.25, 2.4), round(radius * 0.75)
    cv2.circle(image, middle, size, colour, -1, cv2.LINE_AA)
    cv2.circle(image, middle, round(size * 0.9), mix(colour, WHITE, 0.85), -1, cv2.LINE_AA)
    for start in range(int(rng.integers(40)), 400, 45):
        cv2.ellipse(image, middle, (round(size * 0.8),) * 2, start, 4, 40, mix(colour, WHITE, 0.2), -1, cv2.LINE_AA)
    _leaf(image, _around(centre, radius * 0.7, -1.5), radius * 0.6, -0.4, LEAF_GREEN)


def _berries(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    for turn in (-2.2, -0.9):
        _leaf(image, centre, radius, turn, LEAF_GREEN)
    count = int(rng.integers(4, 7))
    for turn in np.arange(count) * 2 * np.pi / count + rng.uniform(0, 3):
        _ball(image, _around(centre, radius * 0.52, turn), round(radius * 0.4), colour)
    _ball(image, centre, round(radius * 0.42), colour)


def _apple(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    del rng
    for side in (-1, 1):
        _ball(image, (centre[0] + round(side * radius * 0.25), centre[1] + radius // 8), round(radius * 0.7), colour)
    top = centre[0], centre[1] - radius // 2
    tip = top[0] + radius // 10, top[1] - radius // 3
    cv2.line(image, top, tip, (95, 65, 40), max(2, radius // 12), cv2.LINE_AA)
    _leaf(image, (top[0], top[1] - radius // 8), radius * 0.75, -0.5, LEAF_GREEN)


def _leaves(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    root = centre[0], centre[1] + round(radius * 0.7)
    for turn in (-2.9, -0.25, -2.3, -0.85, -1.9, -1.2, -1.57):
        _leaf(image, root, radius * rng.uniform(1.2, 1.6), turn, mix(colour, WHITE, rng.uniform(0, 0.35)))


def _flower(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    count = int(rng.integers(6, 11))
    for ring, share in ((0.95, 0.0), (0.65, 0.35)):
        for turn in np.arange(count) * 2 * np.pi / count + ring:
            _leaf(image, centre, radius * ring, turn, mix(colour, WHITE, share))
    _ball(image, centre, round(radius * 0.24), (235, 190, 60))


def _grain(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    for lean in (-0.5, 0.0, 0.5):
        root = centre[0], centre[1] + radius
        turn = -np.pi / 2 + lean * rng.uniform(0.7, 1.1)
        cv2.line(image, root, _around(root, radius * 1.9, turn), mix(colour, BLACK, 0.3), 2, cv2.LINE_AA)
        for along in np.arange(0.8, 1.9, 0.2):
            for side in (-0.6, 0.6):
                _leaf(image, _around(root, radius * along, turn), radius * 0.34, turn + side, colour)


def _biscuit(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    for shift, size in ((0.4, 0.55), (-0.25, 0.72)):
        middle = centre[0] + round(radius * shift), centre[1] - round(radius * shift * 0.6)
        _ball(image, middle, round(radius * size), mix(colour, (225, 175, 110), 0.5))
        for _ in range(9):
            chip = _around(middle, radius * size * rng.uniform(0, 0.8), rng.uniform(0, 6.3))
            cv2.circle(image, chip, max(1, radius // 11), mix(colour, BLACK, 0.45), -1, cv2.LINE_AA)


def _cup(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    left, top = centre[0] - round(radius * 0.7), centre[1] - radius // 6
    cv2.ellipse(image, (centre[0], centre[1] + round(radius * 0.75)), (radius, radius // 5), 0, 0, 360, WHITE, -1)
    cv2.ellipse(image, (left + round(radius * 1.45), centre[1] + radius // 6), (radius // 4,) * 2, 0, 0, 360, WHITE, 4)
    cv2.ellipse(image, (centre[0], top), (round(radius * 0.7), round(radius * 0.9)), 0, 0, 180, WHITE, -1, cv2.LINE_AA)
    cv2.ellipse(image, (centre[0], top), (round(radius * 0.7), radius // 5), 0, 0, 360, colour, -1, cv2.LINE_AA)
    for across in (-0.3, 0.0, 0.3):
        steam = centre[0] + round(radius * across), top - round(radius * rng.uniform(0.4, 0.5))
        cv2.ellipse(image, steam, (radius // 10, radius // 4), 15, 90, 300, mix(colour, WHITE, 0.6), 2, cv2.LINE_AA)


def _wedge(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    corners = np.array([[-1, 0.1], [0.9, -0.65], [1, 0.1], [1, 0.75], [-1, 0.75]]) * radius + centre
    cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    cv2.fillPoly(image, [corners[:3].astype(np.int32)], mix(colour, WHITE, 0.5), cv2.LINE_AA)
    for across in np.arange(-0.8, 1.0, 0.32):
        hole = round(centre[0] + radius * across), round(centre[1] + radius * rng.uniform(0.2, 0.65))
        cv2.circle(image, hole, round(radius * rng.uniform(0.06, 0.13)), mix(colour, BLACK, 0.3), -1, cv2.LINE_AA)


def _fish(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    for shift in (-0.4, 0.4):
        middle = centre[0] + round(radius * rng.uniform(-0.1, 0.1)), centre[1] + round(radius * shift)
        tail = np.array([[0.5, 0], [1, -0.32], [0.9, 0.32]]) * radius + middle
        cv2.fillConvexPoly(image, tail.astype(np.int32), mix(colour, BLACK, 0.25), cv2.LINE_AA)
        axes = round(radius * 0.75), round(radius * 0.3)
        cv2.ellipse(image, middle, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        cv2.ellipse(image, middle, axes, 0, 20, 160, mix(colour, WHITE, 0.6), -1, cv2.LINE_AA)
        cv2.circle(image, (middle[0] - round(radius * 0.5), middle[1] - radius // 12), max(2, radius // 14), BLACK, -1)


def _drops(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    for turn in np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 1):
        middle, size = _around(centre, radius * 0.6, turn), round(radius * rng.uniform(0.2, 0.36))
        tip = np.array([[-0.85, -0.5], [0, -2.0], [0.85, -0.5]]) * size + middle
        cv2.fillConvexPoly(image, tip.astype(np.int32), mix(colour, BLACK, 0.2), cv2.LINE_AA)
        _ball(image, middle, size, colour)


def _peaks(image: Image, centre: Point, radius: int, colour: Colour, rng: Rng) -> None:
    for shift in (-0.45, 0.5, 0.0):
        top = np.array([centre[0] + radius * shift, centre[1] - radius * rng.uniform(0.4, 0.9)])
        slopes = np.array([[-0.55, 1.4], [0, 0], [0.55, 1.4]]) * radius
        cv2.fillConvexPoly(image, (top + slopes).astype(np.int32), mix(colour, BLACK, 0.2 + abs(shift)), cv2.LINE_AA)
        cv2.fillConvexPoly(image, (top + slopes * 0.33).astype(np.int32), WHITE, cv2.LINE_AA)


MOTIFS: dict[str, Callable[[Image, Point, int, Colour, Rng], None]] = {
    "citrus": _citrus, "berries": _berries, "apple": _apple, "leaves": _leaves, "flower": _flower, "grain": _grain,
    "biscuit": _biscuit, "cup": _cup, "wedge": _wedge, "fish": _fish, "drops": _drops, "peaks": _peaks,
}  # fmt: skip
