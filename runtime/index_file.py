"""The bytes of an index: a usearch file, then what deepir knows of it, then a checksum over everything.

    usearch's own bytes | sections | footer, JSON | its length, u64 | SHA-256 | magic

usearch ignores what follows its own bytes, so the file opens in any program that reads usearch files. The SHA-256 is
that of the SHA-256 of each 4 MiB before it, one after the other, so that several cores check a large file.
"""

import hashlib
import mmap
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from deepir.errors import IndexFileError, InputError
from deepir.files import remove_leftovers, replacing
from deepir.reading import default_workers
from deepir.runtime.index_footer import Footer, OtherVersionError
from deepir.runtime.store import is_usearch

_MAGIC = b"DEEPIRX3"
_OLDER_MAGICS = (b"DEEPIRX1",)
_LENGTH = struct.Struct("<Q")
_DIGEST_SIZE = hashlib.sha256().digest_size
_TRAILER_SIZE = _LENGTH.size + _DIGEST_SIZE + len(_MAGIC)
_CHUNK = 4 << 20

LARGE = 64 << 20
"""Smaller files are read into memory, so that even a program that writes over the file in place disturbs nobody."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """The parts of a file whose checksum is right.

    Attributes:
        usearch: The bytes for usearch.
        footer: What deepir knows of them.
        sections: Further bytes by name.
        digest: Hex, names this very state of the index.
        identity: Device and inode of the file.
        mapped: Whether `usearch` and `sections` lie in a mapping of the file, or else in memory.
    """

    usearch: memoryview
    footer: Footer
    sections: Mapping[str, memoryview]
    digest: str
    identity: tuple[int, int]
    mapped: bool


class NoFooterError(IndexFileError):
    """The file does not end like one of deepir's."""


def backup_of(path: Path) -> Path:
    """Where the generation before the newest is kept."""
    return path.with_name(f"{path.name}.bak")


def write_index(path: Path, usearch_bytes: bytes | bytearray, sections: Mapping[str, bytes], footer: Footer) -> str:
    """Replace the file, whole or not at all, and give its digest; the generation before it becomes `<name>.bak`.

    Nobody else may write it meanwhile (see `deepir.runtime.index_lock`).

    Raises:
        InputError: The folder does not exist or cannot be written, the disk is full, or what is there is no index; then
            nothing changed.
    """
    _check_replaceable(path)
    sizes = {name: len(content) for name, content in sections.items()}
    text = replace(footer, sections=sizes).to_json().encode()
    try:
        return _replace(path, (usearch_bytes, *sections.values(), text, _LENGTH.pack(len(text))))
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; what was there stays: make room or choose another place"
        raise InputError(message) from error


def read_index(path: Path) -> Opened:
    """The parts of a file, the ones of a large file mapped; nothing is believed before the checksum is right.

    Who replaces the file later does not disturb the mapping.

    Raises:
        InputError: The file is missing or unreadable.
        NoFooterError: Written by another program, or cut short.
        IndexFileError: Damaged, or of another version of deepir.
    """
    content, identity = file_bytes(path)
    try:
        return _split(content, identity)
    except NoFooterError:
        raise
    except IndexFileError as error:
        raise unusable(path, error) from error


