"""Sequences against a plain search through all lines and, with poses, all circles."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.errors import OptionError
from deepir.runtime.label_search import Hit
from deepir.runtime.place_hits import Candidate, SamePlace
from deepir.runtime.place_sequence import SequenceCheck, SequenceRule, Support
from deepir.runtime.pose import PlanarPose, Pose, Spot

Query = list[tuple[int, float]]
"""Keys and similarities."""

queries = st.lists(st.tuples(st.integers(1, 25), st.sampled_from([0.2, 0.4, 0.6, 0.8])), max_size=3)
walks = st.lists(queries, min_size=1, max_size=7)
speeds = st.sampled_from([(0.0, 2.0), (0.0, 0.5), (-1.0, 1.0), (1.0, 1.0), (-3.0, -1.0)])


def candidate(key: int, similarity: float, pose: Pose | None = None) -> Candidate:
    return Candidate(Hit(key, "a", "a.jpg", similarity), Spot(key, pose))


def last_supports(check: SequenceCheck, walk: Sequence[Query], step: int = 1) -> list[Support]:
    supports: list[Support] = []
    for number, query in enumerate(walk):
        supports = check.add([candidate(*pair) for pair in query], step * number)
    return supports


def plain_line(walk: Sequence[Query], key: int, rule: SequenceRule, window: int, step: int) -> tuple[int, float]:
    """How many earlier queries lie on the best line that ends in the key, and the sum of their best similarities."""
    earlier = [(step * ago, query) for ago, query in enumerate(reversed(walk[:-1][-(rule.length - 1) :]), start=1)]
    least, most = map(Fraction, rule.speed)
    ends = {
        Fraction(key - other + side, ago) for ago, query in earlier for other, _ in query for side in (-window, window)
    }
    best = (0, 0.0)
    for speed in {least, most, *ends}:
        if least <= speed <= most:
            on_line = [
                [similarity for other, similarity in query if abs(key - speed * ago - other) <= window]
                for ago, query in earlier
            ]
            best = max(best, (sum(map(bool, on_line)), sum(max(found) for found in on_line if found)))
    return best


@settings(deadline=None)
@given(walk=walks, length=st.integers(2, 6), window=st.integers(0, 2), speed=speeds, step=st.integers(1, 3))
def test_a_candidate_is_backed_by_the_best_line_of_keys_through_it(
    walk: list[Query], length: int, window: int, speed: tuple[float, float], step: int
) -> None:
    rule = SequenceRule(length=length, needed=length, speed=speed)
    supports = last_supports(SequenceCheck(rule, SamePlace(window=window)), walk, step)
    for (key, similarity), support in zip(walk[-1], supports, strict=True):
        others, total = plain_line(walk, key, rule, window, step)
        assert support.count == 1 + others
        assert support.similarity == pytest.approx((similarity + total) / (1 + others))


@settings(deadline=None)
@given(walk=walks, length=st.integers(1, 6), radius=st.integers(0, 4))
def test_with_poses_it_is_backed_by_what_lies_within_the_radius(walk: list[Query], length: int, radius: int) -> None:
    check = SequenceCheck(SequenceRule(length=length, needed=length), SamePlace(radius=radius))
    for number, query in enumerate(walk):
        supports = check.add([candidate(key, value, PlanarPose(3, key, number)) for key, value in query], number)
    for (key, _), support in zip(walk[-1], supports, strict=True):
        earlier = walk[:-1][-(length - 1) :] if length > 1 else []
        assert support.count == 1 + sum(any(abs(key - other) <= radius for other, _ in query) for query in earlier)


def test_the_similarity_is_the_mean_of_the_best_that_are_needed() -> None:
    check = SequenceCheck(SequenceRule(length=4, needed=2), SamePlace())
    (support,) = last_supports(check, [[(1, 0.9)], [(2, 0.1)], [(3, 0.7)], [(4, 0.3)]])
    assert support.similarity == pytest.approx(0.8)


def test_of_two_candidates_of_a_query_on_the_line_the_better_one_counts() -> None:
    check = SequenceCheck(SequenceRule(length=2, needed=2), SamePlace(window=1))
    (support,) = last_supports(check, [[(10, 0.9), (12, 0.1)], [(12, 0.5)]])
    assert (support.count, support.similarity) == (2, pytest.approx(0.7))


def test_a_walk_along_the_map_backs_its_end_and_jumps_do_not() -> None:
    check = SequenceCheck(SequenceRule(length=5, needed=3), SamePlace(window=1))
    assert last_supports(check, [[(10, 0.5)], [(11, 0.5)], [(77, 0.5)], [(13, 0.5)], [(14, 0.5)]])[0].count == 4
    assert last_supports(SequenceCheck(check.rule, check.same), [[(50, 0.5)], [(10, 0.5)], [(90, 0.5)]])[0].count == 1


def test_backwards_needs_a_negative_speed() -> None:
    walk = [[(key, 0.5)] for key in (20, 17, 14)]
    assert last_supports(SequenceCheck(SequenceRule(), SamePlace()), walk)[0].count == 1
    assert last_supports(SequenceCheck(SequenceRule(speed=(-4, 0)), SamePlace()), walk)[0].count == 3


def test_a_query_without_candidates_is_looked_at_and_backs_nothing() -> None:
    check = SequenceCheck(SequenceRule(length=3, needed=2), SamePlace())
    assert last_supports(check, [[(1, 0.5)], [], [], [(2, 0.5)]])[0].count == 1


def test_a_pose_is_not_backed_by_a_key_without_one() -> None:
    check = SequenceCheck(SequenceRule(), SamePlace())
    check.add([candidate(30, 0.5), candidate(2, 0.5, PlanarPose(0, 0, 0))], 0)
    with_pose, without = check.add([candidate(31, 0.5, PlanarPose(50, 0, 0)), candidate(3, 0.5)], 1)
    assert (with_pose.count, without.count) == (1, 1)


def test_a_reset_forgets_the_queries_and_their_numbers() -> None:
    check = SequenceCheck(SequenceRule(), SamePlace())
    last_supports(check, [[(1, 0.5)], [(2, 0.5)]])
    check.reset()
    assert check.queries == 1
    assert check.add([candidate(3, 0.5)], 0)[0].count == 1


@pytest.mark.parametrize("number", [4, 3])
def test_numbers_that_do_not_rise_are_refused(number: int) -> None:
    check = SequenceCheck(SequenceRule(length=1, needed=1), SamePlace())
    check.add([], 4)
    with pytest.raises(OptionError, match=f"query {number} cannot follow query 4"):
        check.add([], number)


@pytest.mark.parametrize(("length", "needed"), [(5, 0), (5, 6), (0, 0)])
def test_a_sequence_that_cannot_agree_is_refused(length: int, needed: int) -> None:
    with pytest.raises(OptionError, match="cannot need"):
        SequenceRule(length=length, needed=needed)


@pytest.mark.parametrize("speed", [(2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_speeds_that_leave_nothing_are_refused(speed: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match="from a least to a most"):
        SequenceRule(speed=speed)
