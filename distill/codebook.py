"""Bags of words, VLAD and Fisher vectors: what a codebook makes of the local vectors of a picture (method.md 6, 8)."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import normalise
from deepir.errors import OptionError, ShapeError
from deepir.optional import need

Kind = Literal["bow", "vlad", "fisher"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LocalVectors = NDArray[np.float32]
"""(T, C): T places of a picture, each a vector of length 1."""

_Doubles = NDArray[np.float64]
_SMALLEST_VARIANCE = 1e-6
_SEEDED_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codebook:
    """K words for local vectors of C values.

    Attributes:
        kind: What a picture becomes: `bow` counts its words (K values), `vlad` sums what its vectors differ from their
            words (K * C), `fisher` says how a mixture of Gaussians would have to change to fit it (2 * K * C).
        centres_kc: (K, C) float32, the words, or the means of the Gaussians.
        variances_kc: (K, C) float32 of the Gaussians, above 0; None but for `fisher`.
        weights_k: (K,) float32 of the Gaussians, above 0, sum 1; None but for `fisher`.
        model: Fingerprint of the model whose local vectors it was fitted on; empty when unknown.

    Raises:
        OptionError: No such kind.
        ShapeError: Arrays that do not fit together, or values that cannot be.
    """

    kind: Kind
    centres_kc: NDArray[np.float32]
    variances_kc: NDArray[np.float32] | None = None
    weights_k: NDArray[np.float32] | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            message = f"a codebook is one of {', '.join(KINDS)}, got {self.kind!r}"
            raise OptionError(message)
        given = {"centres": self.centres_kc, "variances": self.variances_kc, "weights": self.weights_k}
        shape = self.centres_kc.shape
        expected = (
            {"centres": shape, "variances": shape, "weights": shape[:1]}
            if self.kind == "fisher"
            else {"centres": shape}
        )
        found = {name: array.shape for name, array in given.items() if array is not None}
        if found != expected or len(shape) != 2 or 0 in shape:
            message = f"a codebook for {self.kind} needs arrays of K words and C values {list(expected)}, got {found}"
            raise ShapeError(message)
        for name, array in given.items():
            if array is not None and not (np.isfinite(array).all() and (name == "centres" or (array > 0).all())):
                message = f"the {name} of a codebook must be finite, variances and weights above 0: fit it again"
                raise ShapeError(message)

    @property
    def words(self) -> int:
        """K."""
        return len(self.centres_kc)

    @property
    def dim(self) -> int:
        """Values of a descriptor."""
        return {"bow": self.words, "vlad": self.centres_kc.size, "fisher": 2 * self.centres_kc.size}[self.kind]


def fit_codebook(
    vectors_nc: LocalVectors, words: int, kind: Kind = "vlad", *, seed: int = 0, model: str = ""
) -> Codebook:
    """Cluster local vectors: k-means for `bow` and `vlad`, Gaussians with diagonal covariances for `fisher`.

    Args:
        vectors_nc: (N, C), those of many pictures.
        words: K, at most N.
        kind: See `Codebook`.
        seed: The same seed and vectors give the same codebook.
        model: Fingerprint to keep.

    Raises:
        ShapeError: Not (N, C), fewer vectors than words, or values that are not finite.
        OptionError: No such kind, or fewer than one word.
        MissingDependency: scikit-learn is not installed.
    """
    _check_vectors(vectors_nc)
    if words < 1 or kind not in KINDS:
        message = f"a codebook needs 1 word or more and a kind of {', '.join(KINDS)}, got {words} and {kind!r}"
        raise OptionError(message)
    if len(vectors_nc) < words:
        message = f"{len(vectors_nc)} local vectors are too few for {words} words: use more pictures or fewer words"
        raise ShapeError(message)
    if kind == "fisher":
        mixture = need("sklearn.mixture").GaussianMixture(
            words, covariance_type="diag", reg_covar=_SMALLEST_VARIANCE, random_state=seed
        )
        mixture.fit(vectors_nc)
        means, variances, weights = (
            _float32(array) for array in (mixture.means_, mixture.covariances_, mixture.weights_)
        )
        return Codebook(kind=kind, centres_kc=means, variances_kc=variances, weights_k=weights, model=model)
    clusters = need("sklearn.cluster").KMeans(words, n_init=_SEEDED_STARTS, random_state=seed).fit(vectors_nc)
    return Codebook(kind=kind, centres_kc=_float32(clusters.cluster_centers_), model=model)


def encode(codebook: Codebook, vectors_tc: LocalVectors) -> NDArray[np.float32]:
    """The descriptor of one picture, (D,), of length 1; zero where it has no direction.

    Raises:
        ShapeError: No local vectors, of another size than the words, or not finite.
    """
    embed = {"bow": word_counts, "vlad": vlad, "fisher": fisher_vector}[codebook.kind]
    return normalise(embed(codebook, vectors_tc).ravel().astype(np.float32))


def word_counts(codebook: Codebook, vectors_tc: LocalVectors) -> _Doubles:
    """How many of the T vectors are nearest to each word: (K,), sum T.

    Raises:
        ShapeError: As `encode`.
    """
    return np.bincount(_nearest(codebook, vectors_tc), minlength=codebook.words).astype(np.float64)


def vlad(codebook: Codebook, vectors_tc: LocalVectors) -> _Doubles:
    """g_k = 1/T * the sum of x - c_k over the vectors x nearest to the word c_k: (K, C) (method.md 6).

    Raises:
        ShapeError: As `encode`.
    """
    nearest = _nearest(codebook, vectors_tc)
    sums_kc = np.zeros(codebook.centres_kc.shape)
    np.add.at(sums_kc, nearest, vectors_tc - codebook.centres_kc[nearest].astype(np.float64))
    return sums_kc / len(vectors_tc)


def fisher_vector(codebook: Codebook, vectors_tc: LocalVectors) -> _Doubles:
    """The gradient of the mean log-likelihood by means and deviations, each in units of its own deviation: (2, K, C).

    By the mean of Gaussian k: 1 / (T sqrt(w_k)) * sum of p(k|x) (x - mu_k) / sigma_k; by its deviation:
    1 / (T sqrt(2 w_k)) * sum of p(k|x) ((x - mu_k)^2 / sigma_k^2 - 1).

    Raises:
        ShapeError: As `encode`, or the codebook is not one for `fisher`.
    """
    _check_vectors(vectors_tc, codebook)
    if codebook.variances_kc is None or codebook.weights_k is None:
        message = f"a Fisher vector needs a codebook of kind fisher, got {codebook.kind}"
        raise ShapeError(message)
    means, variances, weights = (
        array.astype(np.float64) for array in (codebook.centres_kc, codebook.variances_kc, codebook.weights_k)
    )
    vectors = vectors_tc.astype(np.float64)
    shares_tk = _responsibilities(vectors, means, variances, weights)
    mass = shares_tk.sum(axis=0)[:, None]
    first, second = shares_tk.T @ vectors, shares_tk.T @ vectors**2
    by_mean = (first - mass * means) / np.sqrt(variances)
    by_deviation = ((second - 2 * means * first + mass * means**2) / variances - mass) / np.sqrt(2)
    gradients: _Doubles = np.stack([by_mean, by_deviation]) / (len(vectors) * np.sqrt(weights)[:, None])
    return gradients


def _responsibilities(vectors: _Doubles, means: _Doubles, variances: _Doubles, weights: _Doubles) -> _Doubles:
    """p(k|x) for each vector and Gaussian, (T, K)."""
    squares = vectors**2 @ (1 / variances).T - 2 * vectors @ (means / variances).T + (means**2 / variances).sum(axis=1)
    log_tk = np.log(weights) - 0.5 * (squares + np.log(variances).sum(axis=1))
    log_tk -= log_tk.max(axis=1, keepdims=True)
    likelihood_tk = np.exp(log_tk)
    shares: _Doubles = likelihood_tk / likelihood_tk.sum(axis=1, keepdims=True)
    return shares


def _nearest(codebook: Codebook, vectors_tc: LocalVectors) -> NDArray[np.intp]:
    _check_vectors(vectors_tc, codebook)
    centres = codebook.centres_kc.astype(np.float64)
    # |x - c|^2 without |x|^2, which is the same for every word
    distance_tk = (centres**2).sum(axis=1) - 2 * vectors_tc.astype(np.float64) @ centres.T
    nearest: NDArray[np.intp] = distance_tk.argmin(axis=1)
    return nearest


def _check_vectors(vectors_tc: LocalVectors, codebook: Codebook | None = None) -> None:
    channels = vectors_tc.shape[-1] if codebook is None else codebook.centres_kc.shape[1]
    if vectors_tc.ndim != 2 or 0 in vectors_tc.shape or vectors_tc.shape[1] != channels:
        message = f"expected local vectors of shape (T, {channels}), got {vectors_tc.shape}: are they of another model?"
        raise ShapeError(message)
    if not np.isfinite(vectors_tc).all():
        message = "local vectors hold NaN or infinity: the trunk's weights are damaged"
        raise ShapeError(message)


def _float32(array: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)
