"""The gate: does another form of a model, INT8 or an engine, still retrieve as its FP32 form does?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.card import GateVerdict
from deepir.descriptors import Descriptors
from deepir.errors import ShapeError


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What the two forms of a model must at least share, on pictures that calibration did not see."""

    cosine_min: float = 0.98
    cosine_mean: float = 0.995
    agreement: float = 0.97


def judge(reference_nd: Descriptors, candidate_nd: Descriptors, limits: GateLimits) -> GateVerdict:
    """Compare the descriptors of the same pictures.

    Agreement is the share of pictures whose nearest neighbour among the FP32 descriptors of the other pictures is the
    same for both forms.

    Raises:
        ShapeError: Fewer than two pictures, or two arrays of different shapes.
    """
    if reference_nd.shape != candidate_nd.shape or len(reference_nd) < 2:
        message = (
            f"the gate needs two equal sets of two descriptors or more, got {reference_nd.shape}, {candidate_nd.shape}"
        )
        raise ShapeError(message)
    cosines = np.sum(reference_nd * candidate_nd, axis=1)
    agreement = float(np.mean(_nearest(reference_nd, reference_nd) == _nearest(candidate_nd, reference_nd)))
    low, mean = float(cosines.min()), float(cosines.mean())
    passed = low >= limits.cosine_min and mean >= limits.cosine_mean and agreement >= limits.agreement
    return GateVerdict(passed, round(low, 6), round(mean, 6), round(agreement, 4), len(cosines))


def verdict_text(verdict: GateVerdict) -> str:
    """One line for people."""
    return (
        f"cosine min {verdict.cosine_min:.4f} mean {verdict.cosine_mean:.4f}, nearest neighbour the same for "
        f"{verdict.agreement:.1%} of {verdict.images} pictures: {'passed' if verdict.passed else 'FAILED'}"
    )


def _nearest(queries_nd: Descriptors, database_nd: Descriptors) -> NDArray[np.intp]:
    similarity = queries_nd @ database_nd.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.intp] = similarity.argmax(axis=1)
    return nearest
