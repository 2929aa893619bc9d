"""The file of the model that describes queries, and the model anew when another one is there."""

import contextlib
import os
from pathlib import Path

from deepir.card import ModelCard
from deepir.runtime.backend import BackendOptions
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.recogniser import find_model

FileState = tuple[int, int, int] | None


class ModelFile:
    """Remembers which file was loaded, and in which state.

    Args:
        index_path: Of the index that names the model.
        given: The file where it was given by hand: then the index's own name for it does not count.
        options: How it runs.
    """

    def __init__(self, index_path: Path, given: Path | None, options: BackendOptions) -> None:
        self._index_path = index_path
        self._given = given
        self._options = options
        self._path: Path | None = given
        self._loaded: FileState = None
        self._card: ModelCard | None = None

    def state(self) -> FileState:
        """Inode, time and size of the file; None where it is missing."""
        return None if self._path is None else _state(self._path)

    def open(self, index: Index) -> Extractor:
        """Load the model of an index.

        Raises:
            InputError: It is missing.
            IndexModelError: The index was made by another one.
            DeepIRError: As of `open_backend`.
        """
        path = find_model(index, self._index_path) if self._given is None else self._given
        state = _state(path)
        extractor = Extractor.open(path, self._options)
        try:
            index.check_model(extractor.card)
        except BaseException:
            extractor.close()
            raise
        self._path, self._loaded, self._card = path, state, extractor.card
        return extractor

    def for_index(self, index: Index) -> Extractor | None:
        """The model anew if its file is another one now, or the index names another; None where the loaded one fits.

        Raises:
            As of `open`; then the loaded one stays.
        """
        path = find_model(index, self._index_path) if self._given is None else self._given
        if self._card is None or path != self._path or _state(path) != self._loaded:
            return self.open(index)
        index.check_model(self._card)
        return None


def _state(path: Path) -> FileState:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size
    return None
