"""Changes as records of a journal: each comes back as it was, and a damaged one is refused."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.errors import IndexFileError
from deepir.runtime.changes import Addition, Change, Relabelling, Removal, Setting, count_views, from_record, to_record
from deepir.runtime.codes import DTYPES, Codes, Dtype
from deepir.runtime.threshold import Threshold

CODES = Codes("i8", 3)

words = st.text(max_size=8)
json_objects = st.just({}) | st.dictionaries(words, st.integers() | words | st.lists(st.booleans(), max_size=2))
key_lists = st.lists(st.integers(0, 2**64 - 1), max_size=5)


def keys_n(*keys: int) -> NDArray[np.uint64]:
    return np.array(keys, np.uint64)


def addition(codes: Codes = CODES) -> Addition:
    codes_nd = codes.encode(np.array([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]], np.float32))
    return Addition(keys_n(4, 5), "tea", ("a.jpg", "b.jpg"), ({}, {"price": 1.5}), codes_nd)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    dim=st.integers(1, 20),
    first=st.integers(1, 2**63),
    label=words,
    views=st.lists(st.tuples(words, json_objects), min_size=1, max_size=5),
)
def test_an_addition_comes_back(
    seed: int, dtype: Dtype, dim: int, first: int, label: str, views: list[tuple[str, Mapping[str, object]]]
) -> None:
    codes = Codes(dtype, dim)
    codes_nd = codes.encode(np.random.default_rng(seed).normal(size=(len(views), dim)).astype(np.float32))
    sources, metadata = tuple(source for source, _ in views), tuple(entry for _, entry in views)
    keys = np.arange(first, first + len(views), dtype=np.uint64)
    (back,) = from_record(to_record([Addition(keys, label, sources, metadata, codes_nd)], codes), codes)
    assert isinstance(back, Addition)
    assert (back.keys.tolist(), back.keys.dtype) == (keys.tolist(), np.uint64)
    assert (back.label, back.sources, back.metadata) == (label, sources, metadata)
    np.testing.assert_array_equal(back.codes_nd, codes_nd)
    assert (back.codes_nd.dtype, count_views(back)) == (codes_nd.dtype, len(views))


@settings(deadline=None)
@given(keys=key_lists)
def test_a_removal_comes_back(keys: list[int]) -> None:
    (back,) = from_record(to_record([Removal(keys_n(*keys))], CODES), CODES)
    assert isinstance(back, Removal)
    assert (back.keys.tolist(), back.keys.dtype, count_views(back)) == (keys, np.uint64, len(keys))


@settings(deadline=None)
@given(keys=key_lists, label=words)
def test_a_relabelling_comes_back(keys: list[int], label: str) -> None:
    (back,) = from_record(to_record([Relabelling(keys_n(*keys), label)], CODES), CODES)
    assert isinstance(back, Relabelling)
    assert (back.keys.tolist(), back.keys.dtype, back.label) == (keys, np.uint64, label)


@settings(deadline=None)
@given(
    threshold=st.none() | st.builds(Threshold, st.floats(-1, 1), st.floats(0.01, 0.9), st.integers(1, 9)),
    far=st.none() | st.floats(0.01, 0.9),
    margin=st.none() | st.floats(0, 1),
)
def test_a_setting_comes_back(threshold: Threshold | None, far: float | None, margin: float | None) -> None:
    setting = Setting(threshold, far, margin)
    assert from_record(to_record([setting], CODES), CODES) == [setting]
    assert count_views(setting) == 1


def test_the_record_of_an_addition_is_a_line_of_json_and_the_codes() -> None:
    line, _, rest = to_record([addition()], CODES).partition(b"\n")
    assert json.loads(line) == {
        "do": "add",
        "first": 4,
        "label": "tea",
        "sources": ["a.jpg", "b.jpg"],
        "metadata": [{}, {"price": 1.5}],
    }
    assert rest == addition().codes_nd.tobytes()


def test_codes_that_look_like_the_end_of_a_line_come_back() -> None:
    codes_nd = np.full((2, 3), 10, np.int8)
    change = Addition(keys_n(1, 2), "a\nb", ("\n", ""), ({}, {}), codes_nd)
    (back,) = from_record(to_record([change], CODES), CODES)
    assert isinstance(back, Addition)
    assert (back.label, back.sources) == ("a\nb", ("\n", ""))
    np.testing.assert_array_equal(back.codes_nd, codes_nd)


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_of_another_size_are_refused(dtype: Dtype) -> None:
    codes = Codes(dtype, 3)
    record = to_record([addition(codes)], codes)
    for damaged in (record[:-1], record + b"\0", record[: record.index(b"\n") + 1]):
        with pytest.raises(IndexFileError, match="a change cannot be read"):
            from_record(damaged, codes)
    with pytest.raises(IndexFileError, match="a change cannot be read"):
        from_record(record, Codes(dtype, 4))


def damaged_line(change: Change, **fields: object) -> bytes:
    """The record with other values in its line; None leaves a value out."""
    line, _, rest = to_record([change], CODES).partition(b"\n")
    values = {**json.loads(line), **fields}
    return json.dumps({name: value for name, value in values.items() if value is not ...}).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "fields",
    [
        {"first": ...},
        {"first": "4"},
        {"first": -1},
        {"first": 2**64 - 1},
        {"label": ...},
        {"sources": ...},
        {"sources": ["a.jpg"]},
        {"sources": 2},
        {"metadata": [{}]},
        {"metadata": 2},
        {"do": ...},
    ],
)
def test_an_addition_with_wrong_fields_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(IndexFileError, match="a change cannot be read"):
        from_record(damaged_line(addition(), **fields), CODES)


@pytest.mark.parametrize("keys", [..., 3, [-1], [2**64], ["a"], [None]])
def test_keys_that_cannot_be_are_refused(keys: object) -> None:
    for change in (Removal(keys_n(3)), Relabelling(keys_n(3), "tea")):
        with pytest.raises(IndexFileError, match="a change cannot be read"):
            from_record(damaged_line(change, keys=keys), CODES)


@pytest.mark.parametrize("fields", [{"threshold": ...}, {"threshold": 0.5}, {"threshold": {"value": 0.5}}, {"more": 1}])
def test_a_setting_with_wrong_fields_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(IndexFileError, match="a change cannot be read"):
        from_record(damaged_line(Setting(far=0.1), **fields), CODES)


def test_a_change_of_a_later_version_is_refused_by_its_name() -> None:
    with pytest.raises(IndexFileError, match="a change 'merge', which this version does not know"):
        from_record(b'{"do": "merge"}\n', CODES)


def test_changes_that_happen_together_come_back_together_and_in_their_order() -> None:
    changes = [addition(), Removal(keys_n(1)), Setting(far=0.1), addition(), Relabelling(keys_n(4, 5), "cup")]
    back = from_record(to_record(changes, CODES), CODES)
    assert [type(change) for change in back] == [type(change) for change in changes]
    assert to_record(back, CODES) == to_record(changes, CODES)
    assert from_record(to_record([], CODES), CODES) == []


@settings(deadline=None)
@given(record=st.binary(min_size=1, max_size=40))
def test_bytes_that_are_no_change_are_refused(record: bytes) -> None:
    with pytest.raises(IndexFileError):
        from_record(record, CODES)


def test_a_record_that_was_cut_anywhere_is_refused() -> None:
    record = to_record([addition()], CODES)
    for length in range(1, len(record)):
        with pytest.raises(IndexFileError):
            from_record(record[:length], CODES)
