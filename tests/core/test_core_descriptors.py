"""Length, similarity, several resolutions, and PCA whitening."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from deepir.descriptors import LENGTH_FLOOR, Descriptors, combine_resolutions, fit_whitening, normalise, similarities
from deepir.errors import ShapeError

rows = arrays(np.float32, array_shapes(min_dims=1, max_dims=3, max_side=6), elements=st.floats(-1000, 1000, width=32))


def region_vectors(count: int = 60, channels: int = 6) -> Descriptors:
    rng = np.random.default_rng(7)
    return normalise(
        (rng.standard_normal((count, channels)) @ rng.standard_normal((channels, channels))).astype(np.float32)
    )


@given(rows)
def test_normalise_gives_length_one_or_zero(vectors: Descriptors) -> None:
    lengths = np.linalg.norm(normalise(vectors), axis=-1)
    assert (np.isclose(lengths, 1, atol=1e-5) | (lengths == 0)).all()


@given(rows)
def test_normalise_twice_is_normalise_once(vectors: Descriptors) -> None:
    once = normalise(vectors)
    np.testing.assert_allclose(normalise(once), once, atol=1e-6)


@given(rows)
def test_normalise_keeps_type_and_shape(vectors: Descriptors) -> None:
    assert (normalise(vectors).dtype, normalise(vectors).shape) == (np.float32, vectors.shape)


@given(rows, st.sampled_from([0.5, 2.0, 64.0]))
def test_normalise_ignores_the_scale_of_what_has_a_direction(vectors: Descriptors, factor: float) -> None:
    long_enough = vectors[np.linalg.norm(vectors, axis=-1) > 4 * LENGTH_FLOOR]
    np.testing.assert_allclose(normalise(long_enough * np.float32(factor)), normalise(long_enough), atol=1e-5)


def test_a_vector_shorter_than_the_floor_has_no_direction() -> None:
    assert normalise(np.array([LENGTH_FLOOR / 2, 0], dtype=np.float32)).tolist() == [0, 0]


def test_a_vector_longer_than_the_floor_has_a_direction() -> None:
    assert normalise(np.array([0, -2 * LENGTH_FLOOR], dtype=np.float32)).tolist() == [0, -1]


def test_similarities_are_cosines_of_every_pair() -> None:
    queries, database = (
        normalise(np.array([[1, 0], [1, 1]], np.float32)),
        np.array([[0, 1], [1, 0], [-1, 0]], np.float32),
    )
    np.testing.assert_allclose(
        similarities(queries, database), [[0, 1, -1], [0.5**0.5, 0.5**0.5, -(0.5**0.5)]], atol=1e-6
    )


def test_descriptors_of_different_sizes_are_refused_with_both_sizes() -> None:
    with pytest.raises(ShapeError, match="128 values and the database 64"):
        similarities(np.zeros((1, 128), np.float32), np.zeros((3, 64), np.float32))


def test_resolutions_are_summed_and_normalised() -> None:
    descriptors_snd = np.array([[[1, 0]], [[1, 0]], [[0, 1]]], dtype=np.float32)
    np.testing.assert_allclose(combine_resolutions(descriptors_snd), [[2 / 5**0.5, 1 / 5**0.5]], atol=1e-6)


def test_one_resolution_combines_to_itself() -> None:
    descriptors_nd = region_vectors()
    np.testing.assert_allclose(combine_resolutions(descriptors_nd[None]), descriptors_nd, atol=1e-6)


def test_full_power_gives_mean_zero_and_covariance_identity() -> None:
    vectors_nc = region_vectors()
    whitening = fit_whitening(vectors_nc, 5)
    whitened_nd = vectors_nc @ whitening.weight_dc.T + whitening.bias_d
    np.testing.assert_allclose(whitened_nd.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(whitened_nd.T, bias=True), np.eye(5), atol=1e-3)


def test_no_power_only_rotates() -> None:
    weight_dc = fit_whitening(region_vectors(), 6, power=0).weight_dc
    np.testing.assert_allclose(weight_dc @ weight_dc.T, np.eye(6), atol=1e-5)


def test_a_power_between_leaves_each_component_its_variance_to_the_rest_of_the_power() -> None:
    vectors_nc = region_vectors()
    plain, half = (fit_whitening(vectors_nc, 4, power=power) for power in (0, 0.25))
    variances = (vectors_nc @ plain.weight_dc.T).var(axis=0)
    np.testing.assert_allclose((vectors_nc @ half.weight_dc.T).var(axis=0), variances**0.5, rtol=1e-3)


def test_whitening_equals_that_of_scikit_learn_up_to_sign() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors_nc = region_vectors()
    whitening = fit_whitening(vectors_nc, 4)
    ours = vectors_nc @ whitening.weight_dc.T + whitening.bias_d
    # scikit-learn divides by n - 1
    theirs = decomposition.PCA(4, whiten=True, svd_solver="full").fit_transform(vectors_nc.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs) * np.sqrt(60 / 59), atol=1e-3)


def test_whole_number_weights_equal_repeated_vectors() -> None:
    vectors_nc = region_vectors()
    times = np.random.default_rng(2).integers(1, 4, len(vectors_nc))
    weighted = fit_whitening(vectors_nc, 5, weights_n=times.astype(np.float64))
    repeated = fit_whitening(np.repeat(vectors_nc, times, axis=0), 5)
    np.testing.assert_allclose(weighted.weight_dc, repeated.weight_dc, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weighted.bias_d, repeated.bias_d, rtol=1e-3, atol=1e-4)


def test_the_sign_of_a_component_does_not_depend_on_the_order_of_vectors() -> None:
    vectors_nc = region_vectors()
    one, other = fit_whitening(vectors_nc, 6), fit_whitening(vectors_nc[::-1], 6)
    np.testing.assert_allclose(one.weight_dc, other.weight_dc, rtol=1e-3, atol=1e-3)


def test_vectors_without_spread_in_a_direction_do_not_blow_up() -> None:
    flat = np.pad(region_vectors(channels=3), ((0, 0), (0, 2)))
    assert np.isfinite(fit_whitening(flat, 5).weight_dc).all()


@pytest.mark.parametrize(("count", "dim"), [(60, 7), (5, 5), (60, 0)])
def test_more_components_than_the_vectors_carry_are_refused(count: int, dim: int) -> None:
    with pytest.raises(ShapeError, match=f"{count} region vectors of 6 values cannot carry {dim} components"):
        fit_whitening(region_vectors()[:count], dim)


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(damage: float) -> None:
    vectors_nc = region_vectors()
    vectors_nc[3, 2] = damage
    with pytest.raises(ShapeError, match="NaN or infinity"):
        fit_whitening(vectors_nc, 4)
