"""PCA whitening and whitening learned from matching pairs, against scikit-learn and the plain formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.errors import ShapeError
from deepir.whitening import Whitening, fit_learned_whitening, fit_whitening, principal_components

Pairs = tuple[Descriptors, NDArray[np.intp], NDArray[np.intp]]


def region_vectors(count: int = 60, channels: int = 6, seed: int = 7) -> Descriptors:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, channels)) @ rng.standard_normal((channels, channels))
    return normalise(mixed.astype(np.float32))


def matching_pairs(labels: int = 40, channels: int = 6, seed: int = 3) -> Pairs:
    """Three descriptors of each label; every two of them are a pair."""
    rng = np.random.default_rng(seed)
    things = rng.standard_normal((labels, 1, channels)) @ rng.standard_normal((channels, channels))
    noise = rng.standard_normal((labels, 3, channels)) @ rng.standard_normal((channels, channels))
    descriptors = (things + 0.2 * noise).reshape(-1, channels).astype(np.float32)
    first = np.arange(labels) * 3
    return descriptors, np.concatenate([first, first, first + 1]), np.concatenate([first + 1, first + 2, first + 2])


def apply(whitening: Whitening, vectors_nc: Descriptors) -> Descriptors:
    return vectors_nc @ whitening.weight_dc.T + whitening.bias_d


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 12), st.booleans())
def test_full_power_gives_mean_zero_and_covariance_identity(seed: int, channels: int, standardise: bool) -> None:
    vectors_nc = region_vectors(200, channels, seed)
    whitened_nd = apply(fit_whitening(vectors_nc, channels - 1, standardise=standardise), vectors_nc)
    np.testing.assert_allclose(whitened_nd.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(whitened_nd.T, bias=True), np.eye(channels - 1), atol=1e-4)


def test_no_power_only_rotates() -> None:
    weight_dc = fit_whitening(region_vectors(), 6, power=0).weight_dc
    np.testing.assert_allclose(weight_dc @ weight_dc.T, np.eye(6), atol=1e-5)


def test_a_power_between_leaves_each_component_its_variance_to_the_rest_of_the_power() -> None:
    vectors_nc = region_vectors()
    plain, half = (fit_whitening(vectors_nc, 4, power=power) for power in (0, 0.25))
    variances = (vectors_nc @ plain.weight_dc.T).var(axis=0)
    np.testing.assert_allclose((vectors_nc @ half.weight_dc.T).var(axis=0), variances**0.5, rtol=1e-3)


@pytest.mark.parametrize("standardise", [False, True])
def test_whitening_equals_that_of_scikit_learn_up_to_sign(standardise: bool) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    vectors_nc = region_vectors() * np.float32([1, 5, 0.2, 1, 1, 3])
    ours = apply(fit_whitening(vectors_nc, 4, standardise=standardise), vectors_nc)
    scaler = preprocessing.StandardScaler(with_std=standardise).fit(vectors_nc.astype(np.float64))
    pca = decomposition.PCA(4, whiten=True, svd_solver="full")
    theirs = pca.fit_transform(scaler.transform(vectors_nc.astype(np.float64)))
    # scikit-learn's PCA divides by n - 1
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs) * np.sqrt(60 / 59), atol=1e-3)


def test_standardising_makes_the_scale_of_a_channel_indifferent() -> None:
    vectors_nc = region_vectors()
    scaled_nc = vectors_nc * np.float32([1, 10, 0.1, 1, 1, 4])
    one, other = (apply(fit_whitening(each, 5, standardise=True), each) for each in (vectors_nc, scaled_nc))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_constant_channel_is_divided_by_one_when_standardised() -> None:
    vectors_nc = region_vectors()
    vectors_nc[:, 2] = 0.3
    whitening = fit_whitening(vectors_nc, 5, standardise=True)
    np.testing.assert_allclose(whitening.weight_dc[:, 2], 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(apply(whitening, vectors_nc).T, bias=True), np.eye(5), atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.25, 0.5]))
def test_one_affine_map_equals_scaler_rotation_and_power_done_in_turn(seed: int, power: float) -> None:
    vectors_nc = region_vectors(80, 8, seed)
    found = principal_components(vectors_nc, standardise=True)
    standardised = (vectors_nc.astype(np.float64) - found.mean_c) / found.deviation_c
    in_turn = standardised @ found.components_cc[:5].T / found.variances_c[:5] ** power
    folded = apply(fit_whitening(vectors_nc, 5, power=power, standardise=True), vectors_nc)
    np.testing.assert_allclose(normalise(folded), normalise(in_turn), atol=1e-5)


def test_whole_number_weights_equal_repeated_vectors() -> None:
    vectors_nc = region_vectors()
    times = np.random.default_rng(2).integers(1, 4, len(vectors_nc))
    weighted = fit_whitening(vectors_nc, 5, weights_n=times.astype(np.float64), standardise=True)
    repeated = fit_whitening(np.repeat(vectors_nc, times, axis=0), 5, standardise=True)
    np.testing.assert_allclose(weighted.weight_dc, repeated.weight_dc, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weighted.bias_d, repeated.bias_d, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_value_of_a_component_is_positive(seed: int) -> None:
    weight_dc = fit_whitening(region_vectors(seed=seed), 6).weight_dc
    assert (weight_dc[np.arange(6), np.abs(weight_dc).argmax(axis=1)] > 0).all()


def test_many_vectors_in_half_precision_give_the_whitening_of_single_precision() -> None:
    vectors_nc = region_vectors(9000)
    single, half = fit_whitening(vectors_nc, 6), fit_whitening(vectors_nc.astype(np.float16), 6)
    np.testing.assert_allclose(single.weight_dc, half.weight_dc, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(np.cov(apply(single, vectors_nc).T, bias=True), np.eye(6), atol=2e-5)


def test_vectors_without_spread_in_a_direction_do_not_blow_up() -> None:
    flat = np.pad(region_vectors(channels=3), ((0, 0), (0, 2)))
    assert np.isfinite(fit_whitening(flat, 5).weight_dc).all()
    assert np.isfinite(fit_whitening(flat, 5, standardise=True).weight_dc).all()


@pytest.mark.parametrize(("count", "dim"), [(60, 7), (5, 5), (60, 0)])
def test_more_components_than_the_vectors_carry_are_refused(count: int, dim: int) -> None:
    with pytest.raises(ShapeError, match=f"{count} vectors of 6 values cannot carry {dim} components"):
        fit_whitening(region_vectors()[:count], dim)


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(damage: float) -> None:
    vectors_nc = region_vectors()
    vectors_nc[3, 2] = damage
    with pytest.raises(ShapeError, match="NaN or infinity"):
        fit_whitening(vectors_nc, 4)
    with pytest.raises(ShapeError, match="NaN or infinity"):
        fit_learned_whitening(vectors_nc, np.arange(8), np.arange(8) + 8, 4)


@pytest.mark.parametrize("shape", [(0, 6), (1, 6), (6,), (2, 3, 6)])
def test_what_is_no_set_of_vectors_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="two or more vectors"):
        fit_whitening(np.zeros(shape, np.float32), 1)


@pytest.mark.parametrize("weights", [np.ones(59), np.zeros(60), -np.ones(60), np.full(60, np.nan)])
def test_weights_that_weigh_nothing_are_refused(weights: NDArray[np.float64]) -> None:
    with pytest.raises(ShapeError, match="expected 60 weights"):
        fit_whitening(region_vectors(), 4, weights_n=weights)


@pytest.mark.parametrize("dim", [None, 6, 4])
def test_matching_pairs_end_up_with_unit_covariance_within(dim: int | None) -> None:
    descriptors_nc, queries, positives = matching_pairs()
    whitened_nd = apply(fit_learned_whitening(descriptors_nc, queries, positives, dim), descriptors_nc)
    differences = whitened_nd[queries] - whitened_nd[positives]
    np.testing.assert_allclose(differences.T @ differences / len(queries), np.eye(dim or 6), atol=1e-3)


def test_the_learned_whitening_is_the_published_formula_up_to_sign() -> None:
    descriptors_nc, queries, positives = matching_pairs()
    columns = descriptors_nc.T.astype(np.float64)
    mean = columns[:, queries].mean(axis=1, keepdims=True)
    difference = columns[:, queries] - columns[:, positives]
    start = np.linalg.inv(np.linalg.cholesky(difference @ difference.T / len(queries)))
    values, vectors = np.linalg.eig(start @ (columns - mean) @ (columns - mean).T @ start.T)
    projection = vectors[:, np.argsort(values)[::-1]].T @ start
    expected = (projection @ (columns - mean)).T
    ours = apply(fit_learned_whitening(descriptors_nc, queries, positives), descriptors_nc)
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_learned_dimensions_fall_in_the_spread_of_all_descriptors() -> None:
    descriptors_nc, queries, positives = matching_pairs()
    spread = apply(fit_learned_whitening(descriptors_nc, queries, positives), descriptors_nc).var(axis=0)
    assert (np.diff(spread) < 0).all()


def test_learned_whitening_finds_what_tells_labels_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.standard_normal((30, 2)), 2, axis=0)
    loud_noise = 5 * rng.standard_normal((60, 3))
    descriptors_nc = np.concatenate([labels + 0.1 * rng.standard_normal((60, 2)), loud_noise], axis=1)
    queries = np.arange(0, 60, 2)
    whitening = fit_learned_whitening(descriptors_nc.astype(np.float32), queries, queries + 1, 2)
    share = np.abs(whitening.weight_dc[:, :2]).sum() / np.abs(whitening.weight_dc).sum()
    assert share > 0.95


@pytest.mark.parametrize(("labels", "flat"), [(40, 1), (19, 0)])
def test_where_pairs_tell_too_little_a_ridge_of_half_the_mean_variance_is_added(labels: int, flat: int) -> None:
    descriptors_nc, queries, positives = matching_pairs(labels)
    padded = np.pad(descriptors_nc, ((0, 0), (0, flat)))
    difference = padded[queries].astype(np.float64) - padded[positives]
    covariance = difference.T @ difference / len(queries)
    ridged = covariance + 0.5 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weight_dc = fit_learned_whitening(padded, queries, positives).weight_dc.astype(np.float64)
    np.testing.assert_allclose(weight_dc @ ridged @ weight_dc.T, np.eye(6 + flat), atol=1e-3)


def test_too_few_pairs_are_refused_with_the_numbers() -> None:
    descriptors_nc, queries, positives = matching_pairs()
    with pytest.raises(ShapeError, match="5 matching pairs are too few to learn a whitening of 6 values"):
        fit_learned_whitening(descriptors_nc, queries[:5], positives[:5])
    with pytest.raises(ShapeError, match="0 matching pairs are too few"):
        fit_learned_whitening(descriptors_nc, queries[:0], positives[:0])


def test_pairs_of_equal_descriptors_are_refused() -> None:
    descriptors_nc, queries, _ = matching_pairs()
    with pytest.raises(ShapeError, match="every matching pair are equal"):
        fit_learned_whitening(descriptors_nc, queries, queries)


@pytest.mark.parametrize(("query", "positive"), [([0, 1], [0]), ([0, 120], [1, 2]), ([0, -1], [1, 2])])
def test_pairs_of_rows_that_are_not_there_are_refused(query: list[int], positive: list[int]) -> None:
    descriptors_nc = matching_pairs()[0]
    with pytest.raises(ShapeError, match="two of the 120 rows"):
        fit_learned_whitening(descriptors_nc, np.array(query), np.array(positive), 2)
