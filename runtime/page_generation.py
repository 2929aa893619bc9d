"""Tells the index that answers from the one before, so that the page asks again for what it shows of it."""

import threading
import weakref

from deepir.runtime.index import Index


class Generations:
    """Numbers the indexes that answer one after the other: two of them may have as many views and labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # an index that another one replaced must not stay in memory for its number
        self._index: weakref.ref[Index] | None = None
        self._number = 0

    def of(self, index: Index) -> int:
        """The number of this one; a new one each time that it is another than the last."""
        with self._lock:
            if self._index is None or self._index() is not index:
                self._index, self._number = weakref.ref(index), self._number + 1
            return self._number
