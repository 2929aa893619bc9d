"""An index's threshold, computed anew and kept, with what it rests on: impostors, and how its own views would fare."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.runtime.index import Index
from deepir.runtime.threshold import Threshold, threshold_from_unknown
from deepir.runtime.view_blocks import compared, labelled_views, sampled_rows

_STEPS = (0.01, 0.001, 0.0001)
_FEWEST_STEPS = 20
"""Models without a whitening find everything alike: a hundredth is then the whole range."""

_ROUNDING = 1e-6

Similarities = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class NearestViews:
    """Each stored view left out in turn: how near the nearest of the others are.

    Attributes:
        own_m: (M,) The best similarity to another view of its label; only views of labels that have several.
        other_n: (N,) The best similarity to a view of another label; of none where there is only one label.
        views: How many views there are; fewer were left out in turn where there are many.
    """

    own_m: Similarities
    other_n: Similarities
    views: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a threshold would let pass.

    Attributes:
        threshold: Similarity.
        impostors: Share of the impostors that reach it, 0..1.
        own: Share of the views that reach it by another view of their label; None where no label has several.
    """

    threshold: float
    impostors: float
    own: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A threshold and the similarities that speak for and against it.

    Attributes:
        threshold: As the index keeps it now.
        impostors_n: (N,) The best similarities of pictures to what they do not show.
        nearest: Of the stored views.
    """

    threshold: Threshold
    impostors_n: Similarities
    nearest: NearestViews

    def at(self, threshold: float) -> CurvePoint:
        """What a threshold would let pass."""
        return _point(threshold, self.impostors_n, self.nearest.own_m)

    def curve(self) -> Iterator[CurvePoint]:
        """From a threshold that lets all pass to one that lets nothing pass, in round steps."""
        joined = np.concatenate([self.impostors_n, self.nearest.own_m]).astype(np.float64)
        low, high = float(joined.min()), float(joined.max())
        step = next((step for step in _STEPS if high - low > (_FEWEST_STEPS - 1) * step), _STEPS[-1])
        steps = round(1 / step)
        # whole numbers of steps, so that none is lost to rounding
        for number in range(math.floor(low * steps + _ROUNDING), math.floor(high * steps) + 2):
            yield self.at(number / steps)

    def warnings(self) -> Iterator[str]:
        """Sentences for whoever would trust the threshold too much."""
        if self.threshold.extrapolated:
            few = "pictures of unknown things" if self.threshold.basis == "unknown" else "labels"
            yield (
                f"so few {few} do not show a share of {self.threshold.far:g} (1 in "
                f"{math.ceil(1 / self.threshold.far - _ROUNDING)}), so the threshold is an extrapolation: give more "
                "pictures of other things with --unknown DIR, or a larger --far"
            )
        own = self.at(self.threshold.value).own
        if own is not None and own < 0.5:
            yield (
                f"the threshold {self.threshold.value:.3f} is so high that {1 - own:.0%} of the stored views would be "
                "unknown if their label had only its other views: add views, allow more with --far, or give pictures "
                "of other things with --unknown DIR"
            )


def calibrate(index: Index, far: float, unknown_nd: Descriptors | None = None) -> Calibration:
    """Compute the threshold of an index that was opened to be changed, and keep it there.

    Args:
        index: With two labels or more, or one when unknown things are given.
        far: Wanted share of false accepts, between 0 and 1.
        unknown_nd: The model's descriptors (U, D) of pictures of things that are not in the index; None takes the
            stored views, each compared with the other labels.

    Raises:
        InputError: There are too few labels to compare with.
        OptionError: `far` is not a share, or the index was opened only for reading.
    """
    labels = len(index.labels)
    if labels < (2 if unknown_nd is None else 1):
        raise _too_few(labels)
    nearest = nearest_views(index)
    if unknown_nd is not None:
        best_u = np.array([hits[0].similarity for hits in index.search_many(unknown_nd, 1)], np.float32)
        threshold = threshold_from_unknown(best_u, far)
        index.set(threshold=threshold, far=far)
        return Calibration(threshold, best_u, nearest)
    fitted = index.fit_threshold(far)
    if fitted is None:
        raise _too_few(labels)
    return Calibration(fitted, nearest.other_n, nearest)


def _too_few(labels: int) -> InputError:
    others = ", or give pictures of other things with --unknown DIR" if labels else ""
    return InputError(f"the index has {labels} labels, too few for a threshold: add labels{others}")


def nearest_views(index: Index) -> NearestViews:
    """Leave each stored view out in turn, or of very many an even sample, and see what is nearest to it."""
    views = labelled_views(index)
    rows = sampled_rows(views)
    label_n = views.labels_n
    own = np.full(len(views), -np.inf, np.float32)
    other = own.copy()
    for some, block, similarity_sc in compared(index, views, rows):
        same_sc = label_n[some][:, None] == label_n[block][None, :]
        own[some] = np.maximum(own[some], np.where(same_sc, similarity_sc, -np.inf).max(axis=1))
        other[some] = np.maximum(other[some], np.where(same_sc, -np.inf, similarity_sc).max(axis=1))
    own_m, other_n = own[rows], other[rows]
    return NearestViews(own_m[np.isfinite(own_m)], other_n[np.isfinite(other_n)], len(views))


def _point(threshold: float, impostors_n: Similarities, own_m: Similarities) -> CurvePoint:
    # in double precision, as the recogniser compares
    own = float(np.mean(own_m.astype(np.float64) >= threshold)) if len(own_m) else None
    return CurvePoint(threshold, float(np.mean(impostors_n.astype(np.float64) >= threshold)), own)
