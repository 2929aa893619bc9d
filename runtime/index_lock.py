"""One writer of an index at a time; readers need no lock."""

import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from deepir.errors import IndexBusyError, InputError

WAIT = 10.0
"""Seconds that a second writer waits for the first."""

_PAUSE = 0.05


class IndexLock:
    """Held from its making to `close`, and given back by the system when the process dies.

    Attributes:
        index: The file that only this process may write.

    Raises:
        IndexBusyError: Another writer holds it for longer than `wait` seconds.
        InputError: The folder cannot be written.
    """

    def __init__(self, path: Path, wait: float = WAIT) -> None:
        self.index = path
        # a file of its own: the index itself is replaced, and a lock on a replaced file locks nothing
        lock = path.with_name(f".{path.name}.lock")
        try:
            # an object, so that an index that is dropped without `close` gives the lock back
            self._file = FileIO(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError as error:
            message = f"cannot write {lock}: {error.strerror}; an index can be changed only where files can be written"
            raise InputError(message) from error
        try:
            self._take(time.monotonic() + wait, wait)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back."""
        self._file.close()

    def __enter__(self) -> "IndexLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, until: float, wait: float) -> None:
        # the module is missing on systems where no index is written
        import fcntl

        handle = self._file.fileno()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise self._busy(wait) from error
            except OSError as error:
                message = f"cannot lock {self.index}: {error.strerror}; keep the index on a disk of this machine"
                raise InputError(message) from error
            time.sleep(_PAUSE)
        # only for the message above; on a full disk it is left out
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)

    def _busy(self, wait: float) -> IndexBusyError:
        owner = os.pread(self._file.fileno(), 32, 0).decode(errors="replace").strip()
        if owner == str(os.getpid()):
            message = f"{self.index} is open for writing in this program already: close it there first"
        else:
            message = (
                f"{self.index} is being changed by another program (process {owner or 'unknown'}): waited "
                f"{wait:g} seconds; end that program or try again"
            )
        return IndexBusyError(message)
