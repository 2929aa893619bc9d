"""The calibration curve of the index that answers, computed once for each index, in the background."""

import threading
import weakref
from typing import Any

from deepir.errors import DeepIRError
from deepir.runtime.calibration import Calibration, nearest_views
from deepir.runtime.index import Index

_MOST_POINTS = 200
_DIGITS = 5


class CurveOfIndex:
    """Give what is known at once; who asks again a moment later gets the curve."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # an index that another one replaced must not stay in memory because somebody looked at its curve
        self._index: weakref.ref[Index] | None = None
        self._found: dict[str, Any] = {}

    def of(self, index: Index) -> dict[str, Any]:
        """`status` is `computing`, `ready` with `points` of [threshold, share of impostors, share of own views], or
        `none` with the `reason`.
        """
        with self._lock:
            if self._index is None or self._index() is not index:
                self._index, self._found = weakref.ref(index), {"status": "computing"}
                threading.Thread(target=self._compute, args=(index,), name="deepir curve", daemon=True).start()
            return self._found

    def _compute(self, index: Index) -> None:
        try:
            found = curve_of(index)
        except DeepIRError as error:
            found = {"status": "none", "reason": str(error)}
        with self._lock:
            if self._index is not None and self._index() is index:
                self._found = found


def curve_of(index: Index) -> dict[str, Any]:
    """The curve as a JSON object; see `CurveOfIndex.of`."""
    threshold = index.threshold
    if threshold is None:
        return {"status": "none", "reason": f"a threshold needs two labels or more, the index has {len(index.labels)}"}
    nearest = nearest_views(index)
    points = list(Calibration(threshold, nearest.other_n, nearest).curve())
    stride = -(-len(points) // _MOST_POINTS)
    return {
        "status": "ready",
        "points": [
            [point.threshold, round(point.impostors, _DIGITS), None if point.own is None else round(point.own, _DIGITS)]
            for point in [*points[:-1:stride], points[-1]]
        ],
        "impostors": len(nearest.other_n),
        "own": len(nearest.own_m),
        "stored": threshold.value,
    }
