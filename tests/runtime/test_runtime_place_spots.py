"""Spots in columns say of many what `SamePlace` says of two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import ShapeError
from deepir.runtime.place_hits import SamePlace
from deepir.runtime.place_spots import Spots
from deepir.runtime.pose import GeoPose, PlanarPose, Pose, Spot

times = st.none() | st.integers(0, 6).map(float)
plane = st.builds(PlanarPose, st.integers(-4, 4).map(float), st.integers(-4, 4).map(float), st.just(0.0))
# steps of a degree near the equator and the poles, and on both sides of the date line
earth = st.builds(GeoPose, st.sampled_from([-90.0, -1.0, 0.0, 1.0, 90.0]), st.sampled_from([-180.0, 0.0, 1.0, 179.0]))


def walk(poses: st.SearchStrategy[Pose]) -> st.SearchStrategy[list[Spot]]:
    spots = st.builds(Spot, st.integers(1, 9), st.none() | poses, times)
    return st.lists(spots, max_size=8)


# the radii are no distance of two such poses on the earth, where the last digits of two formulas may differ
@given(
    spots=walk(plane) | walk(earth),
    radius=st.sampled_from([0.5, 1.0, 5.0, 120e3, 300e3, 21e6, float("inf")]),
    seconds=times,
    window=st.integers(0, 4),
)
def test_they_agree_with_the_rule_for_two(spots: list[Spot], radius: float, seconds: float | None, window: int) -> None:
    same = SamePlace(radius=radius, seconds=seconds, window=window)
    expected = [[same.holds(one, other) for other in spots] for one in spots]
    found_nn = Spots.of(spots).same(slice(None), slice(None), same)
    assert found_nn.tolist() == expected


def test_rows_are_asked_for_by_number_and_in_slices() -> None:
    columns = Spots.of([Spot(key) for key in (1, 2, 5, 6)])
    same_qs = columns.same(np.array([2, 0]), slice(1, 4), SamePlace(window=1))
    assert same_qs.tolist() == [[False, True, True], [True, False, False]]


def test_poses_at_the_end_of_all_numbers_are_apart() -> None:
    columns = Spots.of([Spot(1, PlanarPose(1e308, 0, 0)), Spot(2, PlanarPose(-1e308, 0, 0))])
    assert columns.same(slice(None), slice(None), SamePlace()).tolist() == [[True, False], [False, True]]


def test_a_map_of_two_kinds_of_poses_is_refused_with_an_item_of_each() -> None:
    spots = [Spot(3), Spot(4, PlanarPose(0, 0, 0)), Spot(7, GeoPose(0, 0)), Spot(8, GeoPose(1, 1))]
    with pytest.raises(ShapeError, match=r"of item 4 to .* of item 7: give all items of a map the same kind of pose"):
        Spots.of(spots)
