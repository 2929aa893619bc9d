"""The journal alone: what was appended comes back, and what fails or is cut off leaves the rest as it was."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.errors import IndexFileError, InputError
from deepir.runtime.journal import NEW, Journal, Place, journal_of, read_journal

DIGEST = "ab" * 32
HEADER = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.usearch.journal"


def append(path: Path, *records: bytes) -> None:
    """As a program does that opens the journal, appends, and closes it."""
    with Journal(path, DIGEST, read_journal(path).place) as journal:
        for record in records:
            journal.append(record)


def records_of(path: Path) -> list[bytes]:
    return list(read_journal(path).records)


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool = False) -> None:
    """Let the next call of this name fail, before or after it did its work."""
    call: Callable[..., object] = getattr(os, name)

    def once(*words: object) -> object:
        monkeypatch.setattr(os, name, call)
        if after:
            call(*words)
        raise error

    monkeypatch.setattr(os, name, once)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@settings(max_examples=30, deadline=None)
@given(lives=st.lists(st.lists(st.binary(max_size=300), max_size=4), max_size=4))
def test_records_come_back_in_order_whoever_appended_them(
    lives: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = journal_of(tmp_path_factory.mktemp("journal") / "shop.usearch")
    for records in lives:
        append(path, *records)
    assert records_of(path) == [record for records in lives for record in records]


def test_it_names_the_index_that_it_continues(path: Path) -> None:
    append(path, b"one")
    assert read_journal(path).continues == DIGEST


def test_no_file_is_an_empty_journal(path: Path) -> None:
    assert (records_of(path), read_journal(path).continues, read_journal(path).place) == ([], "", NEW)


def test_a_journal_begins_anew_where_it_is_told_so(path: Path) -> None:
    append(path, b"one", b"two")
    with Journal(path, "cd" * 32) as journal:
        journal.append(b"three")
    assert (records_of(path), read_journal(path).continues) == ([b"three"], "cd" * 32)


def test_the_writer_and_the_reader_know_the_same_place(path: Path) -> None:
    with Journal(path, DIGEST) as journal:
        for record in (b"one", b"", b"three"):
            journal.append(record)
            assert read_journal(path).place == journal.place


def test_two_journals_of_the_same_length_have_different_places(path: Path, tmp_path: Path) -> None:
    append(path, b"one", b"two")
    append(tmp_path / "other", b"six", b"two")
    place, other = read_journal(path).place, read_journal(tmp_path / "other").place
    assert place.end == other.end
    assert str(place) != str(other)


def test_a_journal_without_records_has_no_name() -> None:
    assert (str(NEW), str(Place(HEADER, 1))) == ("", "")


def killed_within(path: Path, record: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The bytes of a journal whose last record was never acknowledged."""
    failing(KeyboardInterrupt(), monkeypatch, "fsync", after=True)
    with pytest.raises(KeyboardInterrupt):
        append(path, record)
    return path.read_bytes()


def test_a_record_that_was_being_written_is_dropped_wherever_it_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, b"first")
    end = read_journal(path).place.end
    content = killed_within(path, b"never acknowledged" * 3, monkeypatch)
    for length in range(end, len(content)):
        path.write_bytes(content[:length])
        assert records_of(path) == [b"first"]
        append(path, b"second")
        assert records_of(path) == [b"first", b"second"]
    path.write_bytes(content[:-20] + bytes(20))
    assert records_of(path) == [b"first"]


def test_a_record_is_kept_whose_writer_was_killed_just_before_it_said_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, b"first")
    path.write_bytes(killed_within(path, b"whole", monkeypatch))
    assert records_of(path) == [b"first", b"whole"]


def test_an_acknowledged_record_that_is_cut_off_is_refused(path: Path) -> None:
    append(path, b"first", b"second")
    content = path.read_bytes()
    for missing in range(1, len(b"second") + 15):
        path.write_bytes(content[:-missing])
        with pytest.raises(IndexFileError, match="is damaged at byte"):
            read_journal(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, HEADER - 1, HEADER])
def test_a_journal_whose_first_bytes_were_being_written_is_empty_and_can_be_continued(length: int, path: Path) -> None:
    append(path, b"first")
    path.write_bytes(path.read_bytes()[:length])
    assert records_of(path) == []
    append(path, b"second")
    assert records_of(path) == [b"second"]


@pytest.mark.parametrize("zeros", [1, 19, 20, 21, 8192])
def test_zeros_behind_the_records_are_no_damage_and_go_with_the_next_record(zeros: int, path: Path) -> None:
    append(path, b"first")
    path.write_bytes(path.read_bytes() + bytes(zeros))
    assert records_of(path) == [b"first"]
    append(path, b"second")
    assert records_of(path) == [b"first", b"second"]


@pytest.mark.parametrize(
    ("name", "before"), [("pwrite", 0), ("ftruncate", 0), ("pwrite", 2), ("ftruncate", 2), ("fsync", 2)]
)
def test_what_cannot_be_written_changes_nothing_and_can_be_tried_again(
    name: str, before: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path, DIGEST) as journal:
        for _ in range(before):
            journal.append(b"before")
        failing(full(), monkeypatch, name)
        with pytest.raises(InputError, match="No space left on device; nothing was changed"):
            journal.append(b"lost")
        assert records_of(path) == [b"before"] * before
        journal.append(b"after")
    assert records_of(path) == [b"before"] * before + [b"after"]


@pytest.mark.parametrize("name", ["pwrite", "fsync"])
def test_ctrl_c_within_a_long_record_does_not_harm_the_short_one_after_it(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path, DIGEST) as journal:
        journal.append(b"first")
        failing(KeyboardInterrupt(), monkeypatch, name, after=True)
        with pytest.raises(KeyboardInterrupt):
            journal.append(b"long" * 100)
        journal.append(b"short")
    assert records_of(path) == [b"first", b"short"]


def test_a_record_is_flushed_before_it_is_acknowledged_and_marked_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> None:
        call: Callable[..., object] = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *words: (calls.append(name), call(*words))[1])

    with Journal(path, DIGEST) as journal:
        journal.append(b"first")
        for name in ("pwrite", "fsync"):
            noted(name)
        journal.append(b"second")
    assert calls == ["pwrite", "fsync", "pwrite"]


def test_a_folder_in_place_of_a_journal_is_refused_with_its_name(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*shop.usearch.journal: Is a directory"):
        read_journal(path)
    with pytest.raises(InputError, match=r"cannot write .*shop.usearch.journal: Is a directory"):
        Journal(path, DIGEST).append(b"one")


def test_a_file_of_another_kind_is_refused(path: Path) -> None:
    path.write_bytes(b"something else altogether")
    with pytest.raises(IndexFileError, match="is damaged at byte 0"):
        read_journal(path)
