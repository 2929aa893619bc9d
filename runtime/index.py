"""Descriptors with labels, searched by similarity, kept in one file and a journal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import OptionError, ShapeError
from deepir.files import file_sha256
from deepir.label_tree import check_label
from deepir.runtime.changes import Addition, Change, Removal, Setting
from deepir.runtime.codes import Codes, Dtype
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_footer import Footer, ModelReference
from deepir.runtime.index_home import Home
from deepir.runtime.index_lock import WAIT
from deepir.runtime.index_reading import ReadableIndex
from deepir.runtime.index_whitening import IndexWhitening
from deepir.runtime.items import Metadata, check_entries
from deepir.runtime.threshold import FALSE_ACCEPTS, Threshold, check_far, threshold_from_unknown


class Index(ReadableIndex):
    """Descriptors of one model, each a view of a label. Make one with `create` or `open`.

    Any thread may search while one thread changes it: a search sees the index before or after a change, never within.
    An index opened with `write=True` has put each change on the disk when the method returns.
    """

    @classmethod
    def create(
        cls, card: ModelCard, model_path: Path | str, *, far: float = FALSE_ACCEPTS, dtype: Dtype = "i8"
    ) -> "Index":
        """An empty index in memory for the descriptors of a model; `save` makes a file of it.

        Args:
            card: Of the model.
            model_path: Its file.
            far: Wanted share of false accepts, as in `fit_threshold`.
            dtype: How descriptors are stored, see `deepir.runtime.codes`; codes are fitted by the first `save`.
        """
        check_far(far)
        footer = Footer(model=reference_to(card, model_path), codes=Codes(dtype, card.spec.dim), far=far)
        return cls(Contents.empty(footer), Home.nowhere())

    @classmethod
    def open(cls, path: Path | str, *, write: bool = False, wait: float = WAIT) -> "Index":
        """Read an index file and its journal.

        Args:
            path: The file. Who replaces it later does not disturb this index.
            write: To change it: no other program can until `close`.
            wait: Seconds to wait for another program that is changing it.

        Raises:
            InputError: The file is missing.
            IndexFileError: Truncated, damaged, or not written by deepir.
            IndexBusyError: Another program is changing it.
        """
        home, contents = Home.open(Path(path), write=write, wait=wait)
        return cls(contents, home)

    def setup(self, *, references: ModelReference | None = None, thumbnails: int | None = None) -> None:
        """Note which other model describes the stored pictures, and the size of the copies that are kept of them.

        Raises:
            OptionError: The index is not empty, or was saved.
        """
        self._check_new("is set up")
        self._contents.footer = replace(self.footer, references=references, thumbnails=thumbnails)

    def whiten(self, whitening: IndexWhitening) -> None:
        """Put all that is stored and searched from now on through a map (see `fit_index_whitening`).

        It stays as it is when items are added or removed.

        Raises:
            OptionError: The index is not empty, or was saved: what is stored did not go through it.
        """
        self._check_new("is whitened")
        codes = replace(self.footer.codes, dim=whitening.note.dim)
        footer = replace(self.footer, codes=codes, whitening=whitening.note)
        self._contents = Contents.empty(footer, whitening)

    def add(
        self,
        label: str,
        descriptors_nd: Descriptors,
        sources: Sequence[str],
        *,
        metadata: Sequence[Metadata] | None = None,
    ) -> list[int]:
        """Store the model's descriptors under a label and give their keys.

        Args:
            label: `brand/product/size`; parts divided by strokes make a tree.
            descriptors_nd: (N, model_dim), each of length 1.
            sources: The path or the name of the picture of each.
            metadata: JSON values to have back with a hit, one dictionary for each.

        Raises:
            ShapeError: Not (N, D), not one source and metadata each, not finite, or not of length 1.
            InputError: A label or metadata that cannot be stored, or the disk is full; then nothing changed.
            OptionError: The index was opened only for reading.
        """
        check_label(label)
        entries = [{}] * len(sources) if metadata is None else list(metadata)
        if not len(sources) == len(descriptors_nd) == len(entries):
            message = (
                f"expected a source and metadata for each descriptor, got {len(sources)} and {len(entries)} "
                f"for {len(descriptors_nd)}"
            )
            raise ShapeError(message)
        check_entries(sources, entries)
        self.check(descriptors_nd, sources)
        if not len(sources):
            return []
        with self._lock:
            first = self.footer.next_key
            keys = np.arange(first, first + len(sources), dtype=np.uint64)
            codes_nd = self._contents.store.codes.encode(self._contents.mapped(descriptors_nd, sources))
            self._change(Addition(keys, label, tuple(sources), tuple(entries), codes_nd))
            return [int(key) for key in keys]

    def remove(self, what: str | Sequence[int]) -> int:
        """Forget a label, a branch of labels (`brand/`) or views by their keys, and say how many views that were.

        Until `compact` their values stay in the bytes of a large file, and in the generation before.

        Raises:
            InputError: There is nothing of the kind.
            OptionError: The index was opened only for reading.
        """
        with self._lock:
            keys = self._contents.selected(what)
            self._change(Removal(keys))
            return len(keys)

    def relabel(self, what: str | Sequence[int], label: str) -> int:
        """Give a label, a branch of labels (`old/` to `new/`) or views another label; say how many views that were.

        Raises:
            InputError: There is nothing of the kind, or the new label cannot be one.
            OptionError: The index was opened only for reading.
        """
        with self._lock:
            changes = self._contents.relabellings(what, label)
            self._change(*changes)
            return sum(len(change.keys) for change in changes)

    def set(self, *, threshold: Threshold | None = None, far: float | None = None, margin: float | None = None) -> None:
        """Judge answers by other values from now on; None leaves one as it is.

        Raises:
            OptionError: A value out of range, or the index was opened only for reading.
        """
        if margin is not None and not 0 <= margin <= 1:
            message = f"the margin must be between 0 and 1, got {margin}"
            raise OptionError(message)
        check_far(self.footer.far if far is None else far)
        with self._lock:
            self._change(Setting(threshold, far, margin))

    def fit_threshold(self, far: float = FALSE_ACCEPTS) -> Threshold | None:
        """Compute the threshold from the stored views and keep it (see `deepir.runtime.threshold`)."""
        with self._lock:
            threshold = self._contents.fitted_threshold(far)
            self.set(threshold=threshold, far=far)
            return threshold

    def fit_threshold_to_unknown(self, unknown_nd: Descriptors, far: float = FALSE_ACCEPTS) -> Threshold:
        """Compute the threshold from descriptors of things that are not in the index, and keep it.

        Raises:
            ShapeError: Not descriptors of the model's size.
            OptionError: `far` is not between 0 and 1, or nothing is known or given.
        """
        best = [hits[0].similarity for hits in self.search_many(unknown_nd, 1) if hits]
        threshold = threshold_from_unknown(np.asarray(best, dtype=np.float32), far)
        self.set(threshold=threshold, far=far)
        return threshold

    def save(self, path: Path | str | None = None) -> None:
        """Write the whole file, or none of it; the generation before it stays as `<name>.bak`, with its journal.

        Args:
            path: Where to; None for the file that it was opened from.

        Raises:
            OptionError: No path, or the index was opened only for reading and the path is its own.
            InputError: The folder does not exist or cannot be written.
            IndexFileError: Somebody else wrote the file after this index was read from it.
        """
        with self._lock:
            self._home.save(self._contents, None if path is None else Path(path))

    def compact(self) -> None:
        """Write the file without any trace of what was removed, and delete the generation before it.

        Raises:
            As of `save`.
        """
        with self._lock:
            self._home.check_writable()
            self._contents.compact()
            self._home.save(self._contents, None)
            self._home.forget_past()

    def close(self) -> None:
        """Let other programs change the file; what was changed is in the file or its journal."""
        with self._lock:
            self._home.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_new(self, what: str) -> None:
        if self.path is not None:
            message = f"an index {what} before it is saved, {self.path} was saved without: build it anew"
            raise OptionError(message)
        if len(self):
            message = f"an index {what} before the first item is added, this one has {len(self)}: build it anew"
            raise OptionError(message)

    def _change(self, *changes: Change) -> None:
        self._home.record(changes, self._contents)
        try:
            for change in changes:
                self._contents.apply(change)
        except BaseException:
            # the disk knows more than the memory now (after Ctrl-C, say), so that what came next would not fit
            self._home.close()
            raise


def reference_to(card: ModelCard, model_path: Path | str) -> ModelReference:
    """How an index names a model file.

    Raises:
        InputError: The file is missing.
    """
    path = Path(model_path).resolve()
    return ModelReference(card.spec.fingerprint, file_sha256(path), path.name, str(path))
