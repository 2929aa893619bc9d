"""Arithmetic of descriptors: length, similarity, several resolutions."""

import numpy as np
from numpy.typing import NDArray

from deepir.errors import ShapeError

Descriptors = NDArray[np.float32]
"""(N, D), each row of length 1, or 0 where there was no direction."""

LENGTH_FLOOR = 1e-6
"""A shorter vector has no direction that FP32 could tell from noise; every form of the model uses this floor."""


def normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale along the last axis to length 1; a vector shorter than LENGTH_FLOOR becomes zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(lengths < LENGTH_FLOOR, 0.0, vectors / np.maximum(lengths, LENGTH_FLOOR)).astype(vectors.dtype)


def similarities(queries_qd: Descriptors, database_nd: Descriptors) -> NDArray[np.float32]:
    """Cosine similarity of every query with every database row, (Q, N); both sides of length 1.

    Raises:
        ShapeError: The two sides have different dimensions.
    """
    if queries_qd.shape[-1] != database_nd.shape[-1]:
        message = (
            f"queries have {queries_qd.shape[-1]} values and the database {database_nd.shape[-1]}: "
            "were they made by the same model?"
        )
        raise ShapeError(message)
    similarity_qn: NDArray[np.float32] = queries_qd @ database_nd.T
    return similarity_qn


def combine_resolutions(descriptors_snd: NDArray[np.float32], how: str = "sum") -> Descriptors:
    """The multi-resolution descriptor: `sum` over S resolutions, or the `max` of each value; of length 1."""
    return normalise(descriptors_snd.sum(axis=0) if how == "sum" else descriptors_snd.max(axis=0))
