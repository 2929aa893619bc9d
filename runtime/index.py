"""Descriptors with labels, searched by similarity, kept in one file."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import usearch
from numpy.typing import NDArray
from usearch.index import Index

from deepir.card import ModelCard
from deepir.descriptors import Descriptors, normalise
from deepir.errors import IndexFileError, IndexModelError, InputError, ShapeError
from deepir.files import file_sha256
from deepir.runtime.index_file import Footer, ModelReference, read_index, write_index
from deepir.runtime.threshold import FALSE_ACCEPTS, Threshold, fit_threshold

_DTYPE = "f16"
_MOST_EXACT = 20_000
"""Up to here comparing with every descriptor takes about a millisecond (field.md 6.4) and misses nothing."""

_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored view that resembles the query; similarity is 1 for the same descriptor, 0 for unrelated ones."""

    key: int
    label: str
    view: str
    similarity: float


class DescriptorIndex:
    """Descriptors of one model, each a view of a label. Make one with `create` or `open`."""

    def __init__(self, footer: Footer, vectors: Index) -> None:
        self._footer = footer
        self._vectors = vectors
        self._views = dict(footer.views)
        self._threshold = footer.threshold
        self._changed = False
        self._opened_from: Path | None = None

    @classmethod
    def create(cls, card: ModelCard, model_path: Path | str, *, far: float = FALSE_ACCEPTS) -> "DescriptorIndex":
        """An empty index for the descriptors of a model."""
        path = Path(model_path).resolve()
        model = ModelReference(card.spec.fingerprint, file_sha256(path), path.name, str(path))
        footer = Footer(model=model, dim=card.spec.dim, views={}, next_key=1, far=far, dtype=_DTYPE)
        return cls(footer, _empty(card.spec.dim))

    @classmethod
    def open(cls, path: Path | str) -> "DescriptorIndex":
        """Read a file into memory; who replaces the file later does not disturb this index.

        Raises:
            InputError: The file is missing.
            IndexFileError: Truncated, damaged, or not written by deepir.
        """
        content, footer = read_index(Path(path))
        vectors = _restore(content, footer, Path(path))
        index = cls(footer, vectors)
        index._opened_from = Path(path).resolve()
        return index

    @property
    def model(self) -> ModelReference:
        """The model that makes this index's descriptors."""
        return self._footer.model

    @property
    def dim(self) -> int:
        """Values of a descriptor."""
        return self._footer.dim

    @property
    def generation(self) -> int:
        """How often the file was written."""
        return self._footer.generation

    @property
    def labels(self) -> dict[str, int]:
        """Each label, sorted, with its number of views."""
        return dict(sorted(Counter(label for label, _ in self._views.values()).items()))

    @property
    def threshold(self) -> Threshold | None:
        """Where `match` begins; computed again after a change, None with fewer than two labels."""
        if self._changed:
            self.fit_threshold(self._footer.far)
        return self._threshold

    def __len__(self) -> int:
        return len(self._views)

    def add(self, label: str, descriptors_nd: Descriptors, views: Sequence[str]) -> None:
        """Store descriptors under a label, with the name of the image of each.

        Raises:
            ShapeError: Not (N, D), not one name each, not finite, or not of length 1.
            InputError: The label is empty.
        """
        if not label.strip():
            message = "a label cannot be empty"
            raise InputError(message)
        self._check(descriptors_nd, views)
        keys = np.arange(self._footer.next_key, self._footer.next_key + len(views), dtype=np.uint64)
        if len(keys):
            self._vectors.add(keys, np.ascontiguousarray(descriptors_nd, dtype=np.float32))
        self._views.update({int(key): (label, view) for key, view in zip(keys, views, strict=True)})
        self._footer = replace(self._footer, next_key=self._footer.next_key + len(keys))
        self._changed = True

    def remove(self, label: str) -> int:
        """Forget a label and say how many views it had; nothing of them stays in the next file.

        Raises:
            InputError: There is no such label.
        """
        if label not in self.labels:
            message = f"no label {label!r} in this index: it has {_shortened(list(self.labels))}"
            raise InputError(message)
        kept = {key: view for key, view in self._views.items() if view[0] != label}
        removed = len(self._views) - len(kept)
        # usearch only marks what it removes, the values stay in its file: build it anew
        vectors = _empty(self.dim)
        if kept:
            keys = np.fromiter(kept, dtype=np.uint64)
            vectors.add(keys, np.vstack(self._vectors.get(keys)))
        self._vectors, self._views, self._changed = vectors, kept, True
        return removed

    def search(self, query_1d: NDArray[np.float32], count: int) -> list[Hit]:
        """The `count` most similar views, best first; fewer when the index is smaller.

        Raises:
            ShapeError: Not a descriptor of this index's size, not finite, or not of length 1.
        """
        return self.search_many(query_1d[None], count)[0]

    def search_many(self, queries_qd: Descriptors, count: int) -> list[list[Hit]]:
        """`search` for each row."""
        self._check(queries_qd, None)
        count = min(count, len(self))
        if count < 1 or len(queries_qd) == 0:
            return [[] for _ in queries_qd]
        queries = np.ascontiguousarray(queries_qd, dtype=np.float32)
        exact = len(self) <= _MOST_EXACT
        # one query at a time: usearch pads a batch with key 0 where it finds fewer, and cuts single answers itself
        found = [self._vectors.search(query, count, exact=exact) for query in queries]
        return [[self._hit(int(key), float(distance)) for key, distance in one.to_list()] for one in found]

    def search_labels(self, query_1d: NDArray[np.float32], count: int) -> list[Hit]:
        """The best view of each of the `count` most similar labels, best first."""
        most_views = max(self.labels.values(), default=0)
        best: dict[str, Hit] = {}
        # so many hits hold `count` labels even when all but the last bring all their views
        for hit in self.search(query_1d, (count - 1) * most_views + 1):
            best.setdefault(hit.label, hit)
        return list(best.values())[:count]

    def fit_threshold(self, far: float = FALSE_ACCEPTS) -> Threshold | None:
        """Compute the threshold from the stored views and keep it (see `deepir.runtime.threshold`)."""
        keys = np.fromiter(self._views, dtype=np.uint64, count=len(self))
        stored = np.vstack(self._vectors.get(keys)).astype(np.float32) if len(keys) else np.empty((0, self.dim))
        labels = [label for label, _ in self._views.values()]
        self._threshold = fit_threshold(normalise(stored.astype(np.float32)), labels, far)
        self._footer = replace(self._footer, far=far)
        self._changed = False
        return self._threshold

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
        self._check_newest(target)
        relative = os.path.relpath(self.model.absolute, target.resolve().parent)
        self._footer = replace(
            self._footer,
            model=replace(self.model, relative=Path(relative).as_posix()),
            threshold=self.threshold,
            views=dict(self._views),
            usearch=usearch.__version__,
            generation=self._footer.generation + 1,
        )
        write_index(target, self._vectors.save(), self._footer)
        self._opened_from = target.resolve()

    def _hit(self, key: int, distance: float) -> Hit:
        label, view = self._views[key]
        return Hit(key, label, view, min(1.0, max(-1.0, 1.0 - distance)))

    def _check(self, descriptors_nd: Descriptors, views: Sequence[str] | None) -> None:
        if descriptors_nd.ndim != 2 or (views is not None and len(views) != len(descriptors_nd)):
            names = "" if views is None else f" with {len(views)} image names"
            message = f"expected descriptors (N, {self.dim}) and a name for each, got {descriptors_nd.shape}{names}"
            raise ShapeError(message)
        if descriptors_nd.shape[1] != self.dim:
            message = (
                f"this index holds descriptors of {self.dim} values, got {descriptors_nd.shape[1]}: "
                "was it built with another model?"
            )
            raise ShapeError(message)
        lengths = np.linalg.norm(descriptors_nd, axis=1)
        # NaN compares as false, so it is caught here too
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
        if len(wrong):
            name = "the query" if views is None else views[wrong[0]]
            message = (
                f"the descriptor of {name} has length {lengths[wrong[0]]:.4g}, expected 1: "
                "is the picture blank, or was the descriptor not normalised?"
            )
            raise ShapeError(message)

    def _check_newest(self, target: Path) -> None:
        if self._opened_from != target.resolve() or not target.exists():
            return
        generation = read_index(target)[1].generation
        if generation != self.generation:
            message = (
                f"{target} was written by another program since it was opened (generation {self.generation}, "
                f"now {generation}): open it again and repeat the change"
            )
            raise IndexFileError(message)


def _empty(dim: int) -> Index:
    return Index(ndim=dim, metric="cos", dtype=_DTYPE)


def _restore(content: memoryview, footer: Footer, path: Path) -> Index:
    try:
        vectors = Index.restore(content)
    except (RuntimeError, ValueError) as error:
        message = f"{path} cannot be read by usearch {usearch.__version__} ({error}): make it again"
        raise IndexFileError(message) from error
    if vectors is None or vectors.ndim != footer.dim or set(map(int, vectors.keys)) != set(footer.views):
        message = f"{path} holds other descriptors than its footer lists: make it again with deepir-index build"
        raise IndexFileError(message)
    return vectors


def _shortened(labels: list[str]) -> str:
    most = 10
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more if labels else "none"
