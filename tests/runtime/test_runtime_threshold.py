"""The threshold against its definition."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import deepir.runtime.threshold as module
from deepir.errors import OptionError
from deepir.runtime.threshold import fit_threshold, threshold_from_unknown

Rows = Callable[..., NDArray[np.float32]]


def plain_threshold(rows_nd: NDArray[np.float32], labels: list[str], far: float) -> float:
    maxima = [
        max(float(row @ other) for other, theirs in zip(rows_nd, labels, strict=True) if theirs != mine)
        for row, mine in zip(rows_nd, labels, strict=True)
    ]
    return float(np.quantile(maxima, 1 - far / 2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 30), far=st.floats(0.001, 0.9))
def test_it_is_the_quantile_of_the_best_similarities_to_other_labels(
    seed: int, size: int, far: float, unit_rows: Rows
) -> None:
    rng = np.random.default_rng(seed)
    labels = ["first", "second", *(f"{rng.integers(4)}" for _ in range(size - 2))]
    rows_nd = unit_rows(rng, size)
    threshold = fit_threshold(rows_nd, labels, far)
    assert threshold is not None
    assert threshold.value == pytest.approx(plain_threshold(rows_nd, labels, far), abs=1e-5)
    assert threshold.impostors == size


def test_the_chunks_make_no_difference(
    rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_nd, labels = unit_rows(rng, 50), [f"{number % 7}" for number in range(50)]
    whole = fit_threshold(rows_nd, labels)
    monkeypatch.setattr(module, "_CHUNK", 3)
    chunked = fit_threshold(rows_nd, labels)
    assert whole is not None
    assert chunked is not None
    assert chunked.value == pytest.approx(whole.value, abs=1e-6)


def test_a_large_index_is_sampled_evenly(
    rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 10)
    threshold = fit_threshold(unit_rows(rng, 50), [f"{number}" for number in range(50)])
    assert threshold is not None
    assert threshold.impostors == 10


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_labels_have_no_threshold(labels: list[str], rng: np.random.Generator, unit_rows: Rows) -> None:
    assert fit_threshold(unit_rows(rng, len(labels)), labels) is None


@pytest.mark.parametrize("far", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(far: float, rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        fit_threshold(unit_rows(rng, 2), ["a", "b"], far)


def test_unknown_images_are_accepted_about_as_often_as_wished(rng: np.random.Generator, unit_rows: Rows) -> None:
    gallery_nd = unit_rows(rng, 1000, 64)
    threshold = fit_threshold(gallery_nd, [f"{number}" for number in range(1000)], far=0.1)
    unknown_nd = unit_rows(rng, 1000, 64)
    assert threshold is not None
    accepted = float(np.mean((unknown_nd @ gallery_nd.T).max(axis=1) >= threshold.value))
    assert 0.01 < accepted < 0.1


def test_unknown_pictures_set_the_threshold_that_was_asked_for() -> None:
    best_n = np.linspace(0, 1, 101, dtype=np.float32)
    threshold = threshold_from_unknown(best_n, far=0.1)
    assert threshold.value == pytest.approx(0.9)
    assert (threshold.impostors, threshold.basis) == (101, "unknown")


def test_no_unknown_picture_sets_no_threshold() -> None:
    with pytest.raises(OptionError, match="at least one picture"):
        threshold_from_unknown(np.zeros(0, dtype=np.float32))
