"""Which items are near enough: all at or above a similarity threshold, and where similarities suggest one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.errors import OptionError, ShapeError

Similarities = NDArray[np.float32]
"""(N,)"""


@dataclass(frozen=True, slots=True)
class Gap:
    """The widest gap between similarities that follow each other.

    Attributes:
        threshold: In its middle: above `below`, at most `above`.
        above, below: The similarities at its two ends.
    """

    threshold: float
    above: float
    below: float

    @property
    def width(self) -> float:
        """How wide it is; a gap hardly wider than the others suggests little."""
        return self.above - self.below


def rows_at_least(similarity_n: Similarities, threshold: float) -> NDArray[np.intp]:
    """Rows of similarity `threshold` or more, best first; ties keep their order (method.md 4.6).

    The threshold is rounded to the type of the similarities, so that one of 0.7 is among those of at least 0.7.

    Raises:
        ShapeError: Not one finite similarity for each row.
        OptionError: The threshold is not a number.
    """
    _check(similarity_n)
    if np.isnan(threshold):
        message = f"a similarity threshold is a number, usually from -1 to 1, got {threshold}"
        raise OptionError(message)
    order = np.argsort(-similarity_n, kind="stable")
    rows: NDArray[np.intp] = order[similarity_n[order] >= similarity_n.dtype.type(threshold)]
    return rows


def suggest_threshold(similarity_n: Similarities, low: float = 0.0, high: float = 1.0) -> Gap:
    """The widest gap of the similarities within low..high; of equal gaps the one of the highest similarities.

    Args:
        similarity_n: Of one query to each row, or of many queries joined.
        low: Similarities below it are not looked at.
        high: Nor those above it.

    Raises:
        ShapeError: Not finite, or fewer than two different similarities in the range.
        OptionError: `low` is not below `high`.
    """
    _check(similarity_n)
    if not low < high:
        message = f"a range of similarities needs low below high, got {low} and {high}"
        raise OptionError(message)
    within = np.unique(similarity_n[(similarity_n >= low) & (similarity_n <= high)])
    if len(within) < 2:
        message = f"{len(within)} different similarities lie within {low}..{high}: a gap needs two, widen the range"
        raise ShapeError(message)
    upper = len(within) - 1 - int(np.argmax(np.diff(within)[::-1]))
    below, above = within[upper - 1], within[upper]
    # between two neighbouring numbers of this precision there is no middle
    middle = within.dtype.type((float(below) + float(above)) / 2)
    return Gap(float(middle if middle > below else above), float(above), float(below))


def _check(similarity_n: Similarities) -> None:
    if similarity_n.ndim != 1 or not np.isfinite(similarity_n).all():
        state = "NaN or infinity" if similarity_n.ndim == 1 else f"shape {similarity_n.shape}"
        message = f"expected one finite similarity for each row (N,), got {state}"
        raise ShapeError(message)
