"""An index or model that another program changes is read again in the background, while the one before answers."""

import contextlib
import logging
import os
import queue
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from deepir.errors import DeepIRError
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.journal import journal_of
from deepir.runtime.model_file import ModelFile

INTERVAL = 1.0
"""Seconds between two looks at the file."""

_log = logging.getLogger(__name__)

State = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fresh:
    """What is to answer from now on.

    Attributes:
        index: As it is now.
        extractor: The model to describe queries with; None where the one before is the one.
    """

    index: Index
    extractor: Extractor | None


class IndexWatch:
    """Looks at an index file, its journal and its model's file, and reads them anew when they have changed.

    What cannot be read, or does not fit together, is told by `take_trouble` and changes nothing: the index and model
    before go on answering.

    Args:
        path: Of the index.
        model: That describes queries.
        seen: `file_state` from before the index that answers now was read.
        interval: Seconds between two looks.
    """

    def __init__(self, path: Path, model: ModelFile, *, seen: State, interval: float = INTERVAL) -> None:
        self._path = path
        self._model = model
        self._interval = interval
        self._seen = (seen, model.state())
        self._lock = threading.Lock()
        self._fresh: Fresh | None = None
        self._trouble = ""
        # a signal may arrive while another is handled: only this queue can be put into from within itself
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> "IndexWatch":
        """Look once in every interval from now on."""
        self._thread = threading.Thread(target=self._watch, name=f"deepir {self._path.name}", daemon=True)
        self._thread.start()
        return self

    def ask(self) -> None:
        """Read the file now, changed or not; returns at once."""
        self._asked.put(None)

    def take(self) -> Fresh | None:
        """The index and model as they are now, once after each change; None when nothing changed."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def take_trouble(self) -> str:
        """Why the file could not be read, once; empty when nothing went wrong."""
        with self._lock:
            trouble, self._trouble = self._trouble, ""
        return trouble

    def look(self, *, anyway: bool = False) -> None:
        """Read the files if they are other ones than at the last look."""
        state = (file_state(self._path), self._model.state())
        if state == self._seen and not anyway:
            return
        self._seen = state
        try:
            index = Index.open(self._path)
            extractor = self._model.for_index(index)
            # computed here, or the next frame waits for it
            _ = index.threshold
        except DeepIRError as error:
            with self._lock:
                self._trouble = str(error)
            return
        with self._lock:
            if extractor is None and self._fresh is not None:
                extractor = self._fresh.extractor
            elif self._fresh is not None and self._fresh.extractor is not None:
                self._fresh.extractor.close()
            self._fresh = Fresh(index, extractor)

    def close(self) -> None:
        """Look no more."""
        self._stopping = True
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join()
        fresh = self.take()
        if fresh is not None and fresh.extractor is not None:
            fresh.extractor.close()

    def __enter__(self) -> "IndexWatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        while not self._stopping:
            asked = self._was_asked()
            if self._stopping:
                return
            try:
                self.look(anyway=asked)
            except Exception as error:  # whatever it is, the index before goes on answering, and the next look comes
                _log.exception("looking at %s failed", self._path)
                with self._lock:
                    self._trouble = f"{self._path}: {error!r}"

    def _was_asked(self) -> bool:
        """Wait for the next look, and say whether somebody asked for it."""
        try:
            self._asked.get(timeout=self._interval)
        except queue.Empty:
            return False
        return True


@contextlib.contextmanager
def reads_again_at_sighup(watch: IndexWatch) -> Iterator[None]:
    """Let SIGHUP ask the watch; only the main thread of a program may."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        watch.ask()

    before = signal.signal(hangup, ask)
    try:
        yield
    finally:
        signal.signal(hangup, before)


def file_state(path: Path) -> State:
    """Inode, time and size of the index and its journal; a missing file has none."""
    found = []
    for file in (path, journal_of(path.resolve())):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(file)
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
