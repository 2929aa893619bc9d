"""Distinct places against their definition, and a search that widens until it has them."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import OptionError
from deepir.runtime.label_search import Hit
from deepir.runtime.place_hits import Candidate, SamePlace, distinct, search_places
from deepir.runtime.pose import GeoPose, PlanarPose, Spot

keys = st.lists(st.integers(1, 40), unique=True, max_size=20)


def candidates(spots: Sequence[Spot]) -> list[Candidate]:
    """Best first."""
    return [Candidate(Hit(spot.key, "a", "a.jpg", 1 - place / 100), spot) for place, spot in enumerate(spots)]


def kept_keys(spots: Sequence[Spot], count: int, same: SamePlace) -> list[int]:
    return [candidate.spot.key for candidate in distinct(candidates(spots), count, same)]


def hits(count: int) -> list[Hit]:
    return [Hit(key, "a", "a.jpg", 1 - key / 100, {"time": float(key)}) for key in range(1, count + 1)]


def found_keys(stored: Sequence[Hit], count: int, same: SamePlace, newest_left_out: int = 0) -> list[int]:
    places = search_places(lambda wanted: stored[:wanted], count, same, lambda spot: spot.key <= newest_left_out)
    return [place.spot.key for place in places]


def plainly_distinct(keys: list[int], count: int, window: int) -> list[int]:
    """The best of all, then the best of what is no neighbour of it, and so on."""
    if not (keys and count):
        return []
    return [keys[0], *plainly_distinct([key for key in keys if abs(key - keys[0]) > window], count - 1, window)]


@given(keys=keys, window=st.integers(0, 5), count=st.integers(1, 6))
def test_each_place_keeps_its_best_view(keys: list[int], window: int, count: int) -> None:
    kept = kept_keys([Spot(key) for key in keys], count, SamePlace(window=window))
    assert kept == plainly_distinct(keys, count, window)


def test_poses_go_before_times_and_keys() -> None:
    spots = [Spot(1, PlanarPose(0, 0, 0), 1.0), Spot(2, PlanarPose(9, 0, 3), 1.0), Spot(99, PlanarPose(0, 4, 0), 99.0)]
    assert kept_keys(spots, 9, SamePlace(radius=5, seconds=10, window=10)) == [1, 2]


def test_times_go_before_keys_when_they_are_asked_for() -> None:
    spots = [Spot(1, time=0.0), Spot(2, time=50.0), Spot(99, time=3.0)]
    assert kept_keys(spots, 9, SamePlace(seconds=10)) == [1, 2]
    assert kept_keys(spots, 9, SamePlace()) == [1, 99]


def test_keys_decide_where_one_of_the_two_has_no_pose() -> None:
    assert kept_keys([Spot(1, PlanarPose(0, 0, 0)), Spot(2), Spot(5)], 9, SamePlace(window=1)) == [1, 5]


def test_the_radius_holds_on_the_earth_too() -> None:
    spots = [Spot(1, GeoPose(0, 0)), Spot(2, GeoPose(0, 0.00004)), Spot(3, GeoPose(0, 0.00006))]
    assert kept_keys(spots, 9, SamePlace(radius=5)) == [1, 3]


def test_a_search_widens_until_there_are_enough_places() -> None:
    assert found_keys(hits(100), 3, SamePlace(window=20)) == [1, 22, 43]


def test_a_search_widens_past_what_is_left_out() -> None:
    assert found_keys(hits(100), 2, SamePlace(), newest_left_out=90) == [91, 93]


def test_a_search_ends_when_the_map_does() -> None:
    assert found_keys(hits(10), 5, SamePlace(window=3)) == [1, 5, 9]
    assert found_keys([], 5, SamePlace()) == []


def test_a_search_asks_for_no_more_than_it_needs() -> None:
    asked: list[int] = []

    def search(wanted: int) -> list[Hit]:
        asked.append(wanted)
        return hits(1000)[:wanted]

    search_places(search, 2, SamePlace(), lambda _: False)
    assert asked == [8]


@pytest.mark.parametrize("fields", [{"radius": -1}, {"radius": float("nan")}, {"window": -1}, {"seconds": -0.1}])
def test_a_place_smaller_than_a_point_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="give 0 or more"):
        SamePlace(**fields)  # type: ignore[arg-type]
