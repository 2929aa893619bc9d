"""Disks that are full or only readable: one sentence, exit code 3, and everything stays as it was."""

import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import DeepIRError, InputError, OptionError
from deepir.runtime.index import Index
from deepir.runtime.journal import journal_of

Rows = Callable[..., NDArray[np.float32]]
MakeIndex = Callable[[Path], Path]

NOBODY = 65534
SECONDS = 60


@pytest.fixture
def make_index(
    tmp_path: Path, make_card: Callable[..., ModelCard], rng: np.random.Generator, unit_rows: Rows
) -> MakeIndex:
    """Writes an index of 3 views, and 2 more in its journal, into a folder."""

    def make(folder: Path) -> Path:
        (tmp_path / "model.onnx").write_bytes(b"only its hash matters")
        index = Index.create(make_card(), tmp_path / "model.onnx")
        index.add("cup", unit_rows(rng, 3), ["1.jpg", "2.jpg", "3.jpg"])
        index.save(folder / "shop.usearch")
        with Index.open(folder / "shop.usearch", write=True) as writer:
            writer.add("plate", unit_rows(rng, 2), ["4.jpg", "5.jpg"])
        return folder / "shop.usearch"

    return make


@pytest.fixture
def path(tmp_path: Path, make_index: MakeIndex) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return make_index(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB; skips where none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)]
    with suppress(FileNotFoundError):
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    pytest.skip("a file system can be mounted by root alone")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every file that grows beyond this many bytes be a failure of the disk; Python ignores the signal for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(".lock")}


def same(index: Index, other: Index) -> bool:
    return list(index.items()) == list(other.items()) and bool((index.descriptors() == other.descriptors()).all())


