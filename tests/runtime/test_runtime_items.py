"""The table of items against a plain dictionary, whatever is done to it, in memory and written and read again."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from deepir.errors import IndexFileError, InputError
from deepir.runtime.columns import NumberColumn, TextColumn
from deepir.runtime.items import Item, ItemTable, check_entries

labels = st.sampled_from(["tea", "tea/green", "cup", "größe", "a b"])
sources = st.text(st.characters(exclude_characters="\0"), max_size=10)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
metadata = st.just({}) | st.dictionaries(st.text(max_size=5), json_values, max_size=3)


def keys_n(*keys: int) -> NDArray[np.uint64]:
    return np.array(keys, np.uint64)


def written(table: ItemTable) -> ItemTable:
    return ItemTable.from_sections({name: memoryview(content) for name, content in table.to_sections().items()})


class TableAgainstDictionary(RuleBasedStateMachine):
    """Every step is done to the table and to a dictionary from keys to items."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ItemTable()
        self.items: dict[int, Item] = {}
        self.next_key = 1

    @initialize(first=st.sampled_from([1, 5, 2**63]))
    def begin(self, first: int) -> None:
        self.next_key = first

    @rule(label=labels, views=st.lists(st.tuples(sources, metadata), max_size=4), gap=st.integers(0, 2))
    def append(self, label: str, views: list[tuple[str, Mapping[str, object]]], gap: int) -> None:
        first = self.next_key + gap
        keys = np.arange(first, first + len(views), dtype=np.uint64)
        self.table.append(keys, label, [source for source, _ in views], [entry for _, entry in views])
        for key, (source, entry) in zip(keys.tolist(), views, strict=True):
            self.items[key] = Item(key, label, source, entry)
        self.next_key = first + len(views)

    def some_keys(self, choose: st.DataObject) -> list[int]:
        return choose.draw(st.lists(st.sampled_from(sorted(self.items)), unique=True)) if self.items else []

    @rule(choose=st.data())
    def remove(self, choose: st.DataObject) -> None:
        keys = self.some_keys(choose)
        self.table.remove(keys_n(*keys))
        for key in keys:
            del self.items[key]

    @rule(choose=st.data(), label=labels)
    def relabel(self, choose: st.DataObject, label: str) -> None:
        keys = self.some_keys(choose)
        self.table.relabel(keys_n(*keys), label)
        for key in keys:
            item = self.items[key]
            self.items[key] = Item(key, label, item.source, item.metadata)

    @rule()
    def write_and_read(self) -> None:
        self.table = written(self.table)

    @invariant()
    def the_items_are_those_of_the_dictionary(self) -> None:
        assert list(self.table) == [self.items[key] for key in sorted(self.items)]
        assert self.table.keys.tolist() == sorted(self.items)

    @invariant()
    def the_labels_are_counted(self) -> None:
        counts = Counter(item.label for item in self.items.values())
        assert list(self.table.counts().items()) == sorted(counts.items())
        for label in ("tea", "cup", "never"):
            expected = [key for key in sorted(self.items) if self.items[key].label == label]
            assert self.table.keys_of(label).tolist() == expected

    @invariant()
    def keys_are_found_and_others_are_not(self) -> None:
        asked = sorted({0, 3, 2**63 + 1, 2**64 - 1, *self.items})
        found = self.table.contains(keys_n(*asked)).tolist()
        assert found == [key in self.items for key in asked]
        rows = self.table.rows_of(keys_n(*sorted(self.items)))
        assert [self.table.item_at(int(row)).key for row in rows] == sorted(self.items)


TableAgainstDictionary.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestTableAgainstDictionary = TableAgainstDictionary.TestCase


def small_table() -> ItemTable:
    table = ItemTable()
    table.append(keys_n(1, 2), "tea", ["a/front.jpg", "back.jpg"], [{"price": 1.5}, {}])
    table.append(keys_n(3), "cup", ["cup.jpg"], [{}])
    return table


@pytest.mark.parametrize(("source", "view"), [("a/b/front.jpg", "front.jpg"), ("front.jpg", "front.jpg"), ("", "")])
def test_the_view_is_the_name_of_the_picture(source: str, view: str) -> None:
    assert Item(1, "tea", source).view == view


