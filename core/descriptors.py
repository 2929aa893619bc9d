"""Arithmetic of descriptors: length, similarity, PCA whitening."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.errors import ShapeError

Descriptors = NDArray[np.float32]
"""(N, D), each row of length 1, or 0 where there was no direction."""

LENGTH_FLOOR = 1e-6
"""A shorter vector has no direction that FP32 could tell from noise; every form of the model uses this floor."""

_VARIANCE_FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class Whitening:
    """An affine map y = weight @ x + bias that decorrelates, shrinks and scales region vectors.

    Attributes:
        weight_dc: (D, C).
        bias_d: (D,).
    """

    weight_dc: NDArray[np.float32]
    bias_d: NDArray[np.float32]


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


def combine_resolutions(descriptors_snd: NDArray[np.float32]) -> Descriptors:
    """The multi-resolution descriptor: the sum over S resolutions, of length 1 (method.md 2.3)."""
    return normalise(descriptors_snd.sum(axis=0))


def fit_whitening(
    vectors_nc: NDArray[np.float32], dim: int, *, power: float = 0.5, weights_n: NDArray[np.float64] | None = None
) -> Whitening:
    """PCA of vectors, each component divided by variance ** power (0.5 whitens fully, 0 only rotates).

    Args:
        vectors_nc: (N, C) region vectors of length 1.
        dim: Components to keep, at most min(N - 1, C).
        power: 0..0.5; a smaller power amplifies noise less when there are few vectors.
        weights_n: Importance of each vector; equal when None.

    Raises:
        ShapeError: More components than the vectors can carry, or values that are not finite.
    """
    count, channels = vectors_nc.shape
    if not 1 <= dim <= min(count - 1, channels):
        message = (
            f"{count} region vectors of {channels} values cannot carry {dim} components: "
            "use more images or a smaller dim"
        )
        raise ShapeError(message)
    if not np.isfinite(vectors_nc).all():
        message = "region vectors hold NaN or infinity: the trunk's weights are damaged"
        raise ShapeError(message)
    weights = np.full(count, 1 / count) if weights_n is None else weights_n / weights_n.sum()
    vectors = vectors_nc.astype(np.float64)
    mean_c = weights @ vectors
    centred = vectors - mean_c
    variances, components = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    largest = np.argsort(variances)[::-1][:dim]
    scale = np.maximum(variances[largest], _VARIANCE_FLOOR) ** -power
    # the sign of an eigenvector is arbitrary: fix it, so that the same images give the same file
    kept = components[:, largest].T
    kept *= np.sign(kept[np.arange(dim), np.abs(kept).argmax(axis=1)])[:, None]
    weight_dc = kept * scale[:, None]
    return Whitening(weight_dc.astype(np.float32), (-weight_dc @ mean_c).astype(np.float32))
