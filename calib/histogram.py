"""Histograms of magnitudes, which grow with what they see, and the ranges that are read from them (tensorrt.md 8)."""

import math

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
"""How many magnitudes lie in each of BINS bins of one width, the first of which begins at 0."""

BINS = 8192

_SMALLEST_WIDTH = 2.0**-60
_LARGEST_CODE = 127
_TRIED_SHARES = np.linspace(0.1, 1.0, 91)
"""Shares of the largest magnitude that are tried as the range where the squared error decides."""

_TRIED_BY_ENTROPY = 128


def bin_width(largest: float) -> float:
    """The least power of two by which `largest` falls into one of BINS bins.

    Widths of this form make bins that two histograms share or that merge whole, so that the order in which values
    come changes nothing, and dividing by them is exact.
    """
    _, exponent = math.frexp(largest)
    return max(math.ldexp(1.0, exponent) / BINS, _SMALLEST_WIDTH)


def count(magnitudes_n: NDArray[np.float32], width: float) -> Counts:
    """Count magnitudes below `width * BINS`."""
    places = (magnitudes_n * np.float32(1 / width)).astype(np.int64)
    return np.bincount(places, minlength=BINS)


def widen(counts: Counts, width: float, wider: float) -> Counts:
    """The same values in bins of a larger width, a power of two times the old one."""
    while width < wider:
        counts = np.concatenate([counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, dtype=np.int64)])
        width *= 2
    return counts


def share_beyond(counts: Counts, width: float, limit: float) -> float:
    """The share of the values above `limit`, 0..1; values are taken as even within the bin of the limit."""
    place = limit / width
    inside = int(place)
    if inside >= BINS:
        return 0.0
    beyond = counts[inside + 1 :].sum() + counts[inside] * (1 - (place - inside))
    return float(beyond / max(counts.sum(), 1))


def percentile_range(counts: Counts, width: float, percent: float) -> float:
    """The upper edge of the bin below which `percent` of the values lie."""
    wanted = counts.sum() * (percent / 100)
    return width * (1 + int(np.searchsorted(counts.cumsum(), wanted)))


def least_squares_range(counts: Counts, width: float, largest: float) -> float:
    """The range up to `largest` whose rounding and clipping together move the values least, in the mean square."""
    used = np.flatnonzero(counts)
    middles, ranges = (used + 0.5) * width, largest * _TRIED_SHARES
    steps = (ranges / _LARGEST_CODE)[:, None]
    codes = np.minimum(np.rint(middles / steps), _LARGEST_CODE)
    return float(ranges[((codes * steps - middles) ** 2 @ counts[used]).argmin()])


def entropy_range(counts: Counts, width: float, largest: float) -> float:
    """The range up to `largest` whose codes lose the least information: least divergence (Kullback, Leibler).

    The idea that TensorRT published: compare the values, those beyond the range counted with the last within, with what
    the codes can tell of those within, which is how many have each code. The first bin, where a ReLU leaves its
    zeros, counts as the second: a zero costs nothing whatever the range.
    """
    counts = counts.copy()
    counts[0] = counts[1]
    end = min(int(largest / width) + 1, BINS)
    tried = np.unique(np.linspace(min(_LARGEST_CODE + 1, end), end, _TRIED_BY_ENTROPY).astype(int))
    best = min(tried[::-1], key=lambda bins: _divergence(counts, int(bins)))
    return min(float(best) * width, largest)


def _divergence(counts: Counts, bins: int) -> float:
    """How much worse the codes of a range of so many bins tell the values than the bins do; inf where none is in it."""
    within = counts[:bins].astype(np.float64)
    filled = np.flatnonzero(within)
    if not len(filled):
        return math.inf
    codes = np.rint((filled + 0.5) * (_LARGEST_CODE / bins)).astype(int)
    told = (np.bincount(codes, weights=within[filled]) / np.maximum(np.bincount(codes), 1))[codes]
    true = within[filled]
    true[-1] += counts[bins:].sum()
    true, told = true / true.sum(), told / told.sum()
    return float(np.sum(true * np.log(true / told)))
