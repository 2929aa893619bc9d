"""One writer of an index at a time; readers need no lock."""

import os
import time
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
        self._path = path.with_name(f".{path.name}.lock")
        try:
            self._handle: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            message = f"cannot write {self._path}: {error.strerror}; an index can be changed only where files can be written"
            raise InputError(message) from error
        self._take(path, time.monotonic() + wait, wait)

    def close(self) -> None:
        """Give it back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "IndexLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, path: Path, until: float, wait: float) -> None:
        # the module is missing on systems where no index is written
        import fcntl

        handle = self._handle
        while handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() >= until:
                    owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
                    self.close()
                    message = (
                        f"{path} is being changed by another program (process {owner or 'unknown'}): waited "
                        f"{wait:g} seconds; end that program or try again"
                    )
                    raise IndexBusyError(message) from error
                time.sleep(_PAUSE)
            else:
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return
