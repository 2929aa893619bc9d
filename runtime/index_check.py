"""What may be stored in an index or compared with it: descriptors of the model's size and of length 1."""

from collections.abc import Sequence

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import ShapeError

_LENGTH_TOLERANCE = 1e-3


def check_descriptors(descriptors_nd: Descriptors, dim: int, names: Sequence[str]) -> None:
    """Refuse what is not (N, dim) with rows of length 1; `names` are what the error calls the rows.

    Raises:
        ShapeError: Says the sizes, or the first wrong row and its length.
    """
    if descriptors_nd.ndim != 2 or descriptors_nd.shape[1] != dim:
        message = (
            f"this index holds descriptors of {dim} values, got {descriptors_nd.shape[-1]} "
            f"(shape {descriptors_nd.shape}): was it built with another model?"
        )
        raise ShapeError(message)
    lengths = np.linalg.norm(descriptors_nd, axis=1)
    # NaN compares as false, so it is caught here too
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
    if len(wrong):
        message = (
            f"the descriptor of {names[wrong[0]]} has length {lengths[wrong[0]]:.4g}, expected 1: "
            "is the picture blank, or was the descriptor not normalised?"
        )
        raise ShapeError(message)
