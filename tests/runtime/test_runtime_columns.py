"""Columns against a plain list: what goes in comes out, however they grew and whatever is chosen of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.errors import IndexFileError
from deepir.runtime.columns import NumberColumn, TextColumn

texts = st.lists(st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=20)
"""Any text without NUL."""

types = st.sampled_from([np.uint64, np.uint32, np.int64])
numbers = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def all_of(column: TextColumn) -> list[str]:
    return [column[row] for row in range(len(column))]


def written(column: TextColumn) -> TextColumn:
    return TextColumn.from_bytes(column.to_bytes(np.arange(len(column))))


@settings(deadline=None)
@given(parts=st.lists(numbers, max_size=8), dtype=types)
def test_numbers_come_back_however_the_column_grew(parts: list[list[int]], dtype: type[np.generic]) -> None:
    column = NumberColumn(np.empty(0, dtype))
    expected: list[int] = []
    for part in parts:
        column.extend(np.array(part, dtype))
        expected += part
        assert (len(column), column.values.tolist(), column.values.dtype) == (len(expected), expected, dtype)
    read = NumberColumn.from_bytes(column.to_bytes(), dtype)
    assert (read.values.tolist(), read.values.dtype) == (expected, dtype)
    read.extend(np.array([7], dtype))
    assert read.values.tolist() == [*expected, 7]


def test_a_column_that_grows_leaves_alone_what_it_was_made_of() -> None:
    given_n = np.arange(3, dtype=np.uint64)
    column = NumberColumn(given_n)
    column.extend(np.array([9], np.uint64))
    assert (given_n.tolist(), column.values.tolist()) == ([0, 1, 2], [0, 1, 2, 9])


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 9), max_size=8), width=st.integers(0, 5))
def test_rows_come_back_however_the_column_grew(counts: list[int], width: int) -> None:
    rows_nd = np.arange(sum(counts) * width, dtype=np.float32).reshape(sum(counts), width)
    column = NumberColumn(np.empty((0, width), np.float32))
    for part in np.split(rows_nd, np.cumsum(counts)):
        column.extend(part)
    np.testing.assert_array_equal(column.values, rows_nd)


def test_a_growing_column_seldom_moves() -> None:
    column = NumberColumn(np.empty(0, np.uint64))
    places = set()
    kept: list[NDArray[np.uint64]] = []
    for number in range(10_000):
        column.extend(np.array([number], np.uint64))
        places.add(column.values.__array_interface__["data"][0])
        kept.append(column.values[:0])
    assert len(places) < 20


@settings(deadline=None)
@given(parts=st.lists(st.tuples(texts, st.booleans()), max_size=6))
def test_texts_come_back_however_often_the_column_was_written(parts: list[tuple[list[str], bool]]) -> None:
    column, expected = TextColumn(), list[str]()
    for part, again in parts:
        column.extend(part)
        expected += part
        column = written(column) if again else column
        assert (len(column), all_of(column)) == (len(expected), expected)


def test_a_file_name_that_is_no_utf_8_comes_back() -> None:
    names = [b"caf\xe9".decode("utf-8", "surrogateescape"), "\ud800", "\udc00\ud800", "\U0001f375"]
    assert all_of(written(written(TextColumn(names)))) == names


@settings(deadline=None)
@given(old=texts, new=texts, choose=st.data())
def test_the_texts_of_chosen_rows_are_written_in_that_order(
    old: list[str], new: list[str], choose: st.DataObject
) -> None:
    column = written(TextColumn(old))
    column.extend(new)
    everything = [*old, *new]
    some = st.lists(st.integers(0, len(everything) - 1), max_size=30) if everything else st.just(list[int]())
    rows = choose.draw(some)
    read = TextColumn.from_bytes(column.to_bytes(np.array(rows, np.int64)))
    assert all_of(read) == [everything[row] for row in rows]


def test_the_bytes_of_numbers_are_the_same_on_every_machine() -> None:
    swapped = np.array([1, 256], np.uint32).astype(">u4")
    assert NumberColumn(swapped).to_bytes() == NumberColumn(np.array([1, 256], np.uint32)).to_bytes()


@settings(deadline=None)
@given(content=st.binary(max_size=60))
def test_bytes_that_no_column_wrote_are_refused(content: bytes) -> None:
    for read in (TextColumn.from_bytes, lambda some: NumberColumn.from_bytes(some, np.uint64)):
        with pytest.raises(IndexFileError, match="cannot be decompressed"):
            read(content)


def test_each_flipped_bit_is_noticed() -> None:
    good = TextColumn(["front.jpg", "back.jpg"]).to_bytes(np.arange(2))
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IndexFileError):
            TextColumn.from_bytes(damaged)


def test_a_number_or_a_text_that_was_cut_is_refused() -> None:
    numbers_of_four_bytes = NumberColumn(np.arange(3, dtype=np.uint32)).to_bytes()
    with pytest.raises(IndexFileError, match="12 bytes"):
        NumberColumn.from_bytes(numbers_of_four_bytes, np.uint64)
    with pytest.raises(IndexFileError, match="ends within a text"):
        TextColumn.from_bytes(NumberColumn(np.frombuffer(b"ab\0c", "<u4")).to_bytes())
