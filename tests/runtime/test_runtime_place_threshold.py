"""The threshold of a map against its definition."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import deepir.runtime.place_threshold as module
import deepir.runtime.threshold as threshold_module
from deepir.errors import OptionError, ShapeError
from deepir.runtime.place_hits import SamePlace
from deepir.runtime.place_threshold import fit_place_threshold
from deepir.runtime.pose import GeoPose, PlanarPose, Spot

Rows = Callable[..., NDArray[np.float32]]
Along = Callable[[int], Spot]


def best_elsewhere(rows_nd: NDArray[np.float32], spots: list[Spot], row: int, same: SamePlace) -> float | None:
    """One row after another, from the most similar one on, until one is of another place."""
    similarity_n = rows_nd @ rows_nd[row]
    for other in np.argsort(-similarity_n, kind="stable").tolist():
        if not same.holds(spots[row], spots[other]):
            return float(similarity_n[other])
    return None


@pytest.mark.parametrize(
    "along",
    [
        Spot,
        lambda number: Spot(number, PlanarPose(2.0 * number, 0, 0)),
        lambda number: Spot(number, GeoPose(41.4, 2.2 + 2e-5 * number)),
        lambda number: Spot(number, None, number / 2),
        lambda number: Spot(number, PlanarPose(2.0 * number, 0, 0) if number % 3 else None, number / 2),
    ],
    ids=["keys", "plane", "earth", "times", "mixed"],
)
def test_in_pieces_it_is_what_one_row_after_another_gives(
    along: Along, rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold_module, "_QUERY_CHUNK", 16)
    monkeypatch.setattr(threshold_module, "_STORED_CHUNK", 30)
    # a walk: neighbours resemble each other most
    rows_nd = np.cumsum(unit_rows(rng, 100), axis=0)
    rows_nd /= np.linalg.norm(rows_nd, axis=1, keepdims=True)
    spots, same = [along(number) for number in range(100)], SamePlace(window=2, seconds=3.0)
    best = [best_elsewhere(rows_nd, spots, row, same) for row in range(100)]
    threshold = fit_place_threshold(rows_nd, spots, same, far=0.2)
    assert threshold is not None
    assert threshold.impostors == 100
    assert threshold.value == pytest.approx(np.quantile(np.array(best, np.float32), 0.9), abs=1e-6)


def test_a_map_is_compared_in_pieces_not_row_by_row(
    rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def counted(queries_qd: NDArray[np.float32], stored_sd: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append((len(queries_qd), len(stored_sd)))
        similarity_qs: NDArray[np.float32] = queries_qd @ stored_sd.T
        return similarity_qs

    monkeypatch.setattr(threshold_module, "similarities", counted)
    fit_place_threshold(unit_rows(rng, 300), [Spot(key) for key in range(300)], SamePlace())
    assert sizes == [(256, 300), (44, 300)]


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


def test_poses_of_two_kinds_are_refused(rng: np.random.Generator, unit_rows: Rows) -> None:
    spots = [Spot(1, PlanarPose(0, 0, 0)), Spot(2, PlanarPose(9, 0, 0)), Spot(3, GeoPose(0, 0))]
    with pytest.raises(ShapeError, match=r"of item 1 to .* of item 3"):
        fit_place_threshold(unit_rows(rng, 3), spots, SamePlace())


def test_every_descriptor_needs_its_spot(rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(ShapeError, match="each of 3 descriptors, got 2"):
        fit_place_threshold(unit_rows(rng, 3), [Spot(1), Spot(2)], SamePlace())


def test_a_share_out_of_range_is_refused(rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        fit_place_threshold(unit_rows(rng, 2), [Spot(1), Spot(2)], SamePlace(), far=1.0)
