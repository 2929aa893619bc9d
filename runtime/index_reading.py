"""What an index answers: which views and labels resemble a query, and what it knows of them."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import IndexModelError
from deepir.runtime.index_check import check_descriptors
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_footer import Footer, ModelReference, Recall
from deepir.runtime.index_home import Home
from deepir.runtime.index_whitening import WhiteningNote
from deepir.runtime.items import Item, Keys
from deepir.runtime.label_search import Hit, best_of_labels, settle_ties
from deepir.runtime.threshold import Threshold


class ReadableIndex:
    """The part of `deepir.runtime.index.Index` that changes nothing."""

    def __init__(self, contents: Contents, home: Home) -> None:
        self._contents = contents
        self._home = home
        self._lock = threading.RLock()

    @property
    def path(self) -> Path | None:
        """The file; None for an index that was never saved."""
        return self._home.path

    @property
    def foreign(self) -> str:
        """Why nothing is known of the descriptors but their keys; empty for an index of deepir."""
        return self._home.foreign

    @property
    def footer(self) -> Footer:
        """What is known of the descriptors."""
        return self._contents.footer

    @property
    def model(self) -> ModelReference:
        """The model that describes queries."""
        return self.footer.model

    @property
    def references(self) -> ModelReference:
        """The model that describes the stored pictures: `model`, or the teacher that it was distilled from."""
        return self.footer.references or self.model

    @property
    def dim(self) -> int:
        """Values of a stored descriptor."""
        return self.footer.codes.dim

    @property
    def model_dim(self) -> int:
        """Values of the model's descriptors, which `add` and `search` take."""
        whitening = self._contents.whitening
        return self.dim if whitening is None else whitening.note.channels

    @property
    def whitening(self) -> WhiteningNote | None:
        """What the model's descriptors go through before they are stored or compared; None for nothing."""
        return self.footer.whitening

    @property
    def newest_key(self) -> int:
        """The largest key that was ever given out; 0 for none."""
        return self.footer.next_key - 1

    @property
    def generation(self) -> int:
        """How often the file was written."""
        return self.footer.generation

    @property
    def pending(self) -> int:
        """Views whose changes stand in the journal and not yet in the file."""
        return self._home.pending

    @property
    def recall(self) -> Recall | None:
        """How well a search finds the true neighbours, measured when the codes were chosen."""
        return self.footer.recall

    @property
    def margin(self) -> float:
        """How far the second label must be behind for a match."""
        return self.footer.margin

    @property
    def labels(self) -> dict[str, int]:
        """Each label, sorted, with its number of views."""
        with self._lock:
            return self._contents.items.counts()

    @property
    def threshold(self) -> Threshold | None:
        """Where `match` begins; None with fewer than two labels.

        Computed again after a change when the stored views made it; one from unknown pictures stays.
        """
        with self._lock:
            return self._contents.threshold()

    def __len__(self) -> int:
        return len(self._contents.items)

    def items(self, keys: Sequence[int] | Keys | None = None) -> Iterator[Item]:
        """The views of these keys, in their order; all, by rising key, when None; as they are now.

        Raises:
            InputError: A key that is not there.
        """
        with self._lock:
            items = self._contents.items
            if keys is None:
                return iter(list(items))
            return iter([items.item_at(int(row)) for row in items.rows_of(self._contents.known(keys))])

    def keys_by_label(self) -> dict[str, Keys]:
        """The keys of each label's views, rising; the labels sorted."""
        with self._lock:
            items = self._contents.items
            if not len(items):
                return {}
            order = np.argsort(items.label_numbers, kind="stable")
            numbers, starts = np.unique(items.label_numbers[order], return_index=True)
            names = [items.label_names[int(number)] for number in numbers]
            return dict(sorted(zip(names, np.split(items.keys[order], starts[1:]), strict=True)))

    def descriptors(self, keys: Sequence[int] | Keys | None = None) -> Descriptors:
        """The stored descriptors (N, dim) of length 1 of these keys, in their order; of all, by rising key, when None.

        Raises:
            InputError: A key that is not there.
        """
        with self._lock:
            chosen = self._contents.items.keys if keys is None else self._contents.known(keys)
            return self._contents.store.descriptors(chosen)

    def views_of(self, label: str) -> list[Item]:
        """The views of a label by rising key; none where there is no such label."""
        with self._lock:
            return [self._contents.items.item_at(int(row)) for row in self._contents.rows_of(label)]

    def mapped(self, descriptors_nd: Descriptors) -> Descriptors:
        """The model's descriptors as the index compares them: what `whiten` was given maps them, else as they are.

        Raises:
            ShapeError: Not the model's descriptors.
        """
        return self._queries(descriptors_nd)

    def search(self, query_1d: NDArray[np.float32], count: int) -> list[Hit]:
        """The `count` most similar views, best first; fewer when the index is smaller.

        Raises:
            ShapeError: Not a descriptor of the model's size, not finite, or not of length 1.
        """
        return self.search_many(query_1d[None], count)[0]

    def search_many(self, queries_qd: Descriptors, count: int) -> list[list[Hit]]:
        """`search` for each row."""
        return [self._hits(query_1d, count) for query_1d in self._queries(queries_qd)]

    def search_labels(self, query_1d: NDArray[np.float32], count: int) -> list[Hit]:
        """The best view of each of the `count` most similar labels, best first; see `deepir.runtime.label_search`.

        Raises:
            ShapeError: As of `search`.
        """
        (stored_1d,) = self._queries(query_1d[None])
        with self._lock:
            hits = best_of_labels(lambda wanted: self._hits(stored_1d, wanted), len(self), count + 1)
            return settle_ties(hits, lambda label: self._contents.similarities(stored_1d, label))[:count]

    def check(self, descriptors_nd: Descriptors, names: Sequence[str]) -> None:
        """Refuse what are not descriptors of the model: (N, model_dim), each of length 1.

        Raises:
            ShapeError: Names the first wrong one.
        """
        check_descriptors(descriptors_nd, self.model_dim, names)

    def check_model(self, card: ModelCard, *, references: bool = False) -> None:
        """Refuse a model whose descriptors cannot be compared with these.

        Args:
            card: Of the model.
            references: It shall describe pictures to store: then it may also be the one that describes queries.

        Raises:
            IndexModelError: Names both models.
        """
        allowed = {self.model.fingerprint, *([self.references.fingerprint] if references else [])}
        if card.spec.fingerprint in allowed:
            return
        if self.foreign and card.spec.dim == self.model_dim:
            return
        message = (
            f"this index was made by the model {self.model.fingerprint} ({self.model.absolute}), got the model "
            f"{card.spec.fingerprint}: use that model, or make the index again with deepir-index rebuild --model"
        )
        raise IndexModelError(message)

    def _queries(self, queries_qd: Descriptors) -> Descriptors:
        names = [f"query {number}" for number in range(len(queries_qd))]
        self.check(queries_qd, names)
        return self._contents.mapped(queries_qd, names)

    def _hits(self, stored_1d: NDArray[np.float32], count: int) -> list[Hit]:
        with self._lock:
            found = self._contents.search(stored_1d, count)
            items = [self._contents.items.item_at(int(row)) for row in self._contents.items.rows_of(found.keys)]
        return [
            Hit(item.key, item.label, item.view, float(similarity), item.metadata)
            for item, similarity in zip(items, found.similarities, strict=True)
        ]
