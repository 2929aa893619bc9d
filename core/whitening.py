"""Whitening: one affine map that decorrelates region vectors (PCA), or one learned from matching descriptors (Lw)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.errors import ShapeError

_VARIANCE_FLOOR = 1e-9
_CONSTANT = 1e-7
"""A channel of vectors of length 1 that deviates less is constant: FP32 rounds that far."""

_SINGULAR = 1e-7
"""Of the mean variance: a smaller one is rounding, and its inverse noise."""

_RIDGE = 0.5
"""Of the mean variance, added to each channel's where pairs tell too little; on pictures of labels that were held out
0.3 to 1 served best, on three trunks."""

_DESCRIPTORS_PER_CHANNEL = 10
"""With fewer in the pairs the covariance of their differences is too poorly known to be inverted as it is."""

_CHUNK = 4096
"""Rows in FP64 at a time, so that half-precision vectors stay small in memory."""

Rows = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Whitening:
    """An affine map y = weight @ x + bias that decorrelates, shrinks and scales vectors.

    Attributes:
        weight_dc: (D, C).
        bias_d: (D,).
    """

    weight_dc: NDArray[np.float32]
    bias_d: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """The principal components of vectors, from which whitenings of any dimension and power are cut.

    Attributes:
        count: Vectors they were found on.
        mean_c: (C,).
        deviation_c: (C,), what each channel is divided by first; ones unless standardised.
        variances_c: (C,), falling.
        components_cc: A component of length 1 in each row, in the order of `variances_c`.
    """

    count: int
    mean_c: NDArray[np.float64]
    deviation_c: NDArray[np.float64]
    variances_c: NDArray[np.float64]
    components_cc: NDArray[np.float64]

    @property
    def most(self) -> int:
        """The largest dimension of a whitening: n vectors span n - 1 directions around their mean."""
        return min(self.count - 1, len(self.mean_c))

    def whitening(self, dim: int, power: float = 0.5) -> Whitening:
        """The first `dim` components, each divided by variance ** power, as one affine map.

        Raises:
            ShapeError: More components than the vectors can carry.
        """
        check_carried(self.count, len(self.mean_c), dim)
        scale_d = np.maximum(self.variances_c[:dim], _VARIANCE_FLOOR) ** -power
        weight_dc = self.components_cc[:dim] * scale_d[:, None] / self.deviation_c
        return Whitening(weight_dc.astype(np.float32), (-weight_dc @ self.mean_c).astype(np.float32))


def fit_whitening(
    vectors_nc: Rows,
    dim: int,
    *,
    power: float = 0.5,
    weights_n: NDArray[np.float64] | None = None,
    standardise: bool = False,
) -> Whitening:
    """PCA of vectors, each component divided by variance ** power (0.5 whitens fully, 0 only rotates).

    Args:
        vectors_nc: (N, C) region vectors of length 1.
        dim: Components to keep, at most min(N - 1, C).
        power: 0..0.5; a smaller power amplifies noise less when there are few vectors.
        weights_n: Importance of each vector; equal when None.
        standardise: Divide each channel by its deviation first; a constant one by 1 (method.md 4.1).

    Raises:
        ShapeError: More components than the vectors can carry, or values that are not finite.
    """
    count, channels = _checked(vectors_nc).shape
    # before the decomposition, which takes seconds
    check_carried(count, channels, dim)
    return principal_components(vectors_nc, weights_n=weights_n, standardise=standardise).whitening(dim, power)


def principal_components(
    vectors_nc: Rows, *, weights_n: NDArray[np.float64] | None = None, standardise: bool = False
) -> PrincipalComponents:
    """Mean, variances and components of vectors, weighted and standardised as in `fit_whitening`.

    Raises:
        ShapeError: Not rows of finite values, fewer than two, or weights that are not one positive sum over the rows.
    """
    count, channels = _checked(vectors_nc).shape
    shares_n = _shares(weights_n, count)
    mean_c = np.zeros(channels)
    for rows, vectors in _chunks(vectors_nc):
        mean_c += shares_n[rows] @ vectors
    covariance_cc = np.zeros((channels, channels))
    for rows, vectors in _chunks(vectors_nc):
        centred = vectors - mean_c
        covariance_cc += (centred * shares_n[rows, None]).T @ centred
    deviation_c = np.ones(channels)
    if standardise:
        spread_c = np.sqrt(np.diag(covariance_cc))
        deviation_c = np.where(spread_c < _CONSTANT, 1.0, spread_c)
        covariance_cc /= np.outer(deviation_c, deviation_c)
    variances_c, components_cc = _falling(covariance_cc)
    return PrincipalComponents(count, mean_c, deviation_c, variances_c, components_cc)


def fit_learned_whitening(
    descriptors_nc: Rows, queries: NDArray[np.intp], positives: NDArray[np.intp], dim: int | None = None
) -> Whitening:
    """Whitening learned from matching pairs, the Lw of cnnimageretrieval (method.md 5).

    The differences of matching descriptors get covariance one, so that how pictures of the same thing vary counts the
    same in every direction; then the directions in which all descriptors vary most come first.  Where the covariance
    of the differences is not positive definite, or the pairs hold fewer than ten descriptors for each channel, a ridge
    of half its mean variance is added to every channel first, which keeps what the few pairs do not show small.

    Args:
        descriptors_nc: (N, C).
        queries: For each matching pair the row of its first descriptor.
        positives: For each matching pair the row of its second.
        dim: Values to keep, at most min(N - 1, C), which is what None keeps.

    Raises:
        ShapeError: Fewer pairs than dimensions, pairs that are all equal, or values that are not finite.
    """
    count, channels = _checked(descriptors_nc).shape
    dim = min(count - 1, channels) if dim is None else dim
    check_carried(count, channels, dim)
    pairs = _check_pairs(queries, positives, count)
    if pairs < dim:
        message = (
            f"{pairs} matching pairs are too few to learn a whitening of {dim} values: "
            "use more pictures of each label or a smaller dim"
        )
        raise ShapeError(message)
    differences_cc = np.zeros((channels, channels))
    for rows, vectors in _chunks(descriptors_nc, queries):
        difference = vectors - descriptors_nc[positives[rows]].astype(np.float64)
        differences_cc += difference.T @ difference / pairs
    mean_c = descriptors_nc[queries].mean(axis=0, dtype=np.float64)
    few = len(np.union1d(queries, positives)) < _DESCRIPTORS_PER_CHANNEL * channels
    unit_cc = np.linalg.inv(np.linalg.cholesky(_invertible(differences_cc, few=few)))
    spread_cc = np.zeros((channels, channels))
    for _, vectors in _chunks(descriptors_nc):
        projected = (vectors - mean_c) @ unit_cc.T
        spread_cc += projected.T @ projected
    weight_dc = _falling(spread_cc)[1][:dim] @ unit_cc
    return Whitening(weight_dc.astype(np.float32), (-weight_dc @ mean_c).astype(np.float32))


def check_carried(count: int, channels: int, dim: int) -> None:
    """Raise ShapeError when `count` vectors of `channels` values cannot carry `dim` components."""
    if not 1 <= dim <= min(count - 1, channels):
        message = (
            f"{count} vectors of {channels} values cannot carry {dim} components: use more images or a smaller dim"
        )
        raise ShapeError(message)


def _checked(vectors_nc: Rows) -> Rows:
    if vectors_nc.ndim != 2 or len(vectors_nc) < 2:
        message = f"whitening needs two or more vectors of one length, got an array of shape {vectors_nc.shape}"
        raise ShapeError(message)
    if not np.isfinite(vectors_nc).all():
        message = "the vectors to whiten hold NaN or infinity: the trunk's weights are damaged"
        raise ShapeError(message)
    return vectors_nc


def _shares(weights_n: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    if weights_n is None:
        return np.full(count, 1 / count)
    if weights_n.shape != (count,) or not (weights_n >= 0).all() or not 0 < weights_n.sum() < np.inf:
        message = f"expected {count} weights of 0 or more, not all 0, got an array of shape {weights_n.shape}"
        raise ShapeError(message)
    shares: NDArray[np.float64] = weights_n / weights_n.sum()
    return shares


def _check_pairs(queries: NDArray[np.intp], positives: NDArray[np.intp], count: int) -> int:
    rows = np.concatenate([queries, positives])
    if queries.shape != positives.shape or (len(rows) and not 0 <= rows.min() <= rows.max() < count):
        message = (
            f"each pair needs two of the {count} rows, got {queries.shape} queries and {positives.shape} positives"
        )
        raise ShapeError(message)
    return len(queries)


def _invertible(covariance_cc: NDArray[np.float64], *, few: bool) -> NDArray[np.float64]:
    mean_variance = float(np.trace(covariance_cc)) / len(covariance_cc)
    if mean_variance <= 0:
        message = "the two descriptors of every matching pair are equal: give different pictures of each label"
        raise ShapeError(message)
    if not few and np.linalg.eigvalsh(covariance_cc)[0] > _SINGULAR * mean_variance:
        return covariance_cc
    ridged: NDArray[np.float64] = covariance_cc + _RIDGE * mean_variance * np.eye(len(covariance_cc))
    return ridged


def _falling(symmetric_cc: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, largest first, and their eigenvectors as rows."""
    values, columns = np.linalg.eigh(symmetric_cc)
    vectors = columns.T[::-1]
    # the sign of an eigenvector is arbitrary: fix it, so that the same images give the same file
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
    return values[::-1], vectors * signs[:, None]


def _chunks(vectors_nc: Rows, order: NDArray[np.intp] | None = None) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Slices of the rows, or of their `order`, with those rows in FP64."""
    for start in range(0, len(vectors_nc) if order is None else len(order), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, vectors_nc[rows if order is None else order[rows]].astype(np.float64)
