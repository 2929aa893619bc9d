"""The gate: does another form of a model, INT8 or an engine, still retrieve as its FP32 form does?"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.card import ONNX_RUNTIME, GateVerdict
from deepir.descriptors import Descriptors
from deepir.errors import OptionError, ShapeError

_EQUAL = 1e-3
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What the two forms of a model must at least share, on pictures that calibration did not see.

    Attributes:
        map_loss: Mean average precision that may be lost where pictures have labels, 0..1.
    """

    cosine_min: float = 0.98
    cosine_mean: float = 0.995
    agreement: float = 0.97
    map_loss: float = 0.003

    @classmethod
    def around(cls, cosine_mean: float) -> "GateLimits":
        """Limits for another mean, in the proportions of the defaults.

        A single picture may differ four times as much as the mean, six times that share of nearest neighbours, and
        0.6 times as much of the mean average precision may be lost.

        Raises:
            OptionError: Not above 0 and at most 1.
        """
        if not 0 < cosine_mean <= 1:
            message = f"the gate is a mean cosine above 0, at most 1, such as 0.99; got {cosine_mean}"
            raise OptionError(message)
        allowed = 1 - cosine_mean
        return cls(
            cosine_min=1 - 4 * allowed,
            cosine_mean=cosine_mean,
            agreement=1 - 6 * allowed,
            map_loss=0.6 * allowed,
        )


def judge(
    reference_nd: Descriptors, candidate_nd: Descriptors, limits: GateLimits, program: str = ONNX_RUNTIME
) -> GateVerdict:
    """Compare the descriptors of the same pictures.

    Agreement is the share of pictures whose nearest neighbour among the FP32 descriptors of the other pictures is the
    same for both forms. Neighbours whose FP32 similarities differ by less than 0.001 count as the same: which of two
    equals comes first says nothing about a form.

    Raises:
        ShapeError: Fewer than two pictures, or two arrays of different shapes.
    """
    if reference_nd.shape != candidate_nd.shape or len(reference_nd) < 2:
        message = (
            f"the gate needs two equal sets of two descriptors or more, got {reference_nd.shape}, {candidate_nd.shape}"
        )
        raise ShapeError(message)
    cosines = np.sum(reference_nd * candidate_nd, axis=1)
    similarity_nn = _similarity_to_others(reference_nd, reference_nd)
    chosen_n = _similarity_to_others(candidate_nd, reference_nd).argmax(axis=1)
    lost_n = similarity_nn.max(axis=1) - similarity_nn[np.arange(len(chosen_n)), chosen_n]
    agreement = float(np.mean(lost_n < _EQUAL))
    low, mean = float(cosines.min()), float(cosines.mean())
    # in whole pictures: of 32 one may differ, or the limit would be perfection
    different, allowed = int((lost_n >= _EQUAL).sum()), math.ceil((1 - limits.agreement) * len(lost_n) - _ROUNDING)
    passed = low >= limits.cosine_min and mean >= limits.cosine_mean and different <= allowed
    return GateVerdict(passed, round(low, 6), round(mean, 6), round(agreement, 4), len(cosines), program)


def verdict_text(verdict: GateVerdict) -> str:
    """One line for people."""
    labelled = ""
    if verdict.map_loss is not None and verdict.recall_loss is not None:
        changes = f"mAP {_points(verdict.map_loss)}, recall@1 {_points(verdict.recall_loss)}"
        labelled = f", {changes} points for {verdict.queries} queries"
    return (
        f"cosine min {verdict.cosine_min:.4f} mean {verdict.cosine_mean:.4f}, nearest neighbour the same for "
        f"{verdict.agreement:.1%} of {verdict.images} pictures{labelled}: {'passed' if verdict.passed else 'FAILED'}"
    )


def _points(loss: float) -> str:
    return f"{0.0 - 100 * loss:+.1f}"


def _similarity_to_others(queries_nd: Descriptors, database_nd: Descriptors) -> NDArray[np.float32]:
    similarity_nn: NDArray[np.float32] = queries_nd @ database_nd.T
    np.fill_diagonal(similarity_nn, -np.inf)
    return similarity_nn
