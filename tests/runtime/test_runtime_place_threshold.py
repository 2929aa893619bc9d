"""The threshold of a map against its definition."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import deepir.runtime.place_threshold as module
from deepir.errors import OptionError, ShapeError
from deepir.runtime.place_hits import SamePlace
from deepir.runtime.place_threshold import fit_place_threshold
from deepir.runtime.pose import PlanarPose, Spot

Rows = Callable[..., NDArray[np.float32]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(6, 30), window=st.integers(0, 4), far=st.floats(0.001, 0.9))
def test_it_is_the_quantile_of_the_best_similarities_to_other_places(
    seed: int, size: int, window: int, far: float, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(np.random.default_rng(seed), size)
    best = [
        max(float(rows_nd[one] @ rows_nd[other]) for other in range(size) if abs(one - other) > window)
        for one in range(size)
        if one > window or one + window < size - 1
    ]
    threshold = fit_place_threshold(rows_nd, [Spot(key) for key in range(size)], SamePlace(window=window), far)
    assert threshold is not None
    assert threshold.value == pytest.approx(float(np.quantile(best, 1 - far / 2)), abs=1e-5)
    assert (threshold.far, threshold.impostors, threshold.basis) == (far, len(best), "views")


def test_poses_say_what_another_place_is(rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = np.repeat(unit_rows(rng, 2), 2, axis=0)
    spots = [Spot(key, PlanarPose(x, 0, 0)) for key, x in enumerate((0, 1, 50, 51))]
    threshold = fit_place_threshold(rows_nd, spots, SamePlace(radius=5, window=0))
    assert threshold is not None
    assert threshold.value == pytest.approx(float(rows_nd[0] @ rows_nd[2]), abs=1e-5)


def test_a_map_of_one_place_has_no_threshold(rng: np.random.Generator, unit_rows: Rows) -> None:
    assert fit_place_threshold(unit_rows(rng, 3), [Spot(1), Spot(2), Spot(3)], SamePlace(window=2)) is None


def test_an_empty_map_has_no_threshold(rng: np.random.Generator, unit_rows: Rows) -> None:
    assert fit_place_threshold(unit_rows(rng, 0), [], SamePlace()) is None


def test_a_large_map_is_sampled_evenly(
    rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 10)
    threshold = fit_place_threshold(unit_rows(rng, 50), [Spot(key) for key in range(50)], SamePlace())
    assert threshold is not None
    assert threshold.impostors == 10


def test_every_descriptor_needs_its_spot(rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(ShapeError, match="each of 3 descriptors, got 2"):
        fit_place_threshold(unit_rows(rng, 3), [Spot(1), Spot(2)], SamePlace())


def test_a_share_out_of_range_is_refused(rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        fit_place_threshold(unit_rows(rng, 2), [Spot(1), Spot(2)], SamePlace(), far=1.0)
