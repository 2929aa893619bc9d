"""Frames that no camera saw: flat or torn ones, as decoders give them at the start of a stream, and frozen ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bgr = NDArray[Any]

_LEAST_DEVIATION = 2.0
"""Grey levels, of 256; field.md 4.2, line 21."""

_SAMPLES = 64
"""About so many rows and columns are looked at first."""

_PERSISTS = 3.0
"""After so many seconds of nothing else, it is what the camera sees: a lens cap, a bar of the picture."""

_TORN_PART = 8
_GREY, _GREY_SLACK = 128, 2
_GREEN = (0, 135, 0)
"""What YUV of all zeros looks like as BGR, give or take the decoder's rounding."""

_GREEN_SLACK = 20


class FrameFilter:
    """Judges the frames of one camera in the order in which they arrive."""

    def __init__(self) -> None:
        self._refusing_since: float | None = None
        self._before: Bgr | None = None
        self._same_since = 0.0

    def accepts(self, bgr: Bgr, now: float) -> bool:
        """Whether the frame may be looked at: neither flat nor torn, or nothing else has come for 3 seconds."""
        if not (_is_flat(bgr) or _is_torn(bgr)):
            self._refusing_since = None
            return True
        if self._refusing_since is None:
            self._refusing_since = now
        return now - self._refusing_since >= _PERSISTS

    def frozen_for(self, bgr: Bgr, now: float) -> float:
        """For how many seconds every frame, up to this one, has had the same pixels."""
        before, self._before = self._before, bgr
        if before is None or not _are_identical(before, bgr):
            self._same_since = now
        return now - self._same_since

    def begin(self, *, frozen: bool) -> None:
        """A new connection; after one that was frozen the same pixels are frozen still."""
        self._refusing_since = None
        if not frozen:
            self._before = None


def _is_flat(bgr: Bgr) -> bool:
    return float(_sample(bgr).std(axis=(0, 1)).max()) < _LEAST_DEVIATION


def _is_torn(bgr: Bgr) -> bool:
    """Whether the last rows are exactly of the grey or green that decoders fill up with."""
    rows = bgr[-max(1, bgr.shape[0] // _TORN_PART) :]
    colour = rows[0, 0]
    if not (_sample(rows) == colour).all() or not (rows == colour).all():
        return False
    grey = np.abs(colour.astype(np.int16) - _GREY).max() <= _GREY_SLACK
    green = colour.shape == (3,) and np.abs(colour.astype(np.int16) - _GREEN).max() <= _GREEN_SLACK
    return bool(grey or green)


def _are_identical(one: Bgr, other: Bgr) -> bool:
    if one.shape != other.shape:
        return False
    # a sample tells nearly all frames apart, and the whole takes a millisecond of a large one
    return bool((_sample(one) == _sample(other)).all()) and bool((one == other).all())


def _sample(bgr: Bgr) -> Bgr:
    height, width = bgr.shape[:2]
    return bgr[:: max(1, height // _SAMPLES), :: max(1, width // _SAMPLES)]
