"""Which pictures of a label are worth a view of their own: not the same one again, and none that is blurred."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.image import Image, read_image
from deepir.look import Look, look_at, sharpness

_SAME_DESCRIPTOR = 0.99
_SAME_LOOK = 0.99
"""Both must be reached: models without a whitening find everything alike, and small grey copies know no detail."""

_BLURRED = 0.1
"""Of the median sharpness of a label's pictures; the sharpness of photographs of one thing differs far less."""

_FEWEST_TO_COMPARE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """What a picture looks like without the model."""

    look: Look
    sharpness: float


@dataclass(frozen=True, slots=True)
class Stored:
    """Views that a label has already.

    Attributes:
        descriptors_nd: The model's descriptors as they are compared with (N, D).
        picture_of: From a row to its picture; None where it is gone.
    """

    descriptors_nd: Descriptors
    picture_of: Callable[[int], Path | None]


def glance_at(image: Image) -> Glance:
    """Look at an RGB picture, uint8 (H, W, 3)."""
    return Glance(look_at(image), sharpness(image))


def blurred(glances: Sequence[Glance]) -> list[int]:
    """The rows of one label's pictures that are far less sharp than the others; none of fewer than three."""
    if len(glances) < _FEWEST_TO_COMPARE:
        return []
    sharpness_n = np.array([glance.sharpness for glance in glances])
    return [int(row) for row in np.flatnonzero(sharpness_n < _BLURRED * np.median(sharpness_n))]


def repeated(glances: Sequence[Glance], descriptors_nd: Descriptors, stored: Stored | None = None) -> list[int]:
    """The rows of one label's pictures that show the same as an earlier one, or as a view that is stored.

    A stored view counts only where its picture is still there to be looked at: what cannot be known is kept.

    Args:
        glances: Of the new pictures.
        descriptors_nd: Theirs, as they are stored.
        stored: What the label has already.
    """
    found: list[int] = []
    kept: list[int] = []
    for row, glance in enumerate(glances):
        alike = [other for other in kept if float(descriptors_nd[row] @ descriptors_nd[other]) >= _SAME_DESCRIPTOR]
        again = any(_looks_same(glance.look, glances[other].look) for other in alike)
        if again or (stored is not None and _is_stored(glance.look, descriptors_nd[row], stored)):
            found.append(row)
        else:
            kept.append(row)
    return found


def _is_stored(look: Look, descriptor_1d: Descriptors, stored: Stored) -> bool:
    for row in np.flatnonzero(stored.descriptors_nd @ descriptor_1d >= _SAME_DESCRIPTOR).tolist():
        picture = stored.picture_of(row)
        if picture is None:
            continue
        try:
            other = look_at(read_image(picture))
        except InputError:
            continue
        if _looks_same(look, other):
            return True
    return False


def _looks_same(one: Look, other: Look) -> bool:
    if one.blank or other.blank:
        return one.blank and other.blank
    return float(one.thumbnail_1d @ other.thumbnail_1d) >= _SAME_LOOK
