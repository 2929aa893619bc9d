"""The similarity below which an image is unknown: from pictures of unknown things, or from the stored views alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, similarities
from deepir.errors import OptionError

FALSE_ACCEPTS = 0.01
"""Wanted share of unknown images that are taken for a label."""

_SAFETY = 0.5
"""The stored views are kinder than unknown images: the wish was missed by 1.4 to 1.8 times (field.md 7.2)."""

_CHUNK = 256
_MOST_ROWS = 5000
"""More rows move the quantile by less than the views do, and cost n x n products."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where `match` begins.

    Attributes:
        value: Similarity, from -1 to 1.
        far: The wanted share of false accepts.
        impostors: How many pictures were compared with what they do not show.
        basis: `views` when those were stored views, compared with the other labels; `unknown` when they were pictures
            of things that are not in the index.
    """

    value: float
    far: float
    impostors: int
    basis: Literal["views", "unknown"] = "views"


def fit_threshold(descriptors_nd: Descriptors, labels: Sequence[str], far: float = FALSE_ACCEPTS) -> Threshold | None:
    """The (1 - far / 2) quantile of each view's best similarity to a view of another label.

    None with fewer than two labels: there is nothing to mistake a view for.

    Raises:
        OptionError: `far` is not between 0 and 1.
    """
    check_far(far)
    names, label_n = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    maxima = _impostor_maxima(descriptors_nd, label_n)
    return Threshold(float(np.quantile(maxima, 1 - far * _SAFETY)), far, len(maxima))


def threshold_from_unknown(best_n: NDArray[np.float32], far: float = FALSE_ACCEPTS) -> Threshold:
    """The (1 - far) quantile of the best similarity that pictures of unknown things reach.

    Raises:
        OptionError: `far` is not between 0 and 1, or there are no pictures.
    """
    check_far(far)
    if not len(best_n):
        message = "a threshold from unknown things needs at least one picture of them"
        raise OptionError(message)
    return Threshold(float(np.quantile(best_n, 1 - far)), far, len(best_n), "unknown")


def check_far(far: float) -> None:
    """Refuse what is not a share.

    Raises:
        OptionError: `far` is not between 0 and 1.
    """
    if not 0 < far < 1:
        message = f"the wanted share of false accepts (far) must be between 0 and 1, got {far}"
        raise OptionError(message)


def _impostor_maxima(descriptors_nd: Descriptors, label_n: NDArray[np.intp]) -> NDArray[np.float32]:
    count = len(descriptors_nd)
    rows = np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).round().astype(np.intp))
    chunks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
    return np.concatenate([_best_other(descriptors_nd, label_n, chunk) for chunk in chunks])


def _best_other(descriptors_nd: Descriptors, label_n: NDArray[np.intp], chunk: NDArray[np.intp]) -> NDArray[np.float32]:
    similarity_cn = similarities(descriptors_nd[chunk], descriptors_nd)
    similarity_cn[label_n[chunk][:, None] == label_n[None, :]] = -np.inf
    best: NDArray[np.float32] = similarity_cn.max(axis=1)
    return best
