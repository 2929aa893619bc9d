"""The journal beside an index: changes since its last save, on the disk before they are acknowledged.

    magic | digest of the index it continues | record | record | ...
    record = mark, u32 | length, u32 | CRC-32 of mark and length | CRC-32 of the content | content

A record that was cut off while it was written ends the file: it was never acknowledged and is dropped. Any other record
that is not as it was written is damage, and refused.
"""

import os
import struct
import zlib
from pathlib import Path
from types import TracebackType

from deepir.errors import IndexFileError, InputError

_MAGIC = b"DEEPIRJ1"
_DIGEST_SIZE = 32
_START = len(_MAGIC) + _DIGEST_SIZE
_HEAD = struct.Struct("<IIII")
_MARK = 0x4C4E524A


def journal_of(path: Path) -> Path:
    """Where the changes since the last save of an index lie."""
    return path.with_name(f"{path.name}.journal")


class Journal:
    """Records appended to a file. One process at a time may write it (see `deepir.runtime.index_lock`)."""

    def __init__(self, path: Path, digest: str, end: int) -> None:
        self._path = path
        self._digest = digest
        self._end = end
        self._handle: int | None = None

    def append(self, content: bytes) -> None:
        """Write a record and wait until it is on the disk; a failure leaves the file as it was.

        Raises:
            InputError: The disk is full or cannot be written.
        """
        mark = struct.pack("<II", _MARK, len(content))
        record = mark + struct.pack("<II", zlib.crc32(mark), zlib.crc32(content)) + content
        try:
            handle = self._opened()
            _write(handle, record, self._end)
            os.fsync(handle)
        except OSError as error:
            self._cut_back()
            message = f"cannot write {self._path}: {error.strerror}; nothing was changed"
            raise InputError(message) from error
        self._end += len(record)

    @property
    def size(self) -> int:
        """Bytes of records."""
        return max(0, self._end - _START)

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> int:
        if self._handle is None:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            # what a killed writer left half written goes before the next record is put behind it
            os.ftruncate(self._handle, self._end)
            if self._end < _START:
                _write(self._handle, _MAGIC + bytes.fromhex(self._digest), 0)
                self._end = _START
                _flush_folder(self._path.parent)
        return self._handle

    def _cut_back(self) -> None:
        if self._handle is not None:
            os.ftruncate(self._handle, self._end)


def read_journal(path: Path) -> tuple[str, list[bytes], int]:
    """The digest of the index that it continues, its records, and where they end; an absent file has none.

    Raises:
        IndexFileError: Damaged.
        InputError: Unreadable.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "", [], 0
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    if len(content) < _START and (_MAGIC + bytes(_DIGEST_SIZE)).startswith(content[: len(_MAGIC)]):
        # its first bytes were being written: no record was acknowledged yet
        return "", [], 0
    if content[: len(_MAGIC)] != _MAGIC:
        if not any(content):
            return "", [], 0
        raise _damaged(path, 0)
    records, end = [], _START
    while end < len(content):
        record = _record_at(content, end, path)
        if record is None:
            break
        records.append(record)
        end += _HEAD.size + len(record)
    return content[len(_MAGIC) : _START].hex(), records, end


def _record_at(content: bytes, start: int, path: Path) -> bytes | None:
    """The record that begins there; None when it was cut off while it was written."""
    head = content[start : start + _HEAD.size]
    if len(head) < _HEAD.size:
        if not any(head) or struct.pack("<I", _MARK).startswith(head[:4]) or head[:4] == struct.pack("<I", _MARK):
            return None
        raise _damaged(path, start)
    mark, length, head_sum, content_sum = _HEAD.unpack(head)
    if mark != _MARK or head_sum != zlib.crc32(head[:8]):
        # a file system may make a file longer before it has written the bytes: then they are zero to the end
        if not any(content[start:]):
            return None
        raise _damaged(path, start)
    body = content[start + _HEAD.size : start + _HEAD.size + length]
    if len(body) < length:
        return None
    if zlib.crc32(body) != content_sum:
        if len(content) == start + _HEAD.size + length and not body[-1:].strip(b"\0"):
            return None
        raise _damaged(path, start)
    return body


def _damaged(path: Path, position: int) -> IndexFileError:
    index = path.with_name(path.name.removesuffix(".journal"))
    return IndexFileError(
        f"{path} is damaged at byte {position}: the changes after it cannot be trusted; "
        f"deepir-index repair {index} keeps those before it"
    )


def _write(handle: int, content: bytes, position: int) -> None:
    rest = memoryview(content)
    while len(rest):
        written = os.pwrite(handle, rest, position)
        rest, position = rest[written:], position + written


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
