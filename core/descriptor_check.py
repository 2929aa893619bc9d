"""Refusing arrays that are no descriptors, before anything is computed from them."""

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import ShapeError


def check_descriptors(name: str, descriptors_nd: Descriptors) -> None:
    """Check that an array is (N, D) and finite; `name` is what the error calls it.

    Raises:
        ShapeError: Another shape, NaN or infinity.
    """
    if descriptors_nd.ndim != 2:
        message = f"{name}: expected descriptors of shape (N, D), got {descriptors_nd.shape}"
        raise ShapeError(message)
    damaged = np.flatnonzero(~np.isfinite(descriptors_nd).all(axis=1))
    if len(damaged):
        message = (
            f"{name}: {len(damaged)} of {len(descriptors_nd)} descriptors hold NaN or infinity, row {damaged[0]} first"
        )
        raise ShapeError(message)
