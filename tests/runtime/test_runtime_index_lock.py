"""One writer at a time: the second waits or is refused, and the lock goes with its holder."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepir.errors import IndexBusyError, InputError
from deepir.runtime.index_lock import IndexLock

HOLDER = """
import sys
from pathlib import Path
from deepir.runtime.index_lock import IndexLock
lock = IndexLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.usearch"


@contextmanager
def held_elsewhere(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock until a line comes."""
    words = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_second_writer_is_refused_with_the_first_ones_process(path: Path) -> None:
    with (
        held_elsewhere(path) as holder,
        pytest.raises(IndexBusyError, match=f"process {holder.pid}.*waited 0 sec") as info,
    ):
        IndexLock(path, wait=0)
    assert info.value.exit_code == 8


def test_a_second_writer_waits_until_the_first_is_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_elsewhere(path) as holder:
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                holder.communicate("done\n")

        monkeypatch.setattr("deepir.runtime.index_lock.time.sleep", pause)
        with IndexLock(path, wait=60):
            assert len(pauses) == 3


def test_the_lock_goes_when_its_holder_is_killed(path: Path) -> None:
    with held_elsewhere(path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        IndexLock(path, wait=0).close()


def test_a_program_that_holds_the_lock_itself_is_told_so(path: Path) -> None:
    with IndexLock(path), pytest.raises(IndexBusyError, match="is open for writing in this program already"):
        IndexLock(path, wait=0)


def test_the_lock_goes_with_an_object_that_is_dropped(path: Path) -> None:
    lock = IndexLock(path)
    del lock
    IndexLock(path, wait=0).close()


def test_a_closed_lock_can_be_closed_again(path: Path) -> None:
    lock = IndexLock(path)
    lock.close()
    lock.close()


def test_a_missing_folder_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*missing.*No such file or directory"):
        IndexLock(tmp_path / "missing" / "shop.usearch")


def failing(number: int) -> Callable[..., None]:
    def call(*words: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_full_disk_does_not_keep_anybody_from_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    IndexLock(path).close()
    IndexLock(path, wait=0).close()


def test_a_disk_without_locks_is_named_and_nothing_stays_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", failing(errno.ENOLCK))
        with pytest.raises(InputError, match=r"cannot lock .*No locks available"):
            IndexLock(path)
    IndexLock(path, wait=0).close()
