"""The similarity below which a place is unknown, from the map alone: its views compared with all other places."""

from collections.abc import Sequence

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import ShapeError
from deepir.runtime.place_hits import SamePlace
from deepir.runtime.place_spots import Spots
from deepir.runtime.pose import Spot
from deepir.runtime.threshold import FALSE_ACCEPTS, NO_OTHER, Threshold, best_of_others, check_far

_SAFETY = 0.5
"""A map resembles itself less than the unmapped rooms beside it resemble it; as for labels (field.md 7.2)."""

_MOST_ROWS = 5000
"""More rows move the quantile by less than the views do."""


def fit_place_threshold(
    descriptors_nd: Descriptors, spots: Sequence[Spot], same: SamePlace, far: float = FALSE_ACCEPTS
) -> Threshold | None:
    """The (1 - far / 2) quantile of each view's best similarity to a view of another place.

    Neighbours on the way show the same place and count for nothing, so that labels are not needed. Give `same` wide
    enough for everything that a robot may take for the place it is at. None when all views show one place.

    Args:
        descriptors_nd: (N, D) of length 1.
        spots: Where each was taken.
        same: When two views show the same place.
        far: Wanted share of unmapped queries that are taken for a place, 0..1.

    Raises:
        ShapeError: Not one spot for each descriptor, or poses of two kinds.
        OptionError: `far` is not between 0 and 1.
    """
    check_far(far)
    if len(descriptors_nd) != len(spots):
        message = f"expected a spot for each of {len(descriptors_nd)} descriptors, got {len(spots)}"
        raise ShapeError(message)
    columns = Spots.of(spots)
    count = len(spots)
    rows = np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).round().astype(np.intp))
    best_r = best_of_others(descriptors_nd, rows, lambda queries, stored: columns.same(queries, stored, same))
    found = best_r[best_r > NO_OTHER]
    if not len(found):
        return None
    return Threshold(float(np.quantile(found, 1 - far * _SAFETY)), far, len(found))
