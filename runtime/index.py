"""Descriptors with labels, searched by similarity, kept in one file."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors, normalise
from deepir.errors import IndexFileError, IndexModelError, InputError, OptionError, ShapeError
from deepir.files import file_sha256
from deepir.runtime.index_check import check_descriptors
from deepir.runtime.index_file import Footer, ModelReference, check_generation, read_index, unusable, write_index
from deepir.runtime.index_whitening import IndexWhitening, WhiteningNote, fit_index_whitening
from deepir.runtime.store import DTYPE, DescriptorStore, usearch_version
from deepir.runtime.threshold import FALSE_ACCEPTS, Threshold, check_far, fit_threshold, threshold_from_unknown

_MOST_EXACT = 20_000
"""Up to here comparing with every descriptor takes about a millisecond (field.md 6.4) and misses nothing."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored view that resembles the query; similarity is 1 for the same descriptor, 0 for unrelated ones."""

    key: int
    label: str
    view: str
    similarity: float


class DescriptorIndex:
    """Descriptors of one model, each a view of a label. Make one with `create` or `open`."""

    def __init__(
        self,
        footer: Footer,
        store: DescriptorStore,
        opened_from: Path | None = None,
        whitening: IndexWhitening | None = None,
    ) -> None:
        self._footer = footer
        self._store = store
        self._opened_from = opened_from
        self._whitening = whitening
        self._views = dict(footer.views)
        self._counts = _count_views(self._views)
        self._threshold = footer.threshold
        self._changed = False

    @classmethod
    def create(cls, card: ModelCard, model_path: Path | str, *, far: float = FALSE_ACCEPTS) -> "DescriptorIndex":
        """An empty index for the descriptors of a model; `far` as in `fit_threshold`."""
        check_far(far)
        path = Path(model_path).resolve()
        model = ModelReference(card.spec.fingerprint, file_sha256(path), path.name, str(path))
        footer = Footer(model=model, dim=card.spec.dim, views={}, next_key=1, far=far, dtype=DTYPE)
        return cls(footer, DescriptorStore.empty(card.spec.dim))

    @classmethod
    def open(cls, path: Path | str) -> "DescriptorIndex":
        """Read a file into memory; who replaces the file later does not disturb this index.

        Raises:
            InputError: The file is missing.
            IndexFileError: Truncated, damaged, or not written by deepir.
        """
        content, footer, whitening = read_index(Path(path))
        try:
            store = DescriptorStore.restore(content, footer.dim, set(footer.views))
        except IndexFileError as error:
            raise unusable(Path(path), error) from error
        return cls(footer, store, Path(path).resolve(), whitening)

    @property
    def model(self) -> ModelReference:
        """The model that makes this index's descriptors."""
        return self._footer.model

    @property
    def dim(self) -> int:
        """Values of a stored descriptor."""
        return self._footer.dim

    @property
    def model_dim(self) -> int:
        """Values of the model's descriptors, which `add` and `search` take."""
        return self.dim if self.whitening is None else self.whitening.channels

    @property
    def whitening(self) -> WhiteningNote | None:
        """What the model's descriptors go through before they are stored or compared; None for nothing."""
        return self._footer.whitening

    @property
    def generation(self) -> int:
        """How often the file was written."""
        return self._footer.generation

    @property
    def labels(self) -> dict[str, int]:
        """Each label, sorted, with its number of views."""
        return dict(sorted(self._counts.items()))

    @property
    def threshold(self) -> Threshold | None:
        """Where `match` begins; None with fewer than two labels.

        Computed again after a change when the stored views made it; one from unknown pictures stays.
        """
        from_unknown = self._threshold is not None and self._threshold.basis == "unknown"
        if self._changed and not from_unknown:
            self.fit_threshold(self._footer.far)
        return self._threshold

    def __len__(self) -> int:
        return len(self._views)

    def whiten(self, groups: Sequence[Descriptors], power: float, dim: int | None = None) -> WhiteningNote:
        """Fit a whitening for all that is stored and searched from now on (see `fit_index_whitening`).

        It stays as it is when items are added or removed.

        Raises:
            OptionError: The index is not empty: what is stored was not whitened.
            ShapeError: Not the model's descriptors, or too few for so many values.
        """
        if len(self):
            message = f"an index is whitened before the first item is added, this one has {len(self)}: build it anew"
            raise OptionError(message)
        for group in groups:
            self.check(group, [f"picture {number}" for number in range(len(group))])
        self._whitening = fit_index_whitening(groups, power, dim)
        note = self._whitening.note
        self._footer = replace(self._footer, dim=note.dim, whitening=note)
        self._store = DescriptorStore.empty(note.dim)
        return note

    def add(self, label: str, descriptors_nd: Descriptors, views: Sequence[str]) -> None:
        """Store the model's descriptors under a label, with the name of the image of each.

        Raises:
            ShapeError: Not (N, D), not one name each, not finite, or not of length 1.
            InputError: The label is empty.
        """
        if not label.strip():
            message = "a label cannot be empty"
            raise InputError(message)
        if len(views) != len(descriptors_nd):
            message = f"expected a name for each descriptor, got {len(views)} for {len(descriptors_nd)}"
            raise ShapeError(message)
        self.check(descriptors_nd, views)
        if not len(views):
            return
        keys = np.arange(self._footer.next_key, self._footer.next_key + len(views), dtype=np.uint64)
        self._store.add(keys, self._in_store(descriptors_nd, views).astype(np.float32))
        self._views.update({int(key): (label, view) for key, view in zip(keys, views, strict=True)})
        self._counts[label] += len(keys)
        self._footer = replace(self._footer, next_key=self._footer.next_key + len(keys))
        self._changed = True

    def remove(self, label: str) -> int:
        """Forget a label and say how many views it had; nothing of them stays in the next file.

        Raises:
            InputError: There is no such label.
        """
        if label not in self._counts:
            message = f"no label {label!r} in this index: it has {_shortened(list(self.labels))}"
            raise InputError(message)
        removed = self._counts[label]
        kept = {key: view for key, view in self._views.items() if view[0] != label}
        keys = np.fromiter(kept, dtype=np.uint64, count=len(kept))
        # usearch only marks what it removes, the values stay in its file: build it anew
        store = DescriptorStore.empty(self.dim)
        store.add(keys, self._store.get(keys))
        self._store, self._views, self._counts, self._changed = store, kept, _count_views(kept), True
        return removed

    def search(self, query_1d: NDArray[np.float32], count: int) -> list[Hit]:
        """The `count` most similar views, best first; fewer when the index is smaller.

        Raises:
            ShapeError: Not a descriptor of the model's size, not finite, or not of length 1.
        """
        return self.search_many(query_1d[None], count)[0]

    def search_many(self, queries_qd: Descriptors, count: int) -> list[list[Hit]]:
        """`search` for each row."""
        names = [f"query {number}" for number in range(len(queries_qd))]
        self.check(queries_qd, names)
        count = min(count, len(self))
        if count < 1:
            return [[] for _ in queries_qd]
        exact = len(self) <= _MOST_EXACT
        stored_qd = self._in_store(queries_qd, names)
        found = (self._store.search(query_1d, count, exact=exact) for query_1d in stored_qd)
        return [[self._hit(key, distance) for key, distance in nearest] for nearest in found]

    def search_labels(self, query_1d: NDArray[np.float32], count: int) -> list[Hit]:
        """The best view of each of the `count` most similar labels, best first."""
        most_views = max(self._counts.values(), default=0)
        best: dict[str, Hit] = {}
        # so many hits hold `count` labels even when all but the last bring all their views
        for hit in self.search(query_1d, (count - 1) * most_views + 1):
            best.setdefault(hit.label, hit)
        return list(best.values())[:count]

    def fit_threshold(self, far: float = FALSE_ACCEPTS) -> Threshold | None:
        """Compute the threshold from the stored views and keep it (see `deepir.runtime.threshold`)."""
        descriptors_nd = self._store.get(np.fromiter(self._views, dtype=np.uint64, count=len(self)))
        labels = [label for label, _ in self._views.values()]
        self._threshold = fit_threshold(normalise(descriptors_nd), labels, far)
        self._footer = replace(self._footer, far=far)
        self._changed = False
        return self._threshold

    def fit_threshold_to_unknown(self, unknown_nd: Descriptors, far: float = FALSE_ACCEPTS) -> Threshold:
        """Compute the threshold from descriptors of things that are not in the index, and keep it.

        Raises:
            ShapeError: Not descriptors of the model's size.
            OptionError: `far` is not between 0 and 1, or nothing is known or given.
        """
        best = [hits[0].similarity for hits in self.search_many(unknown_nd, 1) if hits]
        self._threshold = threshold_from_unknown(np.asarray(best, dtype=np.float32), far)
        self._footer = replace(self._footer, far=far)
        return self._threshold

    def check(self, descriptors_nd: Descriptors, names: Sequence[str]) -> None:
        """Refuse what are not descriptors of the model: (N, model_dim), each of length 1.

        Raises:
            ShapeError: Names the first wrong one.
        """
        check_descriptors(descriptors_nd, self.model_dim, names)

    def check_model(self, card: ModelCard) -> None:
        """Refuse a model whose descriptors cannot be compared with these.

        Raises:
            IndexModelError: Names both models.
        """
        if card.spec.fingerprint != self.model.fingerprint:
            message = (
                f"this index was made by the model {self.model.fingerprint} ({self.model.absolute}), got the model "
                f"{card.spec.fingerprint}: use that model, or make the index again with deepir-index build"
            )
            raise IndexModelError(message)

    def save(self, path: Path | str) -> None:
        """Write the file, whole or not at all; the generation before it stays as `<name>.bak`.

        Raises:
            InputError: The folder does not exist or cannot be written.
            IndexFileError: Somebody else wrote the file after this index was read from it.
        """
        target = Path(path)
        if self._opened_from == target.resolve():
            check_generation(target, self.generation)
        relative = os.path.relpath(self.model.absolute, target.resolve().parent)
        footer = replace(
            self._footer,
            model=replace(self.model, relative=Path(relative).as_posix()),
            threshold=self.threshold,
            views=dict(self._views),
            usearch=usearch_version(),
            generation=self._footer.generation + 1,
        )
        write_index(target, self._store.to_bytes(), footer, self._whitening)
        self._footer, self._opened_from = footer, target.resolve()

    def _hit(self, key: int, distance: float) -> Hit:
        label, view = self._views[key]
        return Hit(key, label, view, min(1.0, max(-1.0, 1.0 - distance)))

    def _in_store(self, descriptors_nd: Descriptors, names: Sequence[str]) -> Descriptors:
        if self._whitening is None:
            return descriptors_nd
        whitened_nd = self._whitening(descriptors_nd)
        check_descriptors(whitened_nd, self.dim, names)
        return whitened_nd


def _count_views(views: dict[int, tuple[str, str]]) -> Counter[str]:
    return Counter(label for label, _ in views.values())


def _shortened(labels: list[str]) -> str:
    most = 10
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more if labels else "none"
