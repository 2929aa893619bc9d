"""Where and when a stored view was taken: pose and time in its metadata, and how many metres lie between two poses."""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deepir.errors import ShapeError

EARTH_RADIUS = 6_371_008.8
"""Metres: the mean radius (IUGG)."""

POSE, TIME, LATITUDE, LONGITUDE = "pose", "time", "lat", "lon"
"""The names in the metadata."""


@dataclass(frozen=True, slots=True)
class PlanarPose:
    """On a floor or a map: x and y in metres, theta in radians."""

    x: float
    y: float
    theta: float


@dataclass(frozen=True, slots=True)
class GeoPose:
    """On the earth, in degrees; longitudes may be counted to 180 or to 360."""

    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        if abs(self.latitude) > 90 or abs(self.longitude) > 360:
            message = (
                f"a pose has a lat from -90 to 90 and a lon from -180 to 180 degrees, "
                f"got {self.latitude} and {self.longitude}: are they swapped?"
            )
            raise ShapeError(message)


Pose = PlanarPose | GeoPose


@dataclass(frozen=True, slots=True)
class Spot:
    """Where and when a stored view was taken, and its turn on the way: maps are filled along it."""

    key: int
    pose: Pose | None = None
    time: float | None = None

    @classmethod
    def read(cls, key: int, metadata: Mapping[str, Any]) -> "Spot":
        """Read the metadata of an item.

        Raises:
            ShapeError: Its pose or its time is none.
        """
        try:
            return cls(int(key), read_pose(metadata), read_time(metadata))
        except ShapeError as error:
            message = f"item {key} of the map: {error}"
            raise ShapeError(message) from error


def read_pose(metadata: Mapping[str, Any]) -> Pose | None:
    """The pose in the metadata of an item, None when it has none.

    Raises:
        ShapeError: Neither `[x, y, theta]` nor `{"lat": .., "lon": ..}` of finite numbers.
    """
    pose = metadata.get(POSE)
    if pose is None:
        return None
    if isinstance(pose, Mapping) and set(pose) == {LATITUDE, LONGITUDE}:
        values = (pose[LATITUDE], pose[LONGITUDE])
        if all(map(_is_finite, values)):
            return GeoPose(*values)
    if isinstance(pose, list | tuple) and len(pose) == 3 and all(map(_is_finite, pose)):
        return PlanarPose(*pose)
    message = f'a pose is [x, y, theta] in metres and radians, or {{"lat": 41.4, "lon": 2.2}}; got {pose!r}'
    raise ShapeError(message)


def read_time(metadata: Mapping[str, Any]) -> float | None:
    """The time in the metadata of an item, in seconds; None when it has none.

    Raises:
        ShapeError: Not a finite number.
    """
    time = metadata.get(TIME)
    if time is None:
        return None
    if not _is_finite(time):
        message = f"a time is a number of seconds, got {time!r}"
        raise ShapeError(message)
    return float(time)


def check_one_kind(spots: Iterable[Spot]) -> None:
    """Refuse a map whose poses have no distance between them.

    Raises:
        ShapeError: Some are on a plane and some on the earth.
    """
    first = {type(spot.pose): spot for spot in reversed([*spots]) if spot.pose is not None}
    if len(first) > 1:
        plane, earth = first[PlanarPose], first[GeoPose]
        message = (
            f"no distance from {plane.pose} of item {plane.key} to {earth.pose} of item {earth.key}: "
            "give all items of a map the same kind of pose"
        )
        raise ShapeError(message)


def distance(one: Pose, other: Pose) -> float:
    """Metres between two poses: on the plane, or along the sphere (haversine); where they look makes no difference.

    Raises:
        ShapeError: One is on a plane and one on the earth.
    """
    if isinstance(one, PlanarPose) and isinstance(other, PlanarPose):
        return math.hypot(one.x - other.x, one.y - other.y)
    if isinstance(one, GeoPose) and isinstance(other, GeoPose):
        return _great_circle(one, other)
    message = f"no distance from {one} to {other}: give all items of a map the same kind of pose"
    raise ShapeError(message)


def _great_circle(one: GeoPose, other: GeoPose) -> float:
    latitude, other_latitude = math.radians(one.latitude), math.radians(other.latitude)
    across = math.sin((other_latitude - latitude) / 2) ** 2
    along = math.sin(math.radians(other.longitude - one.longitude) / 2) ** 2
    haversine = across + math.cos(latitude) * math.cos(other_latitude) * along
    # rounding lifts the value of opposite points above 1
    return 2 * EARTH_RADIUS * math.asin(math.sqrt(min(1.0, haversine)))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
