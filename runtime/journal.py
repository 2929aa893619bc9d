"""The journal beside an index: changes since its last save, on the disk before they are acknowledged.

    magic | digest of the index it continues | record | record | ...
    record = mark, u8 | length, u64 | CRC-32 of the length | CRC-32 of the content | content

Each CRC-32 goes on from the one before it, so that no record can be left out, doubled or taken from another journal.
The mark says whether a record is on the disk as a whole. One that is not was never acknowledged: the last record of the
file may be cut off or torn then, and is dropped. Anything else that is not as it was written is damage, and refused.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from deepir.errors import IndexFileError, InputError
from deepir.files import flush_folder, replacing

_MAGIC = b"DEEPIRJ1"
_DIGEST_SIZE = 32
_START = len(_MAGIC) + _DIGEST_SIZE
_HEAD = struct.Struct("<BQII")
_LENGTH = struct.Struct("<Q")
_BEGUN = 0x69
_WRITTEN = 0x96


class Place(NamedTuple):
    """Where the next record goes, and the CRC-32 that it goes on from; it names all that stands before it."""

    end: int
    chain: int

    def __str__(self) -> str:
        return f"{self.end}:{self.chain:08x}" if self.end > _START else ""


NEW = Place(0, 0)
"""Of a journal that does not exist yet."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a journal holds.

    Attributes:
        continues: Digest of the index whose changes these are; empty where there is no journal.
        records: In order.
        place: Behind the last of them.
        rest: Bytes behind that which are no whole record.
        damaged: Whether these are damage; else a record was cut off there before it was acknowledged.
    """

    continues: str = ""
    records: Sequence[bytes] = ()
    place: Place = NEW
    rest: int = 0
    damaged: bool = False


def journal_of(path: Path) -> Path:
    """Where the changes since the last save of an index lie."""
    return path.with_name(f"{path.name}.journal")


class Journal:
    """Records appended to a file. One process at a time may write it (see `deepir.runtime.index_lock`).

    Args:
        path: Of the journal; it is made with the first record.
        digest: Of the index that it continues.
        place: Where `read_journal` found its end; NEW for a new journal, whatever the file holds.
    """

    def __init__(self, path: Path, digest: str, place: Place = NEW) -> None:
        self._path = path
        self._header = _MAGIC + bytes.fromhex(digest)
        self.place = place
        self._file: FileIO | None = None

    def append(self, content: bytes) -> None:
        """Write a record and wait until it is on the disk; a failure leaves the file as it was.

        Raises:
            InputError: The disk is full or cannot be written.
        """
        header = b"" if self.place.end else self._header
        start = self.place.end + len(header)
        length_sum = zlib.crc32(_LENGTH.pack(len(content)), self.place.chain or zlib.crc32(self._header))
        content_sum = zlib.crc32(content, length_sum)
        record = _HEAD.pack(_BEGUN, len(content), length_sum, content_sum) + content
        try:
            handle = self._opened()
            # what a writer that was killed or interrupted left half written goes first
            os.ftruncate(handle, self.place.end)
            _write(handle, header + record, self.place.end)
            os.fsync(handle)
        except OSError as error:
            self._cut_back()
            message = f"cannot write {self._path}: {error.strerror}; nothing was changed"
            raise InputError(message) from error
        # in one step, because Ctrl-C may come between two
        self.place = Place(start + len(record), content_sum)
        # it is on the disk with or without the mark, which only tells damage from a record that was cut off
        with suppress(OSError):
            os.pwrite(handle, bytes([_WRITTEN]), start)

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> int:
        if self._file is None:
            self._file = FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            if self.place == NEW:
                flush_folder(self._path.parent)
        return self._file.fileno()

    def _cut_back(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self.place.end)


def read_journal(path: Path) -> Recorded:
    """What a journal holds; an absent file holds nothing.

    Raises:
        IndexFileError: Damaged.
        InputError: Unreadable.
    """
    recorded = scan_journal(path)
    if recorded.damaged:
        raise _damaged(path, recorded.place.end)
    return recorded


def scan_journal(path: Path, continues: str = "") -> Recorded:
    """What a journal holds up to where it is damaged; an absent file holds nothing.

    Args:
        path: Of the journal.
        continues: Read it as if its head named this digest; empty for the one it names.

    Raises:
        InputError: Unreadable.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Recorded()
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    if continues:
        content = _MAGIC + bytes.fromhex(continues) + content[_START:]
    if not any(content) or (len(content) < _START and _MAGIC.startswith(content[: len(_MAGIC)])):
        # its first bytes were being written: no record was acknowledged yet
        return Recorded(rest=len(content))
    if not content.startswith(_MAGIC):
        return Recorded(rest=len(content), damaged=True)
    records, place, damaged = [], Place(_START, zlib.crc32(content[:_START])), False
    try:
        while (record := _record_at(content, place, path)) is not None:
            records.append(record)
            (*_, content_sum) = _HEAD.unpack_from(content, place.end)
            place = Place(place.end + _HEAD.size + len(record), content_sum)
    except IndexFileError:
        damaged = True
    rest = len(content) - place.end
    return Recorded(content[len(_MAGIC) : _START].hex(), records, place, rest, damaged)


