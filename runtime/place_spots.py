"""The spots of a map in columns, and which of many show the same place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepir.runtime.place_hits import SamePlace
from deepir.runtime.pose import EARTH_RADIUS, GeoPose, PlanarPose, Spot, check_one_kind

Rows = NDArray[np.intp] | slice

_Number = TypeVar("_Number", np.int64, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Spots:
    """Many spots.

    Attributes:
        key_n: Of each.
        time_n: In seconds; NaN where there is none.
        point_nd: Metres on the plane, or within the earth (a straight line between two points is shorter than the way,
            but never changes which of two ways is the longer one); NaN where there is no pose.
        on_earth: Which of the two.
    """

    key_n: NDArray[np.int64]
    time_n: NDArray[np.float64]
    point_nd: NDArray[np.float64]
    on_earth: bool

    @classmethod
    def of(cls, spots: Sequence[Spot]) -> "Spots":
        """These spots in columns.

        Raises:
            ShapeError: Some poses are on a plane and some on the earth.
        """
        check_one_kind(spots)
        on_earth = any(isinstance(spot.pose, GeoPose) for spot in spots)
        points = [_point(spot, on_earth=on_earth) for spot in spots]
        return cls(
            np.array([spot.key for spot in spots], np.int64),
            np.array([math.nan if spot.time is None else spot.time for spot in spots], np.float64),
            np.array(points, np.float64).reshape(len(spots), 3 if on_earth else 2),
            on_earth,
        )

    def same(self, queries: Rows, stored: Rows, same: SamePlace) -> NDArray[np.bool_]:
        """Which of these show the same place as which of those, (Q, S), as `SamePlace.holds` says of two."""
        same_qs = _apart(self.key_n, queries, stored) <= same.window
        if same.seconds is not None:
            timed_n = np.isfinite(self.time_n)
            near_qs = _apart(self.time_n, queries, stored) <= same.seconds
            np.copyto(same_qs, near_qs, where=_both(timed_n, queries, stored))
        posed_n = np.isfinite(self.point_nd[:, 0])
        if posed_n.any():
            near_qs = self._metres(queries, stored) <= self._straight(same.radius)
            np.copyto(same_qs, near_qs, where=_both(posed_n, queries, stored))
        return same_qs

    def _metres(self, queries: Rows, stored: Rows) -> NDArray[np.float64]:
        first, *others = self.point_nd.T
        # farther apart than the largest number is far enough
        with np.errstate(over="ignore"):
            total_qs: NDArray[np.float64] = np.square(_apart(first, queries, stored))
            for axis_n in others:
                total_qs += np.square(_apart(axis_n, queries, stored))
        np.sqrt(total_qs, out=total_qs)
        return total_qs

    def _straight(self, metres: float) -> float:
        """The straight line between two points that are so far from each other along the earth."""
        if not self.on_earth:
            return metres
        half = metres / (2 * EARTH_RADIUS)
        return math.inf if half >= math.pi / 2 else 2 * EARTH_RADIUS * math.sin(half)


def _point(spot: Spot, *, on_earth: bool) -> tuple[float, ...]:
    pose = spot.pose
    if isinstance(pose, PlanarPose):
        return (pose.x, pose.y)
    if pose is None:
        return (math.nan,) * (3 if on_earth else 2)
    latitude, longitude = math.radians(pose.latitude), math.radians(pose.longitude)
    across = EARTH_RADIUS * math.cos(latitude)
    return (across * math.cos(longitude), across * math.sin(longitude), EARTH_RADIUS * math.sin(latitude))


def _apart(value_n: NDArray[_Number], queries: Rows, stored: Rows) -> NDArray[_Number]:
    difference_qs: NDArray[_Number] = value_n[queries, None] - value_n[stored]
    np.abs(difference_qs, out=difference_qs)
    return difference_qs


def _both(has_n: NDArray[np.bool_], queries: Rows, stored: Rows) -> NDArray[np.bool_]:
    both_qs: NDArray[np.bool_] = has_n[queries, None] & has_n[stored]
    return both_qs