@pytest.mark.parametrize("room", [0, 1, 19, 20, 100])
def test_a_change_that_the_disk_has_no_room_for_changes_nothing(
    room: int, path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    before = contents(path.parent)
    with Index.open(path, write=True) as index:
        held = list(index.items())
        with largest_file(journal_of(path).stat().st_size + room), pytest.raises(InputError) as info:
            index.add("fork", unit_rows(rng, 200), ["6.jpg"] * 200)
        assert info.value.exit_code == 3
        assert str(info.value).endswith("nothing was changed")
        assert contents(path.parent) == before
        assert list(index.items()) == held
        assert index.add("fork", unit_rows(rng, 1), ["6.jpg"]) == [6]
        assert same(Index.open(path), index)


def test_the_first_change_of_a_generation_can_be_tried_again_when_there_is_room(
    path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    with Index.open(path, write=True) as index:
        index.save()
        with largest_file(10), pytest.raises(InputError, match="nothing was changed"):
            index.remove("cup")
        index.remove("plate")
    assert Index.open(path).labels == {"cup": 3}


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_save_that_the_disk_has_no_room_for_leaves_the_file_the_journal_and_no_other(
    room: int, path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    with Index.open(path, write=True) as index:
        index.add("fork", unit_rows(rng, 300), ["6.jpg"] * 300)
        before = contents(path.parent)
        for write in (index.save, index.compact):
            with largest_file(room), pytest.raises(InputError, match="what was there stays: make room") as info:
                write()
            assert info.value.exit_code == 3
            assert contents(path.parent) == before
            assert same(Index.open(path), index)
        index.remove("cup")
        assert same(Index.open(path), index)
        index.save()
        assert (index.generation, index.pending) == (2, 0)
        assert same(Index.open(path), index)


def test_a_new_index_that_the_disk_has_no_room_for_leaves_nothing_and_can_be_saved_elsewhere(
    tmp_path: Path, make_card: Callable[..., ModelCard], model: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index.create(make_card(), model)
    index.add("cup", unit_rows(rng, 100), ["1.jpg"] * 100)
    with largest_file(500), pytest.raises(InputError):
        index.save(folder / "shop.usearch")
    assert contents(folder) == {}
    index.save(folder / "shop.usearch")
    assert len(Index.open(folder / "shop.usearch")) == 100


def test_on_a_full_disk_nothing_is_lost_and_room_is_all_it_needs(
    small_disk: Path, make_index: MakeIndex, rng: np.random.Generator, unit_rows: Rows
) -> None:
    path = make_index(small_disk)
    filler = small_disk / "filler"
    with Index.open(path, write=True) as index, filler.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))
    before = {name: content for name, content in contents(small_disk).items() if name != filler.name}
    with Index.open(path, write=True) as index:
        with pytest.raises(InputError, match="No space left on device; nothing was changed"):
            index.add("fork", unit_rows(rng, 1000), ["6.jpg"] * 1000)
        with pytest.raises(InputError, match="No space left on device; what was there stays"):
            index.save()
        assert {name: content for name, content in contents(small_disk).items() if name != filler.name} == before
        assert same(Index.open(path), index)
        filler.unlink()
        index.add("fork", unit_rows(rng, 1000), ["6.jpg"] * 1000)
        index.save()
        assert same(Index.open(path), index)


def as_nobody(action: Callable[[], object]) -> str:
    """What an action says, done by a process that may write only where anybody may; `done` when it raises nothing."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        signal.alarm(SECONDS)
        if not os.geteuid():
            os.setuid(NOBODY)
        try:
            action()
            answer = "done"
        except DeepIRError as error:
            answer = f"{error.exit_code} {error}"
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        answer = stream.read()
    os.waitpid(process, 0)
    return answer


@pytest.fixture
def read_only(make_index: MakeIndex) -> Iterator[Path]:
    """An index that all may read and nobody may change, in a folder that all may enter."""
    # the folders of pytest are for their owner alone
    with tempfile.TemporaryDirectory() as name:
        path = make_index(Path(name))
        for file in path.parent.iterdir():
            file.chmod(0o444)
        path.parent.chmod(0o555)
        yield path
        path.parent.chmod(0o755)


def test_an_index_that_may_only_be_read_is_read(read_only: Path) -> None:
    def read() -> None:
        index = Index.open(read_only)
        assert index.labels == {"cup": 3, "plate": 2}
        assert len(index.search(index.descriptors()[0], 2)) == 2

    assert as_nobody(read) == "done"


def test_an_index_that_may_only_be_read_is_not_opened_for_writing(read_only: Path) -> None:
    answer = as_nobody(lambda: Index.open(read_only, write=True))
    assert answer.startswith("3 cannot write ")
    assert "Permission denied; an index can be changed only where files can be written" in answer


def test_a_copy_is_not_saved_where_nothing_may_be_written(read_only: Path) -> None:
    before = contents(read_only.parent)
    answer = as_nobody(lambda: Index.open(read_only).save(read_only.with_name("copy.usearch")))
    assert answer.startswith("3 cannot write ")
    assert contents(read_only.parent) == before


def test_a_journal_that_may_only_be_read_is_named_and_nothing_changes(read_only: Path) -> None:
    def change() -> None:
        index = Index.open(read_only, write=True)
        try:
            index.remove("cup")
        finally:
            assert index.labels == {"cup": 3, "plate": 2}

    read_only.parent.chmod(0o777)
    read_only.with_name(f".{read_only.name}.lock").chmod(0o666)
    before = contents(read_only.parent)
    answer = as_nobody(change)
    assert answer.startswith(f"3 cannot write {journal_of(read_only)}: Permission denied; nothing was changed")
    assert contents(read_only.parent) == before


def test_an_index_that_may_not_be_read_is_named(read_only: Path) -> None:
    read_only.chmod(0)
    answer = as_nobody(lambda: Index.open(read_only))
    assert answer == f"3 cannot read the index {read_only}: Permission denied"


def test_an_index_opened_for_reading_is_neither_changed_nor_saved(path: Path) -> None:
    index = Index.open(path)
    for change in (lambda: index.remove("cup"), index.save, index.compact, lambda: index.set(margin=0.5)):
        with pytest.raises(OptionError, match="was opened for reading: open it with write=True"):
            change()
    assert same(Index.open(path), index)
