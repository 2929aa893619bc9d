"""A tracker on walks through a small map, where every answer can be counted by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from deepir.errors import OptionError, ShapeError
from deepir.image import Image
from deepir.runtime.label_search import Hit
from deepir.runtime.place_hits import PlaceHit, SamePlace
from deepir.runtime.place_sequence import SequenceRule
from deepir.runtime.places import Moment, PlaceDecision, PlaceOptions, PlaceTracker
from deepir.runtime.recent_past import RecentPast

RULE = SequenceRule(length=5, needed=3)
PICTURE: Image = np.zeros((4, 4, 3), dtype=np.uint8)


def hits(similarities: Mapping[int, float], metadata: Mapping[int, Mapping[str, Any]] | None = None) -> list[Hit]:
    """Of a map whose keys they are."""
    known = metadata or {}
    order = sorted(similarities, key=lambda key: -similarities[key])
    return [Hit(key, f"place {key}", f"{key}.jpg", similarities[key], known.get(key, {})) for key in order]


def walk(tracker: PlaceTracker, *found: Mapping[int, float], first: int = 0) -> list[PlaceDecision]:
    return [
        tracker.update(lambda count, one=one: hits(one)[:count], Moment(number), PICTURE)  # type: ignore[misc]
        for number, one in enumerate(found, start=first)
    ]


def statuses(decisions: list[PlaceDecision]) -> list[str]:
    return [decision.status for decision in decisions]


def test_a_place_is_believed_once_enough_queries_agree() -> None:
    decisions = walk(PlaceTracker(PlaceOptions(sequence=RULE)), {1: 0.9}, {2: 0.9}, {3: 0.9}, {4: 0.9})
    assert statuses(decisions) == ["unknown", "unknown", "match", "match"]
    assert [decision.support for decision in decisions] == [1, 2, 3, 4]
    assert [decision.queries for decision in decisions] == [1, 2, 3, 4]
    assert decisions[-1].hit == Hit(4, "place 4", "4.jpg", 0.9, {})


def test_one_very_similar_picture_of_another_floor_is_not_believed() -> None:
    decisions = walk(PlaceTracker(), {1: 0.6}, {2: 0.6}, {3: 0.6}, {70: 0.99}, {5: 0.6})
    assert statuses(decisions) == ["unknown", "unknown", "match", "unknown", "match"]


def test_a_sequence_of_one_is_the_single_frame() -> None:
    tracker = PlaceTracker(PlaceOptions(sequence=SequenceRule(length=1, needed=1)), threshold=0.5)
    assert statuses(walk(tracker, {1: 0.6}, {40: 0.4}, {7: 0.5})) == ["match", "unknown", "match"]


def test_the_threshold_is_for_the_mean_over_the_sequence() -> None:
    tracker = PlaceTracker(threshold=0.6)
    decisions = walk(tracker, {1: 0.7}, {2: 0.7}, {3: 0.4}, {4: 0.3}, {5: 0.3})
    assert statuses(decisions) == ["unknown", "unknown", "match", "match", "match"]
    assert decisions[-1].similarity == pytest.approx((0.7 + 0.7 + 0.4) / 3)
    assert statuses(walk(PlaceTracker(threshold=0.61), {1: 0.7}, {2: 0.7}, {3: 0.4})) == ["unknown"] * 3


def test_the_second_candidate_is_taken_when_the_sequence_leads_to_it() -> None:
    decision = walk(PlaceTracker(PlaceOptions(top=2)), {1: 0.6}, {2: 0.6}, {3: 0.6, 70: 0.99})[-1]
    assert decision.hit is not None
    assert decision.hit.key == 3
    assert [hit.key for hit in decision.candidates] == [70, 3]


def test_of_two_places_that_the_sequence_leads_to_the_likelier_one_is_taken() -> None:
    queries = [{1: 0.7, 21: 0.3}, {2: 0.7, 22: 0.3}, {3: 0.7, 23: 0.8}]
    decision = walk(PlaceTracker(PlaceOptions(top=2)), *queries)[-1]
    assert decision.hit is not None
    assert decision.hit.key == 3


def test_candidates_are_different_places() -> None:
    options = PlaceOptions(top=2, same=SamePlace(window=1))
    decision = walk(PlaceTracker(options), {10: 0.9, 11: 0.8, 9: 0.7, 30: 0.6})[0]
    assert [hit.key for hit in decision.candidates] == [10, 30]


def test_the_recent_past_is_neither_a_candidate_nor_counted() -> None:
    metadata = {key: {"time": float(key)} for key in (5, 60, 99)}
    tracker = PlaceTracker(PlaceOptions(exclude=RecentPast(seconds=30)))
    found = hits({5: 0.4, 60: 0.5, 99: 0.9}, metadata)
    decision = tracker.update(lambda count: found[:count], Moment(0, time=100.0))
    assert [hit.key for hit in decision.candidates] == [60, 5]


def test_the_last_keys_are_left_out_by_the_newest_one() -> None:
    tracker = PlaceTracker(PlaceOptions(top=1, exclude=RecentPast(keys=10)))
    found = hits({90: 0.4, 91: 0.9})
    decision = tracker.update(lambda count: found[:count], Moment(0, newest_key=100))
    assert [hit.key for hit in decision.candidates] == [90]


def test_an_empty_map_is_unknown() -> None:
    assert walk(PlaceTracker(), {})[0] == PlaceDecision("unknown", None, 0.0, 0, 1, ())


def test_a_reset_begins_a_new_walk() -> None:
    tracker = PlaceTracker()
    walk(tracker, {1: 0.9}, {2: 0.9}, {3: 0.9})
    tracker.reset()
    assert statuses(walk(tracker, {4: 0.9}, {5: 0.9}, {6: 0.9})) == ["unknown", "unknown", "match"]


def test_a_place_that_is_not_verified_is_unknown() -> None:
    decisions = walk(PlaceTracker(verify=lambda _query, _hit: False), {1: 0.9}, {2: 0.9}, {3: 0.9})
    assert statuses(decisions) == ["unknown"] * 3


def test_only_places_that_passed_all_else_are_verified_and_the_likeliest_first() -> None:
    asked: list[int] = []

    def verify(query: Image, hit: PlaceHit) -> bool:
        assert query is PICTURE
        asked.append(hit.key)
        return hit.key == 3

    tracker = PlaceTracker(PlaceOptions(top=3), threshold=0.5, verify=verify)
    queries = [{1: 0.6, 21: 0.7, 41: 0.4}, {2: 0.6, 22: 0.7, 42: 0.4}, {3: 0.6, 23: 0.7, 43: 0.4}]
    decision = walk(tracker, *queries)[-1]
    assert asked == [23, 3]
    assert decision.hit is not None
    assert decision.hit.key == 3


def test_a_verifier_needs_the_picture() -> None:
    tracker = PlaceTracker(PlaceOptions(sequence=SequenceRule(length=1, needed=1)), verify=lambda _query, _hit: True)
    with pytest.raises(OptionError, match="needs the picture"):
        tracker.update(lambda _: hits({1: 0.9}), Moment(0))


def test_poses_of_two_kinds_in_one_map_are_refused() -> None:
    found = hits({1: 0.9, 2: 0.8}, {1: {"pose": [0, 0, 0]}, 2: {"pose": {"lat": 0, "lon": 0}}})
    with pytest.raises(ShapeError, match="same kind of pose"):
        PlaceTracker().update(lambda _: found, Moment(0))


def test_no_candidates_at_all_are_refused() -> None:
    with pytest.raises(OptionError, match="top 0"):
        PlaceOptions(top=0)
