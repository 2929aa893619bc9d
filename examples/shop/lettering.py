"""Lettering: fitted text, small print, bar codes, nutrition tables and badges of a package."""

from typing import TypeAlias

import cv2
import numpy as np
from colours import BLACK, WHITE, Colour, Image, Point, Rng, ink_on

# Left, top, right, bottom in pixels.
Box: TypeAlias = tuple[int, int, int, int]

FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX | cv2.FONT_ITALIC,
)
LEFT_ODD = (
    "0001101", "0011001", "0010011", "0111101", "0100011", "0110001", "0101111", "0111011", "0110111", "0001011",
)  # fmt: skip
EAN_PARITIES = ("OOOOOO", "OOEOEE", "OOEEOE", "OOEEEO", "OEOOEE", "OEEOOE", "OEEEOO", "OEOEOE", "OEOEEO", "OEEOEO")
EDGE_STEPS = ((-2, 0), (2, 0), (0, -2), (0, 2))
NUTRIENTS = ("Energy", "Fat", "Carbs", "Sugar", "Protein", "Salt")


def print_text(image: Image, text: str, box: Box, *, colour: Colour, font: int, edge: Colour | None = None) -> None:
    """Print the text as large as the box allows, centred, with an edge around the letters if one is given."""
    left, top, right, bottom = box
    (width, height), _ = cv2.getTextSize(text, font, 1.0, 2)
    scale = min((right - left) / max(width, 1), (bottom - top) / (height * 1.25))
    stroke = max(1, round(2.6 * scale))
    origin = round((left + right - width * scale) / 2), round((top + bottom + height * scale) / 2)
    for across, down in EDGE_STEPS if edge is not None else ():
        shifted = origin[0] + across, origin[1] + down
        cv2.putText(image, text, shifted, font, scale, edge or colour, stroke, cv2.LINE_AA)
    cv2.putText(image, text, origin, font, scale, colour, stroke, cv2.LINE_AA)


def print_small_print(image: Image, box: Box, *, colour: Colour, rng: Rng) -> None:
    """Print lines of invented words too small to read from afar."""
    left, top, right, bottom = box
    for baseline in range(top + 7, bottom, 9):
        words = " ".join("".join(rng.choice(list("aeinorstlm"), size=rng.integers(2, 8))) for _ in range(7))
        letters = max(1, (right - left) // 6)
        cv2.putText(image, words[:letters], (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.28, colour, 1, cv2.LINE_AA)


def print_bar_code(image: Image, box: Box, *, rng: Rng) -> None:
    """Print a valid EAN-13 code on a white field."""
    left, top, right, bottom = box
    cv2.rectangle(image, (left, top), (right, bottom), WHITE, -1)
    modules = np.array([int(bit) for bit in encode_ean13(rng.integers(0, 10, 12).tolist())], dtype=np.uint8)
    bars = np.where(modules == 1, BLACK[0], WHITE[0]).astype(np.uint8)[None, :, None].repeat(3, axis=2)
    width, height = right - left - 8, bottom - top - 8
    image[top + 4 : top + 4 + height, left + 4 : left + 4 + width] = cv2.resize(
        bars, (width, height), interpolation=cv2.INTER_AREA
    )


def encode_ean13(digits: list[int]) -> str:
    """Return the 95 modules of the code of twelve digits as a string of 0 and 1; the check digit is added."""
    check = -sum(digit * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10
    first, *rest = [*digits, check]
    left = "".join(_left_code(digit, parity) for digit, parity in zip(rest[:6], EAN_PARITIES[first], strict=True))
    right = "".join(_inverted(LEFT_ODD[digit]) for digit in rest[6:])
    return f"101{left}01010{right}101"


def _left_code(digit: int, parity: str) -> str:
    return LEFT_ODD[digit] if parity == "O" else _inverted(LEFT_ODD[digit])[::-1]


def _inverted(code: str) -> str:
    return code.translate(str.maketrans("01", "10"))


def print_table(image: Image, box: Box, *, rng: Rng) -> None:
    """Print a nutrition table: a name and an amount in each row."""
    left, top, right, bottom = box
    cv2.rectangle(image, (left, top), (right, bottom), WHITE, -1)
    cv2.rectangle(image, (left, top), (right, bottom), BLACK, 1)
    for nutrient, baseline in zip(NUTRIENTS, range(top + 9, bottom, 10), strict=False):
        amount = f"{rng.uniform(0, 40):.1f}"
        cv2.putText(image, nutrient, (left + 3, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.26, BLACK, 1, cv2.LINE_AA)
        cv2.putText(image, amount, (right - 22, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.26, BLACK, 1, cv2.LINE_AA)
        cv2.line(image, (left, baseline + 2), (right, baseline + 2), BLACK, 1)


def print_badge(image: Image, centre: Point, radius: int, text: str, colour: Colour) -> None:
    """Print a star-shaped badge with a short word on it."""
    turns = np.arange(28) * 2 * np.pi / 28
    reach = radius * np.where(np.arange(28) % 2, 0.84, 1.0)
    points = np.stack([centre[0] + reach * np.cos(turns), centre[1] + reach * np.sin(turns)], axis=1)
    cv2.fillPoly(image, [points.astype(np.int32)], colour, cv2.LINE_AA)
    inner = round(radius * 0.66)
    box = centre[0] - inner, centre[1] - inner // 2, centre[0] + inner, centre[1] + inner // 2
    print_text(image, text, box, colour=ink_on(colour), font=cv2.FONT_HERSHEY_DUPLEX)
