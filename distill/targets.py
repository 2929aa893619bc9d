"""The store of what a teacher said of each view: rows that are only ever appended, and feature lists of other tools."""

import contextlib
import os
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from deepir.descriptor_check import check_descriptors
from deepir.descriptors import Descriptors
from deepir.distill.answers import Rows
from deepir.errors import InputError
from deepir.files import replacing, write_text

_SCHEMA = b"deepir.targets/1"
_LINE = re.compile(rb"([!-~]+) (\d{1,12}) (\d{1,9}) ([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class _Record:
    """Where the rows of a view stand, and the checksum over its name and them."""

    start: int
    count: int
    checksum: int


class TargetStore:
    """A folder with rows of `dim` values for each of many keys; one process at a time has it open.

    `rows.f32` holds the rows, `index.txt` a line for each key: the key, its first row, how many there are, and a
    checksum over key and rows. Rows are on disk before their line is written, so a process that was killed at any
    byte leaves at most a tail without a line, which the next one cuts off. Rows and names that do not belong together
    are noticed by the checksum.

    Raises, on entering:
        InputError: The folder holds rows of another dimension, or its files are damaged.
        OSError: The folder cannot be made, read or written.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder = folder
        self._dim = dim
        self._records: dict[bytes, _Record] = {}
        self._rows = 0
        self._index_bytes = 0
        self._lock: int | None = None

    def __enter__(self) -> "TargetStore":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder / "lock")
        try:
            self._read()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._records

    def append(self, keys: Sequence[str], records: Sequence[Rows]) -> None:
        """Keep the rows (R, D) of each key; they are on disk when this returns.

        Raises:
            OSError: They cannot be written, as on a full disk; what was there before is as it was.
        """
        added: dict[bytes, _Record] = {}
        rows = self._rows
        values: list[bytes] = []
        lines: list[bytes] = []
        for key, record_rd in zip(keys, records, strict=True):
            if record_rd.ndim != 2 or record_rd.shape[1] != self._dim:
                message = f"this store keeps rows of {self._dim} values, got an array of shape {record_rd.shape}"
                raise InputError(message)
            name, content = key.encode(), record_rd.astype("<f4").tobytes()
            record = added[name] = _Record(rows, len(record_rd), _checksum(name, len(record_rd), content))
            values.append(content)
            lines.append(b"%s %d %d %08x\n" % (name, record.start, record.count, record.checksum))
            rows += record.count
        try:
            _add(self._values, b"".join(values))
            _add(self._index, b"".join(lines))
        except BaseException:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._records |= added
        self._rows, self._index_bytes = rows, self._index_bytes + sum(map(len, lines))

    def gather(self, keys: Sequence[str]) -> list[Rows]:
        """The rows of these keys, in order, read from the disk when they are looked at.

        Raises:
            InputError: Rows that do not belong to their names.
        """
        stored: Rows = np.empty((0, self._dim), dtype=np.float32)
        if self._rows:
            stored = np.asarray(np.memmap(self._values, dtype="<f4", mode="r", shape=(self._rows, self._dim)))
        gathered = []
        for key in keys:
            record = self._records[key.encode()]
            rows_rd = stored[record.start : record.start + record.count]
            if _checksum(key.encode(), record.count, rows_rd.tobytes()) != record.checksum:
                raise self._damaged(key)
            gathered.append(rows_rd)
        return gathered

    @property
    def _values(self) -> Path:
        return self.folder / "rows.f32"

    @property
    def _index(self) -> Path:
        return self.folder / "index.txt"

    def _read(self) -> None:
        """Read the index, and cut off what a killed process left without its other half."""
        self._values.touch()
        self._index.touch()
        header, *lines = self._index.read_bytes().split(b"\n")
        if not lines:
            # new, or killed while the first line was written
            self._cut()
            header = b"%s %d" % (_SCHEMA, self._dim)
            _add(self._index, header + b"\n")
            lines = [b""]
        self._check_header(header)
        self._index_bytes = len(header) + 1
        on_disk = self._values.stat().st_size // (4 * self._dim)
        start = 0
        # the last piece is empty, or a line that was not written to its end
        for line in lines[:-1]:
            found = _LINE.fullmatch(line)
            if found is None or int(found[2]) != start:
                raise self._damaged(line[:80].decode(errors="replace"))
            record = _Record(start, int(found[3]), int(found[4], 16))
            start += record.count
            if start <= on_disk:
                self._records[found[1]] = record
                self._rows = start
                self._index_bytes += len(line) + 1
        self._cut()

    def _check_header(self, header: bytes) -> None:
        schema, _, dim = header.partition(b" ")
        if schema != _SCHEMA or not dim.isdigit():
            raise self._damaged(header[:80].decode(errors="replace"))
        if int(dim) != self._dim:
            message = (
                f"the targets in {self.folder} have {int(dim)} values and this teacher gives {self._dim}: "
                "choose another folder for this teacher"
            )
            raise InputError(message)

    def _cut(self) -> None:
        """Back to the last whole record."""
        os.truncate(self._values, 4 * self._dim * self._rows)
        os.truncate(self._index, self._index_bytes)

    def _damaged(self, name: str) -> InputError:
        return InputError(
            f"the targets in {self.folder} are damaged, rows and names do not belong together at {name!r}: "
            "delete this folder, and the teacher computes them again"
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_feature_list(features: Path, index: Path, names: Sequence[str], descriptors_nd: Descriptors) -> None:
    """Write descriptors (N, D) as a .npy file and a text file with a line `name row` for each (method.md 4.2).

    Raises:
        InputError: Not one name for each row, names that are not distinct or hold white space at their ends.
    """
    descriptors_nd = np.ascontiguousarray(descriptors_nd, dtype=np.float32)
    _check_features("the descriptors", descriptors_nd, len(names))
    spoilt = [name for name in names if name != name.strip() or not name or "\n" in name or "\r" in name]
    if spoilt or len(set(names)) != len(names):
        message = f"each row needs a name of its own that fits a line, got {(spoilt or sorted(names))[0]!r}"
        raise InputError(message)
    with replacing(features) as temporary, temporary.open("wb") as stream:
        np.save(stream, descriptors_nd, allow_pickle=False)
    write_text(index, "".join(f"{name} {row}\n" for row, name in enumerate(names)))


def read_feature_list(features: Path, index: Path) -> tuple[list[str], Descriptors]:
    """Names in the order of the rows, and descriptors (N, D), from the two files of `write_feature_list`.

    The lines may come in any order, as the published lists do, which were shuffled (method.md 4.2).

    Raises:
        InputError: Files that are missing or damaged, NaN, or rows and names that do not belong together.
    """
    try:
        loaded = np.load(features, allow_pickle=False)
        lines = index.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, EOFError) as error:
        message = f"cannot read the feature list {features} with {index}: {error}"
        raise InputError(message) from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, row = line.strip().rpartition(" ")
        if not name or not row.isdecimal() or int(row) in names:
            message = f"{index}, line {number}: expected a name and a row of its own, got {line[:80]!r}"
            raise InputError(message)
        names[int(row)] = name.strip()
    _check_features(str(features), loaded, len(names))
    if len(set(names.values())) != len(names) or any(row not in names for row in range(len(names))):
        message = f"{index} must name each of the {len(names)} rows of {features} once: it belongs to another file"
        raise InputError(message)
    return [names[row] for row in range(len(names))], loaded.astype(np.float32)


def _check_features(what: str, descriptors_nd: Descriptors, count: int) -> None:
    if descriptors_nd.ndim != 2 or descriptors_nd.dtype.kind != "f" or len(descriptors_nd) != count:
        message = (
            f"{what}: {count} names need {count} rows of floating point numbers, got {descriptors_nd.dtype} of shape "
            f"{descriptors_nd.shape}"
        )
        raise InputError(message)
    check_descriptors(what, descriptors_nd)


def _checksum(name: bytes, count: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(b"%s %d" % (name, count)))


def _add(path: Path, content: bytes) -> None:
    """Append, and wait until it is on the disk."""
    with path.open("ab", buffering=0) as stream:
        rest = memoryview(content)
        while rest:
            rest = rest[stream.write(rest) :]
        os.fsync(stream.fileno())


def _locked(path: Path) -> int:
    """Wait until no other process has the folder open; the lock ends with the process, however that ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform != "win32":
        import fcntl

        # a file system without locks serves one process as well
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
    return handle