def stated_digest(path: Path) -> str:
    """The digest that a file states, unchecked; empty where there is no such file."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - _DIGEST_SIZE - len(_MAGIC)))
            trailer = stream.read()
    except OSError:
        return ""
    return trailer[:_DIGEST_SIZE].hex() if trailer[_DIGEST_SIZE:] == _MAGIC else ""


def file_bytes(path: Path) -> tuple[memoryview, tuple[int, int]]:
    """The bytes of a file, of a large one as a mapping, with its device and inode.

    Raises:
        InputError: Missing, unreadable, or a folder.
    """
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            large = status.st_size > LARGE
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if large else stream.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"cannot read the index {path}: {reason}"
        raise InputError(message) from error
    return memoryview(content), (status.st_dev, status.st_ino)


def unusable(path: Path, reason: Exception | str) -> IndexFileError:
    """The reason as a whole sentence: the file, its size, and the cure."""
    restore = f"deepir-index repair {path} goes back to {backup_of(path).name}, or " if backup_of(path).exists() else ""
    size = path.stat().st_size if path.exists() else 0
    return IndexFileError(
        f"{path} ({size} bytes) is not a usable index: {reason}; "
        f"{restore}make it again with deepir-index build {path} FOLDER --model MODEL.onnx"
    )


def _check_replaceable(path: Path) -> None:
    if not path.is_file() or not path.stat().st_size or stated_digest(path):
        return
    if not is_usearch(file_bytes(path)[0]):
        message = f"{path} is there and is no index, so it stays: give another name, or remove it first"
        raise InputError(message)


def _replace(path: Path, parts: Sequence[bytes | bytearray]) -> str:
    digest = _TreeHash()
    for written in (path, backup_of(path)):
        remove_leftovers(written)
    with replacing(path) as temporary:
        with temporary.open("wb") as stream:
            for part in parts:
                digest.update(part)
                stream.write(part)
            stream.write(digest.digest() + _MAGIC)
            stream.flush()
            # on the disk first: what fails until here leaves `<name>.bak` as it was
            os.fsync(stream.fileno())
        if path.exists():
            _keep(path)
    return digest.digest().hex()


def _keep(path: Path) -> None:
    """Let `<name>.bak` be what the file is now."""
    backup = backup_of(path)
    second = path.with_name(f".{backup.name}.link")
    second.unlink(missing_ok=True)
    try:
        # a second name for the same bytes, which nobody changes: the file itself is replaced, never written to
        os.link(path, second)
    except OSError:
        with replacing(backup) as copy:
            shutil.copyfile(path, copy)
        return
    try:
        os.replace(second, backup)
    finally:
        # renaming does nothing where both are names of the same file already
        second.unlink(missing_ok=True)


def _split(content: memoryview, identity: tuple[int, int]) -> Opened:
    magic = bytes(content[-len(_MAGIC) :])
    if len(content) < _TRAILER_SIZE or magic != _MAGIC:
        if magic in _OLDER_MAGICS:
            message = "an earlier version of deepir wrote it, and this one reads only its own form"
            raise OtherVersionError(message)
        message = "it has no deepir footer (cut short, lengthened, or written by another program)"
        raise NoFooterError(message)
    hashed = len(content) - len(_MAGIC) - _DIGEST_SIZE
    digest = _tree_hash(content[:hashed])
    if digest != content[hashed : hashed + _DIGEST_SIZE]:
        message = "its checksum is wrong (damaged on the disk or on the way)"
        raise IndexFileError(message)
    end = hashed - _LENGTH.size
    (length,) = _LENGTH.unpack(content[end:hashed])
    if length > end:
        message = f"its footer claims {length} bytes"
        raise IndexFileError(message)
    footer = Footer.from_json(str(content[end - length : end], "utf-8"))
    usearch, sections = _cut(content[: end - length], footer.sections)
    return Opened(usearch, footer, sections, digest.hex(), identity, isinstance(content.obj, mmap.mmap))


def _cut(content: memoryview, sizes: Mapping[str, int]) -> tuple[memoryview, dict[str, memoryview]]:
    counted = isinstance(sizes, Mapping) and all(isinstance(size, int) and size >= 0 for size in sizes.values())
    start = len(content) - sum(sizes.values()) if counted else -1
    if start < 0:
        message = f"its sections claim {sizes} of {len(content)} bytes"
        raise IndexFileError(message)
    usearch, sections = content[:start], {}
    for name, size in sizes.items():
        sections[name] = content[start : start + size]
        start += size
    return usearch, sections


class _TreeHash:
    """SHA-256 of the SHA-256 of each chunk."""

    def __init__(self) -> None:
        self._root = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._room = _CHUNK

    def update(self, content: bytes | bytearray | memoryview) -> None:
        rest = memoryview(content)
        while rest:
            part, rest = rest[: self._room], rest[self._room :]
            self._chunk.update(part)
            self._room -= len(part)
            if not self._room:
                self._root.update(self._chunk.digest())
                self._chunk, self._room = hashlib.sha256(), _CHUNK

    def digest(self) -> bytes:
        whole = self._root.copy()
        if self._room < _CHUNK:
            whole.update(self._chunk.digest())
        return whole.digest()


def _tree_hash(content: memoryview) -> bytes:
    chunks = (content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK))
    if len(content) <= _CHUNK:
        return _joined(map(_sha256, chunks))
    with ThreadPoolExecutor(default_workers()) as pool:
        return _joined(pool.map(_sha256, chunks))


def _sha256(chunk: memoryview) -> bytes:
    return hashlib.sha256(chunk).digest()


def _joined(digests: Iterable[bytes] | Iterator[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()
