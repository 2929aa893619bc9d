"""What an index holds in memory, how changes alter it, and how it becomes the parts of a file."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.label_tree import Branch, check_label, parse_selection
from deepir.runtime.changes import Addition, Change, Relabelling, Removal, Setting
from deepir.runtime.float_store import FloatStore
from deepir.runtime.index_check import check_descriptors
from deepir.runtime.index_footer import Footer, Recall
from deepir.runtime.index_whitening import IndexWhitening
from deepir.runtime.items import ItemTable, Keys
from deepir.runtime.store import DescriptorStore, Neighbours, usearch_version
from deepir.runtime.threshold import Threshold, fit_threshold

_CHEAP = 2000
"""Up to so many views a new graph takes less than half a second: then nothing of what was removed is ever saved."""

_MOST_LEARNT_FROM = 20_000
"""Views from which the threshold is computed; more move it by less than their choice does, and take seconds."""

_MOST_AT_ONCE = 3000
"""Views up to which it is computed at once after a change: it takes a tenth of a second."""


class Contents:
    """Items, codes and footer, which fit together; made from a file, or empty."""

    def __init__(
        self,
        footer: Footer,
        items: ItemTable,
        store: DescriptorStore | FloatStore,
        whitening: IndexWhitening | None = None,
    ) -> None:
        self.footer = footer
        self.items = items
        self.store = store
        self.whitening = whitening
        self._stale = False

    @classmethod
    def empty(cls, footer: Footer, whitening: IndexWhitening | None = None) -> "Contents":
        """Of an index without items."""
        return cls(footer, ItemTable(), FloatStore(footer.codes.dim), whitening)

    def apply(self, change: Change) -> None:
        """Let a change happen."""
        if isinstance(change, Addition):
            self.store.add(change.keys, change.codes_nd)
            self.items.append(change.keys, change.label, change.sources, change.metadata)
            self.footer = replace(self.footer, next_key=int(change.keys[-1]) + 1)
        elif isinstance(change, Removal):
            self.store.remove(change.keys)
            self.items.remove(change.keys)
            self.footer = replace(self.footer, removed=self.footer.removed + len(change.keys))
        elif isinstance(change, Relabelling):
            self.items.relabel(change.keys, change.label)
        else:
            self._set(change)
        self._stale = self._stale or not isinstance(change, Setting)

    def threshold(self, *, saving: bool = False) -> Threshold | None:
        """The threshold of the footer, computed again where the stored views made it and have changed since.

        Of many views that takes seconds: then it is computed when the index is saved, and until then stays as it was.
        """
        kept = self.footer.threshold
        if not self._stale or (kept is not None and len(self.items) > _MOST_AT_ONCE and not saving):
            return kept
        if kept is None or kept.basis == "views":
            self.footer = replace(self.footer, threshold=self.fitted_threshold(self.footer.far))
        self._stale = False
        return self.footer.threshold

    def fitted_threshold(self, far: float) -> Threshold | None:
        """The threshold that the stored views give."""
        rows = np.arange(len(self.items))
        if len(rows) > _MOST_LEARNT_FROM:
            rows = _whole_labels(self.items.label_numbers, _MOST_LEARNT_FROM)
        labels = [self.items.label_at(int(row)) for row in rows]
        descriptors_nd = self.store.descriptors(self.items.keys[rows])
        return fit_threshold(descriptors_nd, labels, far, all_labels=len(self.items.counts()))

    def mapped(self, descriptors_nd: Descriptors, names: Sequence[str]) -> Descriptors:
        """The model's descriptors as they are stored and compared."""
        if self.whitening is None:
            return descriptors_nd
        mapped_nd = self.whitening(descriptors_nd)
        check_descriptors(mapped_nd, self.footer.codes.dim, names)
        return mapped_nd

    def search(self, stored_1d: NDArray[np.float32], count: int) -> Neighbours:
        """The nearest views, at most as many as there are."""
        return self.store.search(stored_1d, min(count, len(self.items)))

    def similarities(self, stored_1d: NDArray[np.float32], label: str) -> NDArray[np.float32]:
        """Of all views of a label with a query."""
        similarity_n: NDArray[np.float32] = self.store.descriptors(self.items.keys_of(label)) @ stored_1d
        return similarity_n

    def rows_of(self, label: str) -> NDArray[np.int64]:
        """The rows of a label's views."""
        return self.items.rows_of(self.items.keys_of(label))

    def known(self, keys: Sequence[int] | Keys) -> Keys:
        """The keys as an array, in their order.

        Raises:
            InputError: One that is not there.
        """
        asked = np.asarray(keys, np.int64)
        there = self.items.contains(asked.astype(np.uint64))
        if not there.all():
            message = f"no view with the key {asked[~there][0]}: deepir-index ls lists keys"
            raise InputError(message)
        return asked.astype(np.uint64)

    def selected(self, what: str | Sequence[int]) -> Keys:
        """The keys of a label, of a branch of labels (`brand/`), or these keys.

        Raises:
            InputError: There is nothing of the kind.
        """
        if not isinstance(what, str):
            return np.unique(self.known(what))
        labels = [label for label in self.items.counts() if _holds(what, label)]
        if not labels:
            message = f"no label {what!r} in this index: it has {_shortened(list(self.items.counts()))}"
            raise InputError(message)
        keys: Keys = np.sort(np.concatenate([self.items.keys_of(label) for label in labels]))
        return keys

    def relabellings(self, what: str | Sequence[int], label: str) -> list[Relabelling]:
        """The changes that give a label, a branch or views another label; a branch keeps what is below it.

        Raises:
            InputError: There is nothing of the kind, no label, or a branch that should become one.
        """
        selection = parse_selection(what) if isinstance(what, str) else None
        if not isinstance(selection, Branch):
            return [Relabelling(self.selected(what), check_label(label))]
        target = parse_selection(label)
        if not isinstance(target, Branch):
            message = f"{what} is a branch, so the new name must be one too: {label}/"
            raise InputError(message)
        old = [name for name in self.items.counts() if selection.holds(name)]
        self.selected(str(what))
        new = [check_label(target.label + name[len(selection.label) :]) for name in old]
        return [Relabelling(self.items.keys_of(name), label) for name, label in zip(old, new, strict=True)]

    def settled(self) -> DescriptorStore:
        """The codes as a file holds them; descriptors that were kept as they are get theirs, and it is measured."""
        if isinstance(self.store, FloatStore):
            store = self.store.stored(self.footer.codes)
            value, queries = self.store.recall_of(store)
            recall = Recall(value, queries, len(self.items)) if queries else None
            self.footer = replace(self.footer, codes=store.codes, recall=recall, removed=0)
            self.store = store
            return store
        if self.store.outgrown or (self.footer.removed and len(self.items) <= _CHEAP):
            self.compact()
        return self.store

    def compact(self) -> None:
        """Forget the values of what was removed."""
        if isinstance(self.store, DescriptorStore):
            self.store = self.store.copy()
        self.footer = replace(self.footer, removed=0)

    def parts(self) -> tuple[bytearray, dict[str, bytes], Footer]:
        """The bytes for usearch, the sections and the footer of a file; the footer without generation and paths."""
        store = self.settled()
        sections = self.items.to_sections()
        if self.whitening is not None:
            sections["whitening"] = self.whitening.to_bytes()
        if exact := store.exact_bytes():
            sections["exact_codes"] = exact
        footer = replace(self.footer, threshold=self.threshold(saving=True), usearch=usearch_version())
        return store.to_bytes(), sections, footer

    def _set(self, setting: Setting) -> None:
        now = self.footer
        self.footer = replace(
            now,
            threshold=now.threshold if setting.threshold is None else setting.threshold,
            far=now.far if setting.far is None else setting.far,
            margin=now.margin if setting.margin is None else setting.margin,
        )
        self._stale = (self._stale or setting.far is not None) and setting.threshold is None


def _holds(what: str, label: str) -> bool:
    selection = parse_selection(what)
    return selection.holds(label) if isinstance(selection, Branch) else selection == label


def _whole_labels(number_n: NDArray[np.uint32], most: int) -> NDArray[np.int64]:
    """Rows of labels drawn at random, all of a label or none, until there are so many."""
    order = np.random.default_rng(0).permutation(int(number_n.max()) + 1)
    counts = np.bincount(number_n, minlength=len(order))[order]
    # of labels whose views were all removed nothing can be learnt
    order, counts = order[counts > 0], counts[counts > 0]
    chosen = order[: max(2, int(np.searchsorted(np.cumsum(counts), most)))]
    return np.flatnonzero(np.isin(number_n, chosen)).astype(np.int64)


def _shortened(labels: list[str]) -> str:
    most = 10
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more if labels else "none"
