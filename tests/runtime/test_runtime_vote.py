"""The vote against a plain count over the last frames."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import OptionError
from deepir.label_tree import common_ancestor
from deepir.runtime.vote import Status, Vote, VoteDecision, Votes

Frame = tuple[Status, str | None, float]

LABELS = ("oat", "milk/whole/1l", "milk/whole/2l", "milk/skimmed", "milk/whole", "tea")

matches = st.tuples(st.just("match"), st.sampled_from(LABELS), st.floats(-1, 1))
ambiguities = st.tuples(st.just("ambiguous"), st.sampled_from([None, "milk", "milk/whole"]), st.floats(-1, 1))
unknowns = st.tuples(st.just("unknown"), st.none(), st.floats(-1, 1))
walks = st.lists(st.one_of(matches, ambiguities, unknowns), max_size=25)
votes = st.integers(1, 9).flatmap(lambda frames: st.builds(Vote, st.integers(frames // 2 + 1, frames), st.just(frames)))


def decisions(vote: Vote, walk: Sequence[Frame]) -> list[VoteDecision]:
    box = Votes(vote)
    return [box.add(*frame) for frame in walk]


def plain_answer(vote: Vote, last: Sequence[Frame]) -> tuple[Status, str | None]:
    """Every label and branch is tried, deepest first."""
    for label in sorted({*LABELS, "milk"}, key=lambda label: -label.count("/")):
        exact = [frame for frame in last if frame[:2] == ("match", label)]
        if len(exact) >= vote.needed:
            return "match", label
        under = [frame for frame in last if frame[1] is not None and common_ancestor([frame[1], label]) == label]
        if len(under) >= vote.needed:
            return "ambiguous", label
    if sum(frame[0] == "ambiguous" for frame in last) >= vote.needed:
        return "ambiguous", None
    return "unknown", None


@given(vote=votes, walk=walks)
def test_it_is_the_plain_count_over_the_last_frames(vote: Vote, walk: list[Frame]) -> None:
    for number, decision in enumerate(decisions(vote, walk), start=1):
        last = walk[:number][-vote.frames :]
        assert (decision.status, decision.label) == plain_answer(vote, last)
        assert decision.frames == len(last)


@given(vote=votes, walk=walks)
def test_as_many_frames_as_needed_stand_behind_every_answer(vote: Vote, walk: list[Frame]) -> None:
    for decision in decisions(vote, walk):
        assert (decision.votes >= vote.needed) == (decision.status != "unknown")


@given(vote=votes, walk=walks)
def test_a_reset_is_a_new_start(vote: Vote, walk: list[Frame]) -> None:
    box = Votes(vote)
    for frame in walk:
        box.add(*frame)
    box.reset()
    assert [box.add(*frame) for frame in walk] == decisions(vote, walk)


@given(walk=walks)
def test_one_of_one_is_every_frame_by_itself(walk: list[Frame]) -> None:
    answers = [(decision.status, decision.label) for decision in decisions(Vote(1, 1), walk)]
    assert answers == [frame[:2] for frame in walk]


def test_a_label_wins_with_the_votes_it_needs_and_not_before() -> None:
    found = decisions(Vote(3, 5), [("match", "oat", 0.9), ("unknown", None, 0.1)] * 3)
    assert [decision.status for decision in found] == ["unknown"] * 4 + ["match", "unknown"]


def test_the_similarity_is_the_mean_of_the_frames_that_agree() -> None:
    walk: list[Frame] = [("match", "oat", 0.9), ("match", "tea", 0.1), ("match", "oat", 0.7)]
    last = decisions(Vote(2, 3), walk)[-1]
    assert last.similarity == pytest.approx(0.8)
    assert (last.votes, last.frames) == (2, 3)


def test_sizes_that_alternate_agree_on_their_product() -> None:
    walk: list[Frame] = [("match", "milk/whole/1l", 0.9), ("match", "milk/whole/2l", 0.9)] * 2
    last = decisions(Vote(3, 4), walk)[-1]
    assert (last.status, last.label, last.votes) == ("ambiguous", "milk/whole", 4)


def test_ambiguous_frames_strengthen_the_product_not_the_size() -> None:
    size: Frame = ("match", "milk/whole/1l", 0.9)
    product: Frame = ("ambiguous", "milk/whole", 0.9)
    assert decisions(Vote(3, 4), [size, size, product, product])[-1].label == "milk/whole"


def test_labels_without_a_common_branch_that_alternate_are_unknown() -> None:
    last = decisions(Vote(3, 4), [("match", "oat", 0.9), ("match", "tea", 0.9)] * 2)[-1]
    assert last == VoteDecision("unknown", None, None, 2, 4)


@pytest.mark.parametrize("text", ["5", "5/", "/8", "five/8", "5/8/9", "-5/8", "5.0/8", "", "5/-8"])
def test_what_is_no_vote_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match="such as 5/8"):
        Vote.parse(text)


@pytest.mark.parametrize("text", ["0/8", "9/8", "0/0"])
def test_a_vote_that_cannot_be_won_or_lost_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=f"a vote of {text} cannot be"):
        Vote.parse(text)


@pytest.mark.parametrize(("text", "cure"), [("4/8", "5/8"), ("1/3", "2/3"), ("1/2", "2/2")])
def test_half_is_refused_with_the_least_that_will_do(text: str, cure: str) -> None:
    with pytest.raises(OptionError, match=f"ask for {cure} or more"):
        Vote.parse(text)


def test_a_vote_is_written_as_it_is_read() -> None:
    assert str(Vote.parse(" 5 / 8 ")) == "5/8"
