"""Poses and times as they stand in the metadata, and distances against known ones and another formula."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import ShapeError
from deepir.runtime.pose import EARTH_RADIUS, GeoPose, PlanarPose, Pose, Spot, distance, read_pose, read_time

metres = st.floats(-1e6, 1e6)
planar = st.builds(PlanarPose, metres, metres, st.floats(-4, 4))
geographic = st.builds(GeoPose, st.floats(-90, 90), st.floats(-180, 180))
pairs = st.one_of(st.tuples(planar, planar), st.tuples(geographic, geographic))


def on_the_sphere(pose: GeoPose) -> "np.ndarray[Any, np.dtype[np.float64]]":
    latitude, longitude = math.radians(pose.latitude), math.radians(pose.longitude)
    across = math.cos(latitude)
    return np.array([across * math.cos(longitude), across * math.sin(longitude), math.sin(latitude)])


@given(geographic, geographic)
def test_on_the_earth_it_is_the_angle_between_two_points_of_a_sphere(one: GeoPose, other: GeoPose) -> None:
    first, second = on_the_sphere(one), on_the_sphere(other)
    angle = math.atan2(float(np.linalg.norm(np.cross(first, second))), float(first @ second))
    assert distance(one, other) == pytest.approx(EARTH_RADIUS * angle, abs=0.2)


@given(pairs)
def test_there_and_back_are_equally_far(pair: tuple[Pose, Pose]) -> None:
    assert distance(*pair) == pytest.approx(distance(*reversed(pair)))


@given(st.one_of(planar, geographic))
def test_a_pose_is_no_metre_away_from_itself(pose: Pose) -> None:
    assert distance(pose, pose) == 0


def test_on_the_plane_it_is_the_straight_line_wherever_the_camera_looks() -> None:
    assert distance(PlanarPose(1, 2, 0), PlanarPose(4, 6, math.pi)) == 5


@pytest.mark.parametrize(
    ("one", "other", "metres"),
    [
        (GeoPose(0, 0), GeoPose(0, 1), 111_195),
        (GeoPose(52.5163, 13.3777), GeoPose(52.5208, 13.4094), 2_203),
        (GeoPose(0, 179.999), GeoPose(0, -179.999), 222.4),
        (GeoPose(0, 359), GeoPose(0, -1), 0),
        (GeoPose(90, 0), GeoPose(-90, 77), math.pi * EARTH_RADIUS),
        (GeoPose(69.51232454868148, -46.0), GeoPose(-69.51232454868148, 134.0), math.pi * EARTH_RADIUS),
    ],
)
def test_known_distances_on_the_earth(one: GeoPose, other: GeoPose, metres: float) -> None:
    assert distance(one, other) == pytest.approx(metres, rel=1e-3, abs=1e-6)


def test_a_plane_and_the_earth_have_no_distance() -> None:
    with pytest.raises(ShapeError, match="same kind of pose"):
        distance(PlanarPose(0, 0, 0), GeoPose(0, 0))


def test_the_metadata_say_where_and_when() -> None:
    assert read_pose({"pose": [1, 2.5, 0]}) == PlanarPose(1, 2.5, 0)
    assert read_pose({"pose": {"lat": 41.4, "lon": 2.2}}) == GeoPose(41.4, 2.2)
    assert read_time({"time": 3}) == 3.0


def test_metadata_may_say_neither() -> None:
    assert read_pose({"price": 3}) is None
    assert read_time({}) is None


@pytest.mark.parametrize(
    "pose",
    [
        [1, 2],
        [1, 2, 3, 4],
        [1, 2, float("nan")],
        [1, 2, "3"],
        [1, 2, True],
        "1,2,3",
        {"lat": 1},
        {"lat": 1, "lng": 2},
        {"lat": float("inf"), "lon": 2},
        7,
    ],
)
def test_what_is_no_pose_is_refused_with_both_forms(pose: object) -> None:
    with pytest.raises(ShapeError, match=r"\[x, y, theta\].*lat"):
        read_pose({"pose": pose})


@pytest.mark.parametrize("pose", [{"lat": 91, "lon": 0}, {"lat": 2, "lon": 361}])
def test_degrees_out_of_range_ask_whether_they_are_swapped(pose: dict[str, float]) -> None:
    with pytest.raises(ShapeError, match="swapped"):
        read_pose({"pose": pose})


@pytest.mark.parametrize("time", ["3", True, float("nan"), 10**400, [3]])
def test_what_is_no_time_is_refused(time: object) -> None:
    with pytest.raises(ShapeError, match="number of seconds"):
        read_time({"time": time})


def test_an_item_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ShapeError, match=r"item 7 of the map: a pose is .* got 'beside the door'"):
        Spot.read(7, {"pose": "beside the door"})
