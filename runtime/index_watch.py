"""An index or model that another program changes is read again in the background, while the one before answers."""

import contextlib
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from deepir.errors import DeepIRError
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.journal import journal_of
from deepir.runtime.model_file import ModelFile

INTERVAL = 1.0
"""Seconds between two looks at the file."""

_AGAIN = 10
"""Looks after which what could not be read is read again though it is the same: the model that belongs to a new index
may be copied after it, and a full disk, a missing permission or a lost network folder pass."""

_FAREWELL = 5.0
"""Seconds for what is being read at the end: an engine may be built for minutes."""

_log = logging.getLogger(__name__)

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)

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

    What cannot be read, or does not fit together, is told by `take_trouble`, is tried again, and changes nothing: the
    index and model before go on answering.

    Args:
        path: Of the index.
        model: That describes queries.
        seen: `file_state` from before the index that answers now was read.
        make_ready: Done with an index before it is given; raises DeepIRError where it cannot answer.
        interval: Seconds between two looks.
    """

    def __init__(
        self,
        path: Path,
        model: ModelFile,
        *,
        seen: State,
        make_ready: Callable[[Index], None] | None = None,
        interval: float = INTERVAL,
    ) -> None:
        self._path = path
        self._model = model
        self._make_ready = make_ready
        self._interval = interval
        self._seen = (seen, model.state())
        self._lock = threading.Lock()
        self._fresh: Fresh | None = None
        self._trouble = self._told = ""
        self._again_in: int | None = None
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
        """Why the files could not be read, once for each reason; empty when nothing new went wrong."""
        with self._lock:
            trouble, self._trouble = self._trouble, ""
        return trouble

    def look(self, *, anyway: bool = False) -> None:
        """Read the files if they are other ones than at the last look, or could not be read."""
        state = (file_state(self._path), self._model.state())
        if self._again_in is not None:
            self._again_in -= 1
        if state == self._seen and self._again_in != 0 and not anyway:
            return
        self._seen, self._again_in = state, _AGAIN
        if anyway:
            # whoever asked wants to hear why not, also when it was told before
            self._told = ""
        try:
            index = Index.open(self._path)
            # computed here, or the next frame waits for it
            _ = index.threshold
            if self._make_ready is not None:
                self._make_ready(index)
            extractor = self._model.for_index(index)
        except (DeepIRError, OSError) as error:
            self._tell(str(error))
            return
        # an index of another model was looked at with the file of the one before
        self._seen = (state[0], self._model.state() if extractor is not None else state[1])
        self._give(index, extractor)

    def _give(self, index: Index, extractor: Extractor | None) -> None:
        self._again_in = None
        with self._lock:
            self._told = ""
            if extractor is None and self._fresh is not None:
                extractor = self._fresh.extractor
            elif self._fresh is not None and self._fresh.extractor is not None:
                self._fresh.extractor.close()
            self._fresh = Fresh(index, extractor)

    def _tell(self, trouble: str) -> None:
        with self._lock:
            if trouble != self._told:
                self._told = self._trouble = trouble

    def close(self) -> None:
        """Look no more."""
        self._stopping = True
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join(_FAREWELL)
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
                _log.debug("looking at %s failed", self._path, exc_info=True)
                self._tell(f"{self._path}: {error!r}")

    def _was_asked(self) -> bool:
        """Wait for the next look, and say whether somebody asked for it."""
        try:
            self._asked.get(timeout=self._interval)
        except queue.Empty:
            return False
        return True


class Hangup:
    """Lets SIGHUP ask a watch while it is entered; only in the main thread of a program.

    Enter it before anything else: what SIGHUP does by itself is to end the program. One that comes before there is a
    watch is remembered.
    """

    def __init__(self) -> None:
        self._watch: IndexWatch | None = None
        self._came = False
        self._before: Any = None

    def tell(self, watch: IndexWatch) -> None:
        """From now on this watch is asked."""
        self._watch = watch
        if self._came:
            watch.ask()

    def __enter__(self) -> "Hangup":
        if _HANGUP is not None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(_HANGUP, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None and _HANGUP is not None:
            signal.signal(_HANGUP, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if self._watch is not None:
            self._watch.ask()


def file_state(path: Path) -> State:
    """Inode, time and size of the index and its journal; a file that cannot be looked at has none."""
    found = []
    for file in (path, journal_of(path.resolve())):
        with contextlib.suppress(OSError):
            status = os.stat(file)
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
