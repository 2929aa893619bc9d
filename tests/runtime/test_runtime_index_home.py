"""What an index does with its file, its journal and the generation before, also where a step of it fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir import files
from deepir.card import ModelCard
from deepir.errors import IndexFileError, InputError, OptionError
from deepir.runtime.index import Index
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_file import backup_of
from deepir.runtime.journal import journal_of

Rows = Callable[..., NDArray[np.float32]]


@pytest.fixture
def created(tmp_path: Path, make_card: Callable[..., ModelCard], rng: np.random.Generator, unit_rows: Rows) -> Index:
    """An index of six views, saved once by the program that made it."""
    (tmp_path / "model.onnx").write_bytes(b"only its hash matters")
    index = Index.create(make_card(), tmp_path / "model.onnx")
    for label in ("brand/cup", "brand/plate"):
        index.add(label, unit_rows(rng, 3), ["1.jpg", "2.jpg", "3.jpg"])
    index.save(tmp_path / "shop.usearch")
    return index


@pytest.fixture
def path(created: Index) -> Path:
    assert created.path is not None
    return created.path


def failing(*words: object, **options: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_the_generation_before_keeps_its_journal_however_often_the_index_is_opened(path: Path) -> None:
    with Index.open(path, write=True) as index:
        index.remove("brand/cup")
        index.save()
    for _ in range(2):
        Index.open(path, write=True).close()
    assert Index.open(backup_of(path)).labels == {"brand/plate": 3}


def test_a_journal_that_was_only_begun_does_not_take_the_place_of_the_one_before(path: Path) -> None:
    with Index.open(path, write=True) as index:
        index.remove("brand/cup")
        index.save()
    journal_of(path).write_bytes(b"DEEP")
    with Index.open(path, write=True) as index:
        index.relabel("brand/plate", "dish")
    assert Index.open(path).labels == {"dish": 3}
    assert Index.open(backup_of(path)).labels == {"brand/plate": 3}


def test_each_save_leaves_the_generation_before_as_it_was_at_the_end(path: Path) -> None:
    with Index.open(path, write=True) as index:
        for number in range(3):
            index.relabel("brand/cup" if not number else f"brand/cup{number - 1}", f"brand/cup{number}")
            before = index.labels
            index.save()
            index.set(margin=number / 10)
            assert (Index.open(backup_of(path)).labels, Index.open(path).generation) == (before, number + 2)


def test_a_program_that_made_an_index_does_not_overwrite_what_others_have_changed(created: Index, path: Path) -> None:
    with Index.open(path, write=True) as other:
        other.remove("brand/cup")
    with pytest.raises(IndexFileError, match="was changed by another program since"):
        created.save()
    with Index.open(path, write=True) as other:
        other.save()
    with pytest.raises(IndexFileError, match="was changed by another program since"):
        created.save()
    assert Index.open(path).labels == {"brand/plate": 3}


def test_a_writer_does_not_overwrite_a_file_that_was_put_in_the_place_of_its_own(
    created: Index, path: Path, tmp_path: Path
) -> None:
    created.remove("brand/plate")
    created.save(tmp_path / "other.usearch")
    with Index.open(path, write=True) as index:
        (tmp_path / "other.usearch").replace(path)
        with pytest.raises(IndexFileError, match="was changed by another program since"):
            index.save()
    assert Index.open(path).labels == {"brand/cup": 3}


def test_a_copy_saved_elsewhere_changes_nothing_here(path: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    with Index.open(path, write=True) as index:
        index.remove("brand/cup")
        model, pending = index.model, index.pending
        index.save(tmp_path / "copies" / "copy.usearch")
        assert (index.model, index.generation, index.pending, index.path) == (model, 1, pending, path)
        index.relabel("brand/plate", "dish")
    assert Index.open(path).labels == {"dish": 3}
    assert Index.open(tmp_path / "copies" / "copy.usearch").labels == {"brand/plate": 3}


def test_a_branch_is_relabelled_as_a_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = []
    monkeypatch.setattr(os, "fsync", flushes.append)
    with Index.open(path, write=True) as index:
        index.set(margin=0.1)
        flushes.clear()
        assert index.relabel("brand/", "kitchen/") == 6
    assert len(flushes) == 1
    assert Index.open(path).labels == {"kitchen/cup": 3, "kitchen/plate": 3}


def test_an_index_that_was_interrupted_between_the_disk_and_the_memory_is_changed_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, unit_rows: Rows
) -> None:
    def interrupted(self: Contents, change: object) -> None:
        raise KeyboardInterrupt

    index = Index.open(path, write=True)
    with monkeypatch.context() as patch:
        patch.setattr(Contents, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add("fork", unit_rows(rng, 1), ["1.jpg"])
    with pytest.raises(OptionError, match="open it with write=True"):
        index.add("fork", unit_rows(rng, 1), ["1.jpg"])
    with Index.open(path, write=True, wait=0) as again:
        assert again.labels["fork"] == 1
        assert again.add("fork", unit_rows(rng, 1), ["1.jpg"]) == [8]


def test_a_folder_that_cannot_be_flushed_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = files._flush
    monkeypatch.setattr(files, "_flush", lambda place: failing() if place.is_dir() else flush(place))
    with Index.open(path, write=True) as index:
        index.remove("brand/cup")
        index.save()
        index.relabel("brand/plate", "dish")
        index.compact()
    assert Index.open(path).labels == {"dish": 3}


def test_a_journal_that_cannot_be_put_aside_is_told_and_later_changes_are_safe(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def refusing(source: Path, target: Path) -> None:
        replace(source, target) if source != journal_of(path) else failing()

    with Index.open(path, write=True) as index:
        index.remove("brand/cup")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refusing)
            with pytest.raises(InputError, match="but cannot rename"):
                index.save()
        assert Index.open(path).labels == {"brand/plate": 3}
        index.relabel("brand/plate", "dish")
    assert (Index.open(path).labels, Index.open(path).generation) == ({"dish": 3}, 2)


def test_an_index_that_cannot_be_opened_does_not_stay_locked(path: Path) -> None:
    with Index.open(path, write=True) as index:
        index.remove("brand/cup")
    journal_of(path).write_bytes(journal_of(path).read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(IndexFileError, match="is damaged at byte 40"):
            Index.open(path, write=True, wait=0)


def test_an_index_that_is_dropped_without_an_end_gives_its_lock_back(path: Path) -> None:
    index = Index.open(path, write=True)
    index.remove("brand/cup")
    del index
    with Index.open(path, write=True, wait=0) as again:
        assert again.labels == {"brand/plate": 3}


def test_a_save_removes_what_a_killed_one_left_and_nothing_of_other_indexes(path: Path) -> None:
    ours = [path.with_name(f".{name}.0123abcd.part") for name in (path.name, backup_of(path).name)]
    others = [path.with_name(name) for name in (".shop.usearch.other.0123abcd.part", ".shop.0123abcd.part", "a.part")]
    for file in (*ours, *others):
        file.write_bytes(b"half")
    with Index.open(path, write=True) as index:
        index.save()
    assert not any(file.exists() for file in ours)
    assert all(file.exists() for file in others)


def test_a_file_system_without_second_names_keeps_a_copy_of_the_generation_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing)
    before = path.read_bytes()
    with Index.open(path, write=True) as index:
        index.save()
    assert backup_of(path).read_bytes() == before
    assert path.read_bytes() != before


def test_the_permissions_of_the_file_stay_when_it_becomes_the_generation_before(path: Path) -> None:
    path.chmod(0o600)
    with Index.open(path, write=True) as index:
        index.save()
    assert backup_of(path).stat().st_mode & 0o777 == 0o600
