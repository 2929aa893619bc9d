"""Append-only logs of JSON lines: a run that was killed goes on from what its log says is done."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepir.errors import InputError

Entry = dict[str, Any]
"""One JSON object, one line."""


def read_log(path: Path) -> list[Entry]:
    """The entries in the order in which they were written; none when there is no such file.

    A line that cannot be read, such as the torn last line of a killed run, is passed over: its work is done again.

    Raises:
        InputError: The file is there and cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        message = f"cannot read the log {path}: {error.strerror}"
        raise InputError(message) from error
    return [entry for entry in map(_parse, lines) if entry is not None]


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Entry], None]]:
    """Give a function that adds an entry; each reaches the file before the next one is begun."""
    with path.open("a+", encoding="utf-8") as stream:
        if _is_torn(path):
            stream.write("\n")

        def append(entry: Entry) -> None:
            stream.write(json.dumps(entry, sort_keys=True) + "\n")
            stream.flush()

        yield append


def _parse(line: str) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _is_torn(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 1))
        return stream.read() not in {b"", b"\n"}
