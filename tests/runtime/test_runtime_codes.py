"""The forms of stored descriptors: what rounding costs, and that the whole range of the codes is used."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.errors import OptionError
from deepir.runtime.codes import DTYPES, Codes, Dtype, signs

Rows = Callable[..., NDArray[np.float32]]

seeds = st.integers(0, 2**32 - 1)
whole = st.sampled_from(["i8", "b1"])


@settings(deadline=None)
@given(seed=seeds, count=st.integers(0, 30), dim=st.integers(1, 300), dtype=whole)
def test_each_value_comes_back_within_half_a_step_of_its_descriptor(
    seed: int, count: int, dim: int, dtype: Dtype, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(np.random.default_rng(seed), count, dim)
    codes_nd = Codes(dtype, dim).encode(rows_nd)
    assert (codes_nd.dtype, codes_nd.shape) == (np.int8, rows_nd.shape)
    for code_1d, row_1d in zip(codes_nd, rows_nd.astype(np.float64), strict=True):
        step = max(abs(value) for value in row_1d) / 127
        assert (np.abs(code_1d * step - row_1d) <= 0.5001 * step).all()


@settings(deadline=None)
@given(seed=seeds, count=st.integers(1, 20), dim=st.integers(1, 300), dtype=whole)
def test_the_largest_value_of_each_descriptor_gets_the_largest_code_of_its_sign(
    seed: int, count: int, dim: int, dtype: Dtype, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(np.random.default_rng(seed), count, dim)
    codes_nd = Codes(dtype, dim).encode(rows_nd).astype(int)
    place_n = np.abs(rows_nd).argmax(axis=1)
    for code_1d, row_1d, place in zip(codes_nd, rows_nd, place_n, strict=True):
        assert code_1d[place] == 127 * np.sign(row_1d[place])
        assert np.abs(code_1d).max() == 127


@settings(deadline=None)
@given(seed=seeds, dim=st.integers(1, 60), factor=st.floats(1e-6, 1e6), dtype=whole)
def test_the_length_of_a_descriptor_changes_nothing(
    seed: int, dim: int, factor: float, dtype: Dtype, unit_rows: Rows
) -> None:
    rows_nd, codes = unit_rows(np.random.default_rng(seed), 4, dim), Codes(dtype, dim)
    scaled = codes.encode(rows_nd * np.float32(factor)).astype(int)
    assert (np.abs(scaled - codes.encode(rows_nd)) <= 1).all()


def test_a_descriptor_of_zeros_stays_one() -> None:
    for dtype in DTYPES:
        codes = Codes(dtype, 3)
        np.testing.assert_array_equal(codes.encode(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))
        np.testing.assert_array_equal(codes.decode(codes.encode(np.zeros((2, 3), np.float32))), np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_descriptor_gets_the_code_that_it_gets_among_others(
    dtype: Dtype, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd, codes = unit_rows(rng, 5, 40), Codes(dtype, 40)
    np.testing.assert_array_equal(codes.encode(rows_nd[3]), codes.encode(rows_nd)[3])


@settings(deadline=None)
@given(seed=seeds, count=st.integers(0, 8), dim=st.integers(1, 64), dtype=st.sampled_from(["f16", "f32"]))
def test_floats_are_what_numpy_makes_of_them(seed: int, count: int, dim: int, dtype: Dtype, unit_rows: Rows) -> None:
    rows_nd = unit_rows(np.random.default_rng(seed), count, dim)
    codes_nd = Codes(dtype, dim).encode(rows_nd)
    assert codes_nd.dtype == {"f16": np.float16, "f32": np.float32}[dtype]
    np.testing.assert_array_equal(codes_nd, rows_nd.astype(codes_nd.dtype))


@settings(deadline=None)
@given(seed=seeds, count=st.integers(1, 20), dim=st.integers(1, 300), dtype=st.sampled_from(DTYPES))
def test_what_comes_back_has_length_one_and_nearly_the_same_direction(
    seed: int, count: int, dim: int, dtype: Dtype, unit_rows: Rows
) -> None:
    rows_nd, codes = unit_rows(np.random.default_rng(seed), count, dim), Codes(dtype, dim)
    back_nd = codes.decode(codes.encode(rows_nd))
    assert back_nd.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back_nd, axis=1), 1, atol=1e-5)
    assert (np.einsum("nd,nd->n", back_nd, rows_nd) > 0.999).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_in_a_journal_are_the_codes(dtype: Dtype, rng: np.random.Generator, unit_rows: Rows) -> None:
    codes = Codes(dtype, 16)
    codes_nd = codes.encode(unit_rows(rng, 3, 16))
    kept = codes_nd.astype(codes.code_type).tobytes()
    np.testing.assert_array_equal(np.frombuffer(kept, codes.code_type), codes_nd.ravel())
    assert codes.code_type.newbyteorder("<") == codes.code_type


@settings(deadline=None)
@given(seed=seeds, count=st.integers(0, 5), dim=st.integers(1, 40))
def test_signs_are_bits_from_the_highest_down(seed: int, count: int, dim: int) -> None:
    codes_nd = np.random.default_rng(seed).integers(-2, 3, (count, dim), dtype=np.int8)
    expected = np.zeros((count, -(-dim // 8)), np.uint8)
    for row in range(count):
        for column in range(dim):
            if codes_nd[row, column] > 0:
                expected[row, column // 8] += 1 << (7 - column % 8)
    np.testing.assert_array_equal(signs(codes_nd), expected)


@settings(deadline=None)
@given(dim=st.integers(1, 100), dtype=st.sampled_from(DTYPES))
def test_a_comparison_reads_as_many_bytes_as_usearch_stores(dim: int, dtype: Dtype) -> None:
    row_nd, codes = np.ones((1, dim), np.float32), Codes(dtype, dim)
    stored = signs(codes.encode(row_nd)) if dtype == "b1" else codes.encode(row_nd)
    assert codes.searched_bytes == stored.nbytes


@pytest.mark.parametrize(("dtype", "dim"), [("i4", 8), ("", 8), ("i8", 0), ("b1", -8)])
def test_a_form_that_cannot_be_is_refused(dtype: Dtype, dim: int) -> None:
    with pytest.raises(OptionError):
        Codes(dtype, dim)
