"""Labels: where brand, picture, flavour and facts stand on a package front, in shares of its width and height."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from colours import Colour, Image, Rng, mix, pick
from lettering import Box

Shares: TypeAlias = tuple[float, float, float, float]

BANDS = ("strip", "side", "arc", "corner", "frame", "disc", "wedge")
PANELS = ("bar", "oval", "ribbon", "plate")


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes as (left, top, right, bottom), the picture as (across, down, radius)."""

    brand: Shares
    picture: tuple[float, float, float]
    flavour: Shares
    small_print: Shares
    weight: Shares
    badge: tuple[float, float]
    bar_code: Shares | None
    table: Shares | None
    panel: str = "bar"

    def print_panel(self, image: Image, box: Box, colour: Colour) -> None:
        """Print the field that the brand name stands on."""
        left, top, right, bottom = (edge + grow for edge, grow in zip(box, (-6, -5, 6, 5), strict=True))
        edge = mix(colour, (0, 0, 0), 0.45)
        if self.panel == "oval":
            centre = (left + right) // 2, (top + bottom) // 2
            axes = (right - left) // 2 + 8, (bottom - top) // 2 + 10
            cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
            cv2.ellipse(image, centre, axes, 0, 0, 360, edge, 3, cv2.LINE_AA)
        elif self.panel == "ribbon":
            middle, dent = (top + bottom) // 2, 10
            points = [[0, top], [image.shape[1], top], [image.shape[1] - dent, middle], [image.shape[1], bottom]]
            cv2.fillPoly(image, [np.array([*points, [0, bottom], [dent, middle]], dtype=np.int32)], colour, cv2.LINE_AA)
        elif self.panel == "plate":
            cv2.rectangle(image, (left, top), (right, bottom), edge, -1)
            cv2.rectangle(image, (left + 3, top + 3), (right - 3, bottom - 3), colour, -1)
        else:
            cv2.rectangle(image, (0, top), (image.shape[1], bottom), colour, -1)


FOOT_LEFT: Shares = (0.06, 0.86, 0.42, 0.97)
FOOT_RIGHT: Shares = (0.58, 0.86, 0.94, 0.97)

LAYOUTS = (
    Layout((0.1, 0.07, 0.9, 0.21), (0.5, 0.47, 0.26), (0.1, 0.71, 0.9, 0.81), (0.06, 0.86, 0.52, 0.97),
           (0.68, 0.23, 0.96, 0.3), (0.8, 0.62), FOOT_RIGHT, None),
    Layout((0.08, 0.46, 0.92, 0.61), (0.5, 0.24, 0.24), (0.1, 0.66, 0.9, 0.76), (0.48, 0.8, 0.95, 0.97),
           (0.04, 0.03, 0.3, 0.09), (0.85, 0.12), FOOT_LEFT, None),
    Layout((0.08, 0.72, 0.92, 0.9), (0.5, 0.34, 0.3), (0.1, 0.04, 0.9, 0.13), (0.05, 0.93, 0.95, 0.99),
           (0.04, 0.62, 0.3, 0.69), (0.85, 0.24), None, None),
    Layout((0.05, 0.06, 0.75, 0.18), (0.66, 0.55, 0.3), (0.05, 0.24, 0.62, 0.32), (0.05, 0.78, 0.42, 0.84),
           (0.7, 0.9, 0.96, 0.97), (0.85, 0.28), FOOT_LEFT, (0.04, 0.4, 0.33, 0.6)),
    Layout((0.08, 0.3, 0.92, 0.45), (0.4, 0.68, 0.24), (0.1, 0.12, 0.9, 0.22), (0.06, 0.9, 0.6, 0.99),
           (0.7, 0.91, 0.97, 0.98), (0.14, 0.54), None, (0.66, 0.52, 0.96, 0.72)),
    Layout((0.06, 0.82, 0.94, 0.95), (0.5, 0.4, 0.36), (0.08, 0.68, 0.92, 0.77), (0.05, 0.03, 0.45, 0.1),
           (0.72, 0.03, 0.97, 0.1), (0.15, 0.2), None, None),
)  # fmt: skip


def draw_layout(rng: Rng) -> Layout:
    """Choose a layout, the size of its picture and the panel under its brand."""
    layout = pick(rng, LAYOUTS)
    across, down, radius = layout.picture
    radius *= rng.uniform(0.85, 1.15)
    return replace(layout, picture=(across, down, radius), panel=pick(rng, PANELS))


def to_pixels(shares: Shares, image: Image) -> Box:
    height, width = image.shape[:2]
    left, top, right, bottom = shares
    return round(left * width), round(top * height), round(right * width), round(bottom * height)


def print_band(image: Image, band: str, layout: Layout, *, colour: Colour) -> None:
    """Print the field in the colour of the flavour."""
    height, width = image.shape[:2]
    if band == "strip":
        _, top, _, bottom = to_pixels(layout.flavour, image)
        cv2.rectangle(image, (0, top - 6), (width, bottom + 6), colour, -1)
    elif band == "side":
        cv2.rectangle(image, (0, 0), (width // 7, height), colour, -1)
    elif band == "arc":
        cv2.ellipse(image, (width // 2, height), (width, round(height * 0.4)), 0, 0, 360, colour, -1, cv2.LINE_AA)
    elif band == "frame":
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), colour, 22)
    elif band == "disc":
        across, down, radius = layout.picture
        centre, size = (round(across * width), round(down * height)), round(radius * min(width, height) * 1.25)
        cv2.circle(image, centre, size, mix(colour, (255, 255, 255), 0.55), -1, cv2.LINE_AA)
        cv2.circle(image, centre, size, colour, 6, cv2.LINE_AA)
    else:
        reach = 0.5 if band == "corner" else 1.0
        points = np.array([[0, height], [0, height * (1 - reach)], [width * reach * 1.2, height]])
        cv2.fillConvexPoly(image, points.astype(np.int32), colour, cv2.LINE_AA)
