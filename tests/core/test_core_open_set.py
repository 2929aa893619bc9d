"""Scores of open-set recognition against counts by hand and plain references."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import OptionError, ShapeError
from deepir.open_set import (
    AcceptRate,
    Answers,
    FullPrecision,
    Outcomes,
    answers_from_similarities,
    outcomes_at,
    recall_at_full_precision,
    score_open_set,
    true_accepts_at,
)

similarity = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 0.625, 0.7, 0.75, 0.875, 1.0])


def of(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@st.composite
def some_answers(draw: st.DrawFn) -> Answers:
    known = draw(st.lists(st.tuples(similarity, st.booleans()), min_size=1, max_size=12))
    unknown = draw(st.lists(similarity, max_size=12))
    return Answers(of(*(value for value, _ in known)), np.array([right for _, right in known]), of(*unknown))


FIVE = Answers(
    of(0.9, 0.8, 0.7, 0.6, 0.2),
    np.array([True, True, False, True, True]),
    of(0.75, 0.65, 0.1, 0.1, 0.1, 0.0, 0.0, -0.1, -0.2, -0.3),
)


def test_the_true_accepts_are_read_above_the_first_unknown_that_must_not_pass() -> None:
    # one of ten may be accepted, so the line is just above 0.65: of the known 0.9, 0.8 and the wrong 0.7 are accepted
    found = true_accepts_at(FIVE, 0.1)
    assert found == AcceptRate(true_accepts=0.4, false_accepts=0.1, threshold=pytest.approx(0.65))
    assert found.threshold > np.float32(0.65)


def test_a_rate_needs_as_many_unknown_queries_as_its_inverse() -> None:
    assert true_accepts_at(FIVE, 0.0999) is None
    assert true_accepts_at(Answers(of(1), np.array([True]), of(*[0] * 9)), 0.1) is None
    assert true_accepts_at(Answers(of(1), np.array([True]), of()), 0.5) is None


@pytest.mark.parametrize(("far", "count"), [(0.29, 100), (0.001, 1000), (0.07, 100)])
def test_the_share_allowed_is_not_lost_to_binary_fractions(far: float, count: int) -> None:
    answers = Answers(of(1), np.array([True]), np.arange(count, dtype=np.float32) / count)
    found = true_accepts_at(answers, far)
    assert found is not None
    assert found.false_accepts == pytest.approx(far)


def test_a_share_just_below_one_keeps_one_unknown_query_out() -> None:
    found = true_accepts_at(Answers(of(1), np.array([True]), of(0.1, 0.2, 0.3)), 1 - 1e-12)
    assert found is not None
    assert found.false_accepts == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_threshold_stays_above_in_both_precisions(kind: type) -> None:
    for value in (0.1, 0.7, -0.3, 0.0, 1.0):
        found = true_accepts_at(Answers(of(1), np.array([True]), np.array([value, value], kind)), 0.5)
        assert found is not None
        assert not (np.array([value], kind) >= found.threshold).any()
        assert not (np.array([value], np.float32) >= np.float32(found.threshold)).any()


def test_unknown_queries_that_tie_are_refused_together() -> None:
    found = true_accepts_at(Answers(of(0.9, 0.5), np.array([True, True]), of(*[0.5] * 10)), 0.1)
    assert found is not None
    assert (found.true_accepts, found.false_accepts) == (0.5, 0.0)


@given(some_answers(), st.floats(0.001, 0.999999999999))
def test_no_lower_threshold_accepts_as_few_unknown_queries(answers: Answers, far: float) -> None:
    found = true_accepts_at(answers, far)
    allowed = int(far * len(answers.unknown_u) + 1e-9)
    if found is None:
        assert allowed < 1
        return
    assert np.sum(answers.unknown_u >= found.threshold) <= allowed
    assert found.true_accepts == np.mean((answers.similarity_k >= found.threshold) & answers.right_k)
    lower = np.nextafter(np.float32(found.threshold), np.float32(-2))
    assert np.sum(answers.unknown_u >= lower) > min(allowed, len(answers.unknown_u) - 1)


@given(some_answers())
def test_more_false_accepts_never_bring_fewer_true_ones(answers: Answers) -> None:
    rates = [found.true_accepts for far in (0.1, 0.2, 0.4, 0.8) if (found := true_accepts_at(answers, far))]
    assert rates == sorted(rates)


def test_full_precision_ends_at_the_first_wrong_answer() -> None:
    # the unknown 0.75 is a wrong answer too; above it lie 0.9 and 0.8
    assert recall_at_full_precision(FIVE) == FullPrecision(recall=0.4, threshold=pytest.approx(0.8))
    closed = Answers(FIVE.similarity_k, FIVE.right_k, of())
    assert recall_at_full_precision(closed).recall == 0.4
    assert recall_at_full_precision(Answers(of(0.9, 0.6), np.array([True, True]), of(0.5))).recall == 1


def test_a_right_answer_that_ties_with_a_wrong_one_does_not_count() -> None:
    tied = Answers(of(0.9, 0.9), np.array([True, False]), of())
    assert recall_at_full_precision(tied) == FullPrecision(recall=0.0, threshold=None)


@given(some_answers())
def test_full_precision_is_the_best_of_all_thresholds_without_a_wrong_answer(answers: Answers) -> None:
    thresholds = [*answers.similarity_k.tolist(), 2.0]
    outcomes = [outcomes_at(answers, threshold) for threshold in thresholds]
    flawless = [one.true_accepts for one in outcomes if one.wrong_labels + one.false_accepts == 0]
    found = recall_at_full_precision(answers)
    assert found.recall == max(flawless) / len(answers.similarity_k)
    assert (found.threshold is None) == (found.recall == 0)
    if found.threshold is not None:
        assert outcomes_at(answers, found.threshold).true_accepts == max(flawless)


def test_each_query_has_one_outcome() -> None:
    assert outcomes_at(FIVE, 0.65) == Outcomes(
        threshold=0.65, true_accepts=2, wrong_labels=1, false_rejects=2, false_accepts=1, known=5, unknown=10
    )


def test_a_similarity_equal_to_the_threshold_is_accepted() -> None:
    assert outcomes_at(Answers(of(0.5), np.array([True]), of(0.5)), 0.5).true_accepts == 1
    assert outcomes_at(Answers(of(0.5), np.array([True]), of(0.5)), 0.5).false_accepts == 1


@given(some_answers(), similarity)
def test_outcomes_agree_with_a_loop(answers: Answers, threshold: float) -> None:
    words = [
        ("true" if right else "wrong") if value >= threshold else "reject"
        for value, right in zip(answers.similarity_k.tolist(), answers.right_k.tolist(), strict=True)
    ]
    found = outcomes_at(answers, threshold)
    counts = [words.count(word) for word in ("true", "wrong", "reject")]
    assert [found.true_accepts, found.wrong_labels, found.false_rejects] == counts
    assert found.false_accepts == sum(value >= threshold for value in answers.unknown_u.tolist())
    assert sum(counts) == found.known == len(answers.right_k)


def test_the_answer_is_the_nearer_of_own_and_other_labels() -> None:
    answers = answers_from_similarities(of(0.9, 0.3, 0.5), of(0.2, 0.4, 0.5), of(0.1))
    assert answers.similarity_k.tolist() == of(0.9, 0.4, 0.5).tolist()
    assert answers.right_k.tolist() == [True, False, False], "a tie is wrong"


def test_all_scores_come_at_once() -> None:
    scores = score_open_set(FIVE, threshold=0.65)
    assert list(scores.accept_at) == [0.1, 0.01, 0.001]
    assert scores.accept_at[0.1] == true_accepts_at(FIVE, 0.1)
    assert scores.accept_at[0.01] is None
    assert scores.full_precision == recall_at_full_precision(FIVE)
    assert scores.outcomes == outcomes_at(FIVE, 0.65)
    assert score_open_set(FIVE).outcomes is None


@pytest.mark.parametrize(("place", "value"), [*itertools.product([0, 2], [float("nan"), float("inf")])])
def test_damaged_similarities_are_refused(place: int, value: float) -> None:
    arrays = [of(0.5, 0.5), np.array([True, True]), of(0.5, 0.5)]
    arrays[place][1] = value
    with pytest.raises(ShapeError, match="1 of 2 similarities are NaN or infinity, 1 first"):
        Answers(*arrays)


def test_a_damaged_similarity_to_one_label_is_refused() -> None:
    with pytest.raises(ShapeError, match="NaN"):
        answers_from_similarities(of(np.nan), of(0.5), of())
    with pytest.raises(ShapeError, match=r"\(2,\) and \(1,\)"):
        answers_from_similarities(of(0.5, 0.5), of(0.5), of())


@pytest.mark.parametrize(
    ("known", "right", "unknown", "words"),
    [
        (of(), np.zeros(0, bool), of(0.5), "no known query"),
        (of(0.5), np.array([True, False]), of(0.5), r"got bool of shape \(2,\)"),
        (of(0.5), np.array([1]), of(0.5), "got int64"),
        (of(0.5)[None], np.array([[True]]), of(0.5), r"shape \(1, 1\)"),
        (np.array([1]), np.array([True]), of(0.5), "int64"),
    ],
)
def test_other_arrays_are_refused(known: np.ndarray, right: np.ndarray, unknown: np.ndarray, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        Answers(known, right, unknown)


@pytest.mark.parametrize("far", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(far: float) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        score_open_set(FIVE, fars=(far,))


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(OptionError, match="is a number"):
        outcomes_at(FIVE, float("nan"))
