"""The gate's figures, by hand and by property."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.descriptors import normalise
from deepir.errors import OptionError, ShapeError
from deepir.gate import GateLimits, judge, verdict_text


@given(st.integers(2, 12), st.integers(2, 6))
def test_a_model_agrees_with_itself(count: int, dim: int) -> None:
    rows = normalise(np.random.default_rng(count * 7 + dim).normal(size=(count, dim)).astype(np.float32))
    verdict = judge(rows, rows, GateLimits())
    assert verdict.passed
    assert verdict.agreement == 1


def test_the_gate_fails_on_another_model() -> None:
    rng = np.random.default_rng(0)
    one, two = (normalise(rng.normal(size=(40, 8)).astype(np.float32)) for _ in range(2))
    verdict = judge(one, two, GateLimits())
    assert not verdict.passed
    assert verdict.agreement < 0.5


def test_agreement_counts_nearest_neighbours_by_hand() -> None:
    reference = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    candidate = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    # the middle one was nearest to the first, and in the other form is nearest to the last
    assert judge(reference, candidate, GateLimits()).agreement == pytest.approx(2 / 3, abs=1e-3)


def test_the_gate_needs_two_pictures() -> None:
    with pytest.raises(ShapeError, match="two descriptors"):
        judge(np.ones((1, 4), np.float32), np.ones((1, 4), np.float32), GateLimits())


def test_which_of_two_equals_is_nearest_does_not_count() -> None:
    reference = normalise(np.array([[1, 0], [1, 0.3], [1, -0.3]], np.float32))
    turned = normalise(reference + np.array([0, -1e-4], np.float32))
    # the first has two neighbours of one similarity; turned a little, the other one is nearer
    assert judge(reference, turned, GateLimits()).agreement == 1


@pytest.mark.parametrize(("count", "allowed"), [(32, 1), (100, 3), (101, 4)])
def test_the_share_of_neighbours_is_counted_in_whole_pictures(count: int, allowed: int) -> None:
    reference = np.eye(count, dtype=np.float32) + 0.1 * np.roll(np.eye(count, dtype=np.float32), 1, axis=1)
    reference = normalise(reference)
    for different in (allowed, allowed + 1):
        candidate = reference.copy()
        # each of them is drawn a little to a picture that it has nothing in common with
        for row in range(different):
            candidate[row] += 0.13 * reference[(row + count // 2) % count]
        verdict = judge(reference, normalise(candidate), GateLimits())
        assert verdict.agreement == pytest.approx(1 - different / count, abs=1e-4)
        assert verdict.passed == (different == allowed)


def test_limits_around_their_own_mean_are_the_defaults() -> None:
    around = GateLimits.around(GateLimits().cosine_mean)
    assert around.cosine_min == pytest.approx(GateLimits().cosine_min)
    assert around.agreement == pytest.approx(GateLimits().agreement)
    looser = GateLimits.around(0.99)
    assert (looser.cosine_min, looser.agreement) == (pytest.approx(0.96), pytest.approx(0.94))


@pytest.mark.parametrize("mean", [0, -1, 1.01, float("nan")])
def test_a_gate_that_cannot_be_is_refused_with_the_value(mean: float) -> None:
    with pytest.raises(OptionError, match=f"got {mean}"):
        GateLimits.around(mean)


def test_the_words_carry_the_figures() -> None:
    rows = np.eye(2, dtype=np.float32)
    assert "cosine min 1.0000 mean 1.0000" in verdict_text(judge(rows, rows, GateLimits()))
