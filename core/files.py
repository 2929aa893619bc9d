"""Files: written whole or not at all, and known by their hash."""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from deepir.errors import InputError, OptionError

_CHUNK = 1 << 20
_RANDOM = 4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it and rename it, on failure remove it.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM)}.part")
    try:
        # not with tempfile: its files are for the owner alone, and asking for the umask to change that disturbs threads
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; create the folder {path.parent} or choose another place"
        raise InputError(message) from error
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process left of `replacing(path)`; none may be at it now."""
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _RANDOM}}}\.part", name):
                path.with_name(name).unlink(missing_ok=True)


def check_apart(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Refuse to write a file that is read, or that is written already, before any work is done.

    Args:
        written: Files by what asked for them, such as --save.
        read: Files by what they are, such as "the index".

    Raises:
        OptionError: Two of them are one file.
    """
    taken = {name: path for name, path in read.items() if path is not None}
    for name, path in written.items():
        if path is None:
            continue
        for other, there in taken.items():
            if _are_one(path, there):
                message = f"{name} {path} would overwrite {other}: give it another name"
                raise OptionError(message)
        taken[name] = path


def _are_one(one: Path, other: Path) -> bool:
    # of devices and pipes, such as /dev/null, nothing is lost
    with suppress(OSError, ValueError):
        if one.exists() and other.exists():
            return one.is_file() and os.path.samefile(one, other)
        return one.resolve() == other.resolve()
    return False


def flush_folder(folder: Path) -> None:
    """Wait until the names of the files in it are on the disk, where the system can do that."""
    # some network file systems cannot, nor can who may not list the folder; the files are in place with or without
    with suppress(OSError):
        _flush(folder)


def write_text(path: Path, text: str) -> None:
    """Replace the file by `text` (UTF-8), whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        InputError: The file is missing or unreadable.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    return digest.hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
