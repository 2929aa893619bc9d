"""All items at or above a threshold, and the threshold that a gap suggests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepir.errors import OptionError, ShapeError
from deepir.selection import Gap, rows_at_least, suggest_threshold

similarities = arrays(np.float32, st.integers(0, 30), elements=st.floats(-1, 1, width=32))


def of(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@given(similarities, st.floats(-1, 1, width=32))
def test_exactly_the_rows_at_or_above_the_threshold_are_chosen(similarity_n: np.ndarray, threshold: float) -> None:
    chosen = rows_at_least(similarity_n, threshold).tolist()
    assert set(chosen) == {row for row, value in enumerate(similarity_n.tolist()) if value >= threshold}
    assert len(chosen) == len(set(chosen))


@given(similarities)
def test_a_threshold_taken_from_a_row_chooses_that_row(similarity_n: np.ndarray) -> None:
    assert all(row in rows_at_least(similarity_n, float(similarity_n[row])) for row in range(len(similarity_n)))


def test_a_threshold_in_decimals_includes_the_similarity_written_alike() -> None:
    # 0.7 in single precision is a little less than 0.7 in double precision
    assert rows_at_least(of(0.7, 0.69999, 0.8), 0.7).tolist() == [2, 0]


def test_the_chosen_come_best_first_and_ties_keep_their_order() -> None:
    assert rows_at_least(of(0.5, 0.9, 0.5, 0.1, 0.9), 0.5).tolist() == [1, 4, 0, 2]


def test_the_threshold_lies_in_the_middle_of_the_widest_gap() -> None:
    gap = suggest_threshold(of(0.9, 0.25, 0.875, 0.1, 0.5, 0.85))
    assert gap == Gap(pytest.approx(0.675), pytest.approx(0.85), 0.5)
    assert gap.width == pytest.approx(0.35)


def test_a_gap_outside_the_range_is_not_taken() -> None:
    assert suggest_threshold(of(-1, 0.5, 0.75, 0.875, 1), low=0.5).below == 0.5
    assert suggest_threshold(of(0, 0.25, 0.75, 1), high=0.3).above == 0.25


def test_of_equal_gaps_the_higher_is_taken() -> None:
    assert suggest_threshold(of(0.25, 0.5, 0.75)).threshold == 0.625


@given(similarities.filter(lambda values: len(np.unique(values)) > 1))
def test_the_suggested_threshold_separates_above_from_below(similarity_n: np.ndarray) -> None:
    gap = suggest_threshold(similarity_n, -1, 1)
    assert set(rows_at_least(similarity_n, gap.threshold)) == set(np.flatnonzero(similarity_n >= gap.above))
    assert set(rows_at_least(similarity_n, gap.threshold)) == set(np.flatnonzero(similarity_n > gap.below))
    assert gap.width == pytest.approx(np.diff(np.unique(similarity_n)).max(), rel=1e-5)


def test_between_neighbouring_numbers_the_upper_one_is_the_threshold() -> None:
    # their middle would be rounded to the even one of the two: once the upper, once the lower
    even = np.float32(0.5)
    for lower, upper in ((np.nextafter(even, np.float32(0)), even), (even, np.nextafter(even, np.float32(1)))):
        assert suggest_threshold(of(lower, upper)).threshold == upper


@pytest.mark.parametrize(("values", "found"), [((), 0), ((0.5,), 1), ((0.5, 0.5), 1), ((-0.5, 0.5), 1)])
def test_fewer_than_two_similarities_in_the_range_are_refused(values: tuple[float, ...], found: int) -> None:
    with pytest.raises(ShapeError, match=rf"{found} different similarities lie within 0.0..1.0"):
        suggest_threshold(of(*values))


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match=r"low below high, got 0.5 and 0.5"):
        suggest_threshold(of(0.1, 0.2), 0.5, 0.5)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(OptionError, match="got nan"):
        rows_at_least(of(0.1), float("nan"))


@pytest.mark.parametrize("wrong", [of(0.1, np.nan), of(np.inf), np.zeros((2, 2), np.float32)])
def test_what_is_no_row_of_similarities_is_refused(wrong: np.ndarray) -> None:
    for call in (lambda: rows_at_least(wrong, 0), lambda: suggest_threshold(wrong)):
        with pytest.raises(ShapeError, match="one finite similarity for each row"):
            call()
