"""The file that JSON lines go to: added to by what runs for weeks, and opened again when it was moved away."""

import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TextIO

from deepir.errors import InputError


class Lines(Protocol):
    """Where lines are written: standard output, or a file of this module."""

    def write(self, text: str, /) -> object:
        """Write whole lines."""

    def flush(self) -> object:
        """Send them off."""


class LinesFile:
    """A file for lines.

    Args:
        path: Of the file.
        add: Keep what is in it, and where another program moves it away (logrotate), go on in a new one; else it begins
            anew.

    Raises:
        InputError: It cannot be written; also later, when the disk is full.
    """

    def __init__(self, path: Path, *, add: bool) -> None:
        self._path = path
        self._add = add
        self._stream = self._open("a" if add else "w")

    def write(self, text: str) -> None:
        """Write whole lines."""
        try:
            if self._add and self._was_moved():
                self._stream.close()
                self._stream = self._open("a")
            self._stream.write(text)
        except OSError as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """Send them off."""
        try:
            self._stream.flush()
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> "LinesFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stream.close()
        except OSError as failure:
            # what could not be written has been told where it was written
            if error is None:
                raise self._failure(failure) from failure

    def _open(self, mode: Literal["a", "w"]) -> TextIO:
        try:
            stream = self._path.open(mode, encoding="utf-8")
            if _is_torn(self._path):
                # a line that a loss of power cut off must not swallow the next one
                stream.write("\n")
        except OSError as error:
            raise self._failure(error) from error
        return stream

    def _was_moved(self) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        here = os.fstat(self._stream.fileno())
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _failure(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self._path}: {error.strerror}; make room, or choose another place")


def _is_torn(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"