def records_behind(path: Path, place: Place) -> list[bytes]:
    """The records behind a damaged place that are whole in themselves.

    They tell what is lost, and cannot be trusted to happen: what stood before them is not known.
    """
    content, found = path.read_bytes(), []
    start = content.find(_WRITTEN, place.end)
    while start >= 0:
        record = _alone_at(content, start)
        found += [record] if record else []
        start = content.find(_WRITTEN, start + (_HEAD.size + len(record) if record else 1))
    return found


def write_journal(path: Path, digest: str, records: Sequence[bytes]) -> None:
    """Replace a journal by one that continues the index of this digest with these records, whole or not at all.

    Raises:
        InputError: The disk is full or cannot be written.
    """
    with replacing(path) as temporary, Journal(temporary, digest) as journal:
        for record in records:
            journal.append(record)


def _alone_at(content: bytes, start: int) -> bytes:
    """The record that begins there, whatever stands before it; nothing where none does."""
    if start + _HEAD.size > len(content):
        return b""
    _, length, length_sum, content_sum = _HEAD.unpack_from(content, start)
    record = content[start + _HEAD.size : start + _HEAD.size + length]
    return record if len(record) == length and zlib.crc32(record, length_sum) == content_sum else b""


def _record_at(content: bytes, place: Place, path: Path) -> bytes | None:
    """The record that begins there; None at the end, or when it was cut off while it was written."""
    head = content[place.end : place.end + _HEAD.size]
    # a file system may make a file longer before it has written the bytes: then they are zero to the end
    if not any(head) and not any(content[place.end :]):
        return None
    if len(head) < _HEAD.size:
        if head[0] == _BEGUN:
            return None
        raise _damaged(path, place.end)
    mark, length, length_sum, content_sum = _HEAD.unpack(head)
    if mark not in {_BEGUN, _WRITTEN} or length_sum != zlib.crc32(_LENGTH.pack(length), place.chain):
        raise _damaged(path, place.end)
    record = content[place.end + _HEAD.size : place.end + _HEAD.size + length]
    if len(record) == length and zlib.crc32(record, length_sum) == content_sum:
        return record
    if mark == _BEGUN and place.end + _HEAD.size + length >= len(content):
        return None
    raise _damaged(path, place.end)


def _damaged(path: Path, position: int) -> IndexFileError:
    index = path.with_name(path.name.removesuffix(".journal"))
    return IndexFileError(
        f"{path} is damaged at byte {position}: the changes after it cannot be trusted; "
        f"deepir-index repair {index} keeps those before it"
    )


def _write(handle: int, content: bytes, position: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(handle, rest, position)
        rest, position = rest[written:], position + written
