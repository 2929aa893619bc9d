"""Smoothed targets are those of a plain loop over neighbours of other pictures, however few rows are held at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.descriptors import normalise
from deepir.distill import smoothing
from deepir.distill.smoothing import smooth
from deepir.errors import OptionError, ShapeError
from deepir.expansion import expand_database


def descriptors(count: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def looped(descriptors_nd: np.ndarray, pictures_n: np.ndarray, k: int) -> np.ndarray:
    rows = []
    for row, own in enumerate(descriptors_nd):
        others = [other for other in range(len(descriptors_nd)) if pictures_n[other] != pictures_n[row]]
        nearest = sorted(others, key=lambda other: -float(own @ descriptors_nd[other]))[:k]
        mean = own.astype(np.float64)
        for rank, other in enumerate(nearest):
            mean = mean + (k - rank) / k * descriptors_nd[other]
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


@given(count=st.integers(4, 24), views=st.integers(1, 3), k=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_smoothing_equals_a_plain_loop(count: int, views: int, k: int, seed: int) -> None:
    descriptors_nd, pictures_n = descriptors(count * views, seed=seed), np.arange(count * views) // views
    expected = looped(descriptors_nd, pictures_n, k)
    np.testing.assert_allclose(smooth(descriptors_nd, pictures_n, k), expected, atol=1e-5)


def test_smoothing_pictures_of_one_view_is_database_expansion_at_length_one() -> None:
    descriptors_nd = descriptors(30)
    expected = normalise(expand_database(descriptors_nd, 3))
    np.testing.assert_allclose(smooth(descriptors_nd, np.arange(30), 3), expected, atol=1e-6)


@pytest.mark.parametrize("cells", [1, 37, 100])
def test_few_rows_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    descriptors_nd, pictures_n = descriptors(40), np.arange(40) // 4
    whole = smooth(descriptors_nd, pictures_n, 5)
    monkeypatch.setattr(smoothing, "_CELLS", cells)
    np.testing.assert_allclose(smooth(descriptors_nd, pictures_n, 5), whole, atol=1e-6)


def test_no_neighbour_is_of_the_same_picture() -> None:
    # two pictures, whose own views are nearest to each other
    base = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    smoothed = smooth(base, np.array([7, 7, 3, 3]), 1)
    np.testing.assert_allclose(smoothed, np.array([[1, 1, 0, 0]] * 4) / np.sqrt(2), atol=1e-6)


def test_no_neighbours_change_nothing() -> None:
    descriptors_nd = descriptors(3)
    np.testing.assert_array_equal(smooth(descriptors_nd, np.zeros(3, np.intp), 0), descriptors_nd)


def test_more_neighbours_than_other_pictures_have_are_refused() -> None:
    with pytest.raises(OptionError, match=r"up to 2 of one picture.*0 to 1 neighbours.*got 2"):
        smooth(descriptors(3), np.array([0, 0, 1]), 2)
    with pytest.raises(OptionError, match="got -1"):
        smooth(descriptors(3), np.arange(3), -1)
    with pytest.raises(OptionError, match="got 1"):
        smooth(descriptors(0), np.arange(0), 1)


def test_nan_and_too_few_picture_numbers_are_refused() -> None:
    damaged = descriptors(3)
    damaged[1, 2] = np.nan
    with pytest.raises(ShapeError, match="row 1 first"):
        smooth(damaged, np.arange(3), 1)
    with pytest.raises(ShapeError, match="3 targets need as many"):
        smooth(descriptors(3), np.arange(2), 1)