def test_what_was_removed_is_not_written() -> None:
    table = small_table()
    table.append(keys_n(4), "secret", ["secret.jpg"], [{"secret": 1}])
    table.remove(keys_n(4))
    assert table.to_sections() == small_table().to_sections()
    assert written(table).label_names == ["cup", "tea"]


def test_what_is_left_after_a_removal_keeps_its_own_texts_when_it_is_written() -> None:
    table = small_table()
    table.remove(keys_n(1))
    assert list(written(table)) == [Item(2, "tea", "back.jpg"), Item(3, "cup", "cup.jpg")]


@pytest.mark.parametrize("missing", ["keys", "label_numbers", "labels", "sources", "metadata"])
def test_a_missing_section_is_refused(missing: str) -> None:
    sections = small_table().to_sections()
    del sections[missing]
    with pytest.raises(IndexFileError, match="its list of items cannot be read"):
        ItemTable.from_sections(sections)


@pytest.mark.parametrize("short", ["keys", "label_numbers", "sources", "metadata"])
def test_sections_of_different_lengths_are_refused(short: str) -> None:
    table, shorter = small_table(), small_table()
    shorter.remove(keys_n(2))
    with pytest.raises(IndexFileError, match="do not fit together"):
        ItemTable.from_sections({**table.to_sections(), short: shorter.to_sections()[short]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": TextColumn(["tea"]).to_bytes(np.arange(1))},
        {"labels": TextColumn().to_bytes(np.arange(0))},
        {"label_numbers": NumberColumn(np.array([0, 1, 2], np.uint32)).to_bytes()},
        {"keys": NumberColumn(keys_n(1, 1, 2)).to_bytes()},
        {"keys": NumberColumn(keys_n(3, 2, 1)).to_bytes()},
    ],
    ids=["a label too few", "no labels", "a number without a label", "a key twice", "falling keys"],
)
def test_sections_that_contradict_each_other_are_refused(wrong: dict[str, bytes]) -> None:
    with pytest.raises(IndexFileError, match="do not fit together"):
        ItemTable.from_sections({**small_table().to_sections(), **wrong})


@settings(deadline=None)
@given(name=st.sampled_from(sorted(small_table().to_sections())), content=st.binary(max_size=40))
def test_bytes_that_are_no_section_are_refused(name: str, content: bytes) -> None:
    with pytest.raises(IndexFileError):
        ItemTable.from_sections({**small_table().to_sections(), name: content})


def test_labels_that_are_no_text_are_refused() -> None:
    not_utf8 = NumberColumn(np.frombuffer(b"\xff\xff\0a\xff\xff\xff\0", "<u4")).to_bytes()
    with pytest.raises(IndexFileError, match="its list of items cannot be read"):
        ItemTable.from_sections({**small_table().to_sections(), "labels": not_utf8})


@settings(deadline=None)
@given(entry=metadata, source=sources)
def test_json_and_any_source_without_nul_can_be_stored(entry: Mapping[str, object], source: str) -> None:
    check_entries([source], [entry])
    table = ItemTable()
    table.append(keys_n(1), "tea", [source], [entry])
    assert list(written(table)) == [Item(1, "tea", source, entry)]


@pytest.mark.parametrize("entry", [{"a": {1}}, {"a": float("inf")}, {(1,): 2}, [], "a", 0, None])
def test_metadata_that_are_no_json_object_are_refused(entry: object) -> None:
    with pytest.raises(InputError, match="JSON values"):
        check_entries(["a.jpg"], [entry])  # type: ignore[list-item]


def test_metadata_that_hold_themselves_are_refused() -> None:
    entry: dict[str, object] = {}
    entry["self"] = entry
    with pytest.raises(InputError, match="JSON values"):
        check_entries(["a.jpg"], [entry])


def test_the_character_nul_in_a_source_is_refused() -> None:
    with pytest.raises(InputError, match="the character NUL"):
        check_entries(["a.jpg", "\0"], [{}, {}])
