"""Length, similarity, several resolutions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from deepir.descriptors import LENGTH_FLOOR, Descriptors, combine_resolutions, normalise, similarities
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
