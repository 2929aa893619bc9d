"""Power cuts on a disk that forgets what was not flushed: a model of one, because a test cannot pull the plug.

At each call to the system the folder is made anew as the disk may hold it: names as they were after any change since
the folder was flushed last, and the bytes of each file as they were flushed last, as they are now, or zero where new.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of

Rows = Callable[..., NDArray[np.float32]]

Held = dict[int, tuple[str, str]]

CALLS = ("open", "pwrite", "ftruncate", "fsync", "replace", "link", "unlink")


def held(index: Index) -> Held:
    return {item.key: (item.label, item.source) for item in index.items()}


class Disk:
    """Watches a folder, and checks after each call what a power cut would leave."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self.allowed: list[Held] = []
        self.checked: set[frozenset[tuple[str, bytes]]] = set()
        self._numbers = itertools.count()
        self._open = os.open
        self._flushed: dict[int, bytes] = {}
        self._handles: dict[int, int] = {}
        self._names: list[dict[str, int]] = []
        self.look()
        self.flush(self.folder.stat().st_ino)

    def look(self) -> None:
        """Note the names as they are now."""
        names = {}
        for entry in os.scandir(self.folder):
            if entry.inode() not in self._handles:
                # an open file keeps its inode, which then names no other file later
                self._handles[entry.inode()] = self._open(entry.path, os.O_RDONLY)
            names[entry.name] = entry.inode()
        if not self._names or names != self._names[-1]:
            self._names.append(names)

    def flush(self, inode: int) -> None:
        """Keep the names or the bytes as they are now."""
        if inode == self.folder.stat().st_ino:
            del self._names[:-1]
        else:
            self._flushed[inode] = self._now(inode)

    def cut(self) -> None:
        """Open what a power cut at this moment may leave."""
        for names in self._names:
            for bytes_of in (lambda inode: self._flushed.get(inode, b""), self._now, self._zeroed):
                self._check({name: bytes_of(inode) for name, inode in names.items() if not name.endswith(".lock")})

    def close(self) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def _now(self, inode: int) -> bytes:
        handle = self._handles[inode]
        return os.pread(handle, os.fstat(handle).st_size, 0)

    def _zeroed(self, inode: int) -> bytes:
        flushed, now = self._flushed.get(inode, b""), self._now(inode)
        return flushed + bytes(len(now) - len(flushed)) if len(flushed) < len(now) else now

    def _check(self, files: dict[str, bytes]) -> None:
        seen = frozenset(files.items())
        if seen in self.checked:
            return
        self.checked.add(seen)
        folder = self.scratch / str(next(self._numbers))
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        assert held(Index.open(folder / self.path.name)) in self.allowed
        if (past := backup_of(folder / self.path.name)).exists():
            Index.open(past)

    @property
    def path(self) -> Path:
        return self.folder / "shop.usearch"


@pytest.fixture
def disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_card: Callable[..., ModelCard], unit_rows: Rows
) -> Iterator[Disk]:
    """An index that was saved once, on a disk that is watched from now on."""
    folder, scratch = tmp_path / "index", tmp_path / "after"
    folder.mkdir()
    scratch.mkdir()
    model = tmp_path / "model.onnx"
    model.write_bytes(b"only its hash matters")
    index = Index.create(make_card(), model)
    index.add("cup", unit_rows(np.random.default_rng(1), 3), ["1.jpg", "2.jpg", "3.jpg"])
    index.save(folder / "shop.usearch")
    disk = Disk(folder, scratch)
    for entry in os.scandir(folder):
        disk.flush(entry.inode())
    disk.allowed = [held(index)]
    checking = False

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*words: Any, **options: Any) -> Any:
            nonlocal checking
            if checking:
                return call(*words, **options)
            answer = None if name == "fsync" else call(*words, **options)
            checking = True
            disk.look()
            if name == "fsync":
                disk.flush(os.fstat(words[0]).st_ino)
            disk.cut()
            checking = False
            return answer

        return wrapped

    for name in CALLS:
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    yield disk
    disk.close()


def live(disk: Disk, steps: list[Callable[[Index, Held], object]]) -> None:
    """Change the index; a power cut within a step may leave the state before or after it, one after it only that."""
    with Index.open(disk.path, write=True) as index:
        for step in steps:
            after = dict(disk.allowed[-1])
            change = step(index, after)
            disk.allowed.append(after)
            assert callable(change)
            change()
            disk.allowed = [after]
            disk.checked.clear()
            disk.look()
            disk.cut()


def adding(label: str, first: int, rows_nd: NDArray[np.float32]) -> Callable[[Index, Held], object]:
    def step(index: Index, views: Held) -> object:
        sources = [f"{key}.jpg" for key in range(first, first + len(rows_nd))]
        views.update({first + row: (label, source) for row, source in enumerate(sources)})
        return lambda: index.add(label, rows_nd, sources)

    return step


def removing(keys: list[int]) -> Callable[[Index, Held], object]:
    def step(index: Index, views: Held) -> object:
        for key in keys:
            del views[key]
        return lambda: index.remove(keys)

    return step


def saving(index: Index, views: Held) -> object:
    return index.save


def compacting(index: Index, views: Held) -> object:
    return index.compact


def test_a_power_cut_among_changes_loses_nothing_acknowledged(
    disk: Disk, rng: np.random.Generator, unit_rows: Rows
) -> None:
    live(disk, [adding("cup", 4, unit_rows(rng, 2)), removing([1, 4]), adding("plate", 6, unit_rows(rng, 900))])


def test_a_power_cut_among_saves_loses_nothing_acknowledged(
    disk: Disk, rng: np.random.Generator, unit_rows: Rows
) -> None:
    live(disk, [adding("cup", 4, unit_rows(rng, 1)), saving, saving, adding("plate", 5, unit_rows(rng, 1)), saving])


def test_a_power_cut_while_an_index_is_compacted_loses_nothing_acknowledged(
    disk: Disk, rng: np.random.Generator, unit_rows: Rows
) -> None:
    live(disk, [removing([2]), saving, adding("plate", 4, unit_rows(rng, 1)), compacting, removing([1])])
