"""What an index knows of each stored view: its key, its label, the picture it came from, and metadata."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import IndexFileError, InputError
from deepir.runtime.columns import NumberColumn, TextColumn

Keys = NDArray[np.uint64]
"""(N,), rising: keys are given out in order and never used twice."""

Rows = NDArray[np.int64]

Metadata = Mapping[str, Any]
"""What a program wants to have back with a hit: a price, a pose; JSON values."""


@dataclass(frozen=True, slots=True)
class Item:
    """A stored view.

    Attributes:
        key: Its number in the index, 1 or more.
        label: What it shows.
        source: The picture it came from: a path, relative to the folder of the index or absolute, or just a name.
        metadata: What was stored with it.
    """

    key: int
    label: str
    source: str
    metadata: Metadata = field(default_factory=dict)

    @property
    def view(self) -> str:
        """The name of the picture without its folder."""
        return os.path.basename(self.source)


class ItemTable:
    """The items by key, in columns so that a million of them stay small."""

    def __init__(self) -> None:
        self._keys = NumberColumn(np.empty(0, np.uint64))
        self._label_numbers = NumberColumn(np.empty(0, np.uint32))
        self._text_rows = NumberColumn(np.empty(0, np.int64))
        self._sources, self._metadata = TextColumn(), TextColumn()
        self._labels: list[str] = []
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Keys:
        """All keys, rising."""
        return self._keys.values

    @property
    def label_numbers(self) -> NDArray[np.uint32]:
        """For each row the number of its label in `label_names`."""
        return self._label_numbers.values

    @property
    def label_names(self) -> Sequence[str]:
        """By number; some may have no view any more."""
        return self._labels

    def counts(self) -> dict[str, int]:
        """Each label, sorted, with its number of views."""
        count_n = np.bincount(self.label_numbers, minlength=len(self._labels))
        return dict(sorted((label, int(count_n[number])) for label, number in self._numbers.items() if count_n[number]))

    def has(self, label: str) -> bool:
        """Whether a view has this label."""
        return bool((self.label_numbers == self._numbers[label]).any()) if label in self._numbers else False

    def rows_of(self, keys: Keys) -> Rows:
        """The row of each key, all of which must be there."""
        return np.searchsorted(self.keys, keys).astype(np.int64)

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """For each key whether it is there."""
        rows = np.minimum(self.rows_of(keys), max(0, len(self) - 1))
        found: NDArray[np.bool_] = self.keys[rows] == keys if len(self) else np.zeros(len(keys), bool)
        return found

    def keys_of(self, label: str) -> Keys:
        """The keys of a label's views."""
        keys: Keys = self.keys[self.label_numbers == self._numbers[label]] if label in self._numbers else self.keys[:0]
        return keys

    def label_at(self, row: int) -> str:
        """The label of a row."""
        return self._labels[int(self.label_numbers[row])]

    def item_at(self, row: int) -> Item:
        """All that is known of a row."""
        text_row = int(self._text_rows.values[row])
        text = self._metadata[text_row]
        metadata: Metadata = json.loads(text) if text else {}
        return Item(int(self.keys[row]), self.label_at(row), self._sources[text_row], metadata)

    def __iter__(self) -> Iterator[Item]:
        return (self.item_at(row) for row in range(len(self)))

    def append(self, keys: Keys, label: str, sources: Sequence[str], metadata: Sequence[Metadata]) -> None:
        """Put views of one label behind the others; the keys must be larger than all before."""
        self._label_numbers.extend(np.full(len(keys), self._number(label), np.uint32))
        self._text_rows.extend(np.arange(len(self._sources), len(self._sources) + len(keys)))
        self._keys.extend(keys)
        self._sources.extend(sources)
        self._metadata.extend([metadata_text(entry) for entry in metadata])

    def remove(self, keys: Keys) -> None:
        """Forget these items."""
        kept = ~np.isin(self.keys, keys)
        self._keys = NumberColumn(self.keys[kept])
        self._label_numbers = NumberColumn(self.label_numbers[kept])
        self._text_rows = NumberColumn(self._text_rows.values[kept])

    def relabel(self, keys: Keys, label: str) -> None:
        """Give these items another label."""
        numbers = self.label_numbers.copy()
        numbers[self.rows_of(keys)] = self._number(label)
        self._label_numbers = NumberColumn(numbers)

    def to_sections(self) -> dict[str, bytes]:
        """The columns as sections of a file; only labels that have views, numbered in the order of `counts`."""
        used = list(self.counts())
        new_number = np.zeros(max(1, len(self._labels)), np.uint32)
        for number, label in enumerate(used):
            new_number[self._numbers[label]] = number
        rows = self._text_rows.values
        labels = TextColumn(used)
        return {
            "keys": self._keys.to_bytes(),
            "label_numbers": NumberColumn(new_number[self.label_numbers]).to_bytes(),
            "labels": labels.to_bytes(np.arange(len(used))),
            "sources": self._sources.to_bytes(rows),
            "metadata": self._metadata.to_bytes(rows),
        }

    @classmethod
    def from_sections(cls, sections: Mapping[str, bytes | memoryview]) -> "ItemTable":
        """Read what `to_sections` wrote.

        Raises:
            IndexFileError: A section is missing, or they do not fit together.
        """
        table = cls()
        try:
            table._keys = NumberColumn.from_bytes(sections["keys"], np.uint64)
            table._label_numbers = NumberColumn.from_bytes(sections["label_numbers"], np.uint32)
            table._sources = TextColumn.from_bytes(sections["sources"])
            table._metadata = TextColumn.from_bytes(sections["metadata"])
            labels = TextColumn.from_bytes(sections["labels"])
            table._labels = [labels[row] for row in range(len(labels))]
        except (KeyError, UnicodeDecodeError) as error:
            message = f"its list of items cannot be read ({error!r})"
            raise IndexFileError(message) from error
        table._numbers = {label: number for number, label in enumerate(table._labels)}
        table._text_rows = NumberColumn(np.arange(len(table._keys), dtype=np.int64))
        sizes = {len(table._keys), len(table._label_numbers), len(table._sources), len(table._metadata)}
        highest = int(table.label_numbers.max(initial=0))
        rising = bool((np.diff(table.keys.astype(np.int64)) > 0).all())
        if len(sizes) != 1 or (len(table) and highest >= len(table._labels)) or not rising:
            message = f"its lists of items do not fit together ({sorted(sizes)} rows, {len(table._labels)} labels)"
            raise IndexFileError(message)
        return table

    def _number(self, label: str) -> int:
        if label not in self._numbers:
            self._numbers[label] = len(self._labels)
            self._labels.append(label)
        return self._numbers[label]


def check_entries(sources: Sequence[str], metadata: Sequence[Metadata]) -> None:
    """Refuse what cannot be stored with a view.

    Raises:
        InputError: A source with the character NUL, or metadata that are no dictionary of JSON values.
    """
    wrong = next((source for source in sources if "\0" in source), None)
    if wrong is not None:
        message = f"the source {wrong!r} holds the character NUL: give the path or the name of a picture"
        raise InputError(message)
    for entry in metadata:
        metadata_text(entry)


def metadata_text(metadata: Metadata) -> str:
    """Metadata as it is stored: JSON, which escapes NUL and all that is not ASCII, or nothing where there is none.

    Raises:
        InputError: Not a dictionary of JSON values.
    """
    try:
        return json.dumps({**metadata}, allow_nan=False, separators=(",", ":")) if metadata != {} else ""
    except (TypeError, ValueError, RecursionError) as error:
        message = f"metadata must be an object of JSON values, got {metadata!r} ({error})"
        raise InputError(message) from error
