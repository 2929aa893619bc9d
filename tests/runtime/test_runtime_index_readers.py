"""Readers of an index while others write it: never disturbed, never behind what was acknowledged before they began."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import IndexBusyError, IndexFileError
from deepir.runtime import index_file
from deepir.runtime.index import Index
from deepir.runtime.journal import journal_of

Rows = Callable[..., NDArray[np.float32]]

DRIVER = Path(__file__).with_name("swap_index.py")
SWAPS = 1000


@pytest.fixture
def rows_nd(rng: np.random.Generator, unit_rows: Rows) -> NDArray[np.float32]:
    return unit_rows(rng, 8)


@pytest.fixture
def path(tmp_path: Path, make_card: Callable[..., ModelCard], rows_nd: NDArray[np.float32]) -> Path:
    """An index of six views."""
    (tmp_path / "model.onnx").write_bytes(b"only its hash matters")
    index = Index.create(make_card(), tmp_path / "model.onnx")
    for label, rows in (("cup", rows_nd[:3]), ("plate", rows_nd[3:6])):
        index.add(label, rows, ["1.jpg", "2.jpg", "3.jpg"])
    index.save(tmp_path / "shop.usearch")
    return tmp_path / "shop.usearch"


def test_a_thousand_replacements_disturb_no_reader_that_has_the_file_mapped(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), str(SWAPS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    assert json.loads(done.stdout)["opened"] > 20


def test_a_program_that_writes_over_a_small_file_in_place_disturbs_no_reader(
    path: Path, rows_nd: NDArray[np.float32]
) -> None:
    index = Index.open(path)
    before = [index.search(row, 6) for row in rows_nd]
    with path.open("r+b") as stream:
        stream.write(bytes(path.stat().st_size))
        stream.truncate(10)
    assert [index.search(row, 6) for row in rows_nd] == before


@pytest.mark.parametrize("dtype", ["i8", "f16", "f32", "b1"])
def test_an_index_in_a_mapped_file_answers_as_one_in_memory(
    dtype: str, tmp_path: Path, path: Path, rows_nd: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = Index.open(path)
    monkeypatch.setattr(index_file, "LARGE", 0)
    mapped = Index.open(path)
    assert list(mapped.items()) == list(in_memory.items())
    for count in (1, 3, 6):
        assert mapped.search_many(rows_nd, count) == in_memory.search_many(rows_nd, count)


def test_a_reader_sees_what_stands_in_the_journal(path: Path, rows_nd: NDArray[np.float32]) -> None:
    with Index.open(path, write=True) as writer:
        writer.add("fork", rows_nd[6:], ["1.jpg", "2.jpg"])
        reader = Index.open(path)
        assert (reader.labels, reader.pending) == ({"cup": 3, "fork": 2, "plate": 3}, 2)
        assert reader.search(rows_nd[7], 1) == writer.search(rows_nd[7], 1)
        writer.remove("fork")
        assert reader.labels["fork"] == 2


def test_a_second_writer_is_refused_and_the_first_goes_on(path: Path) -> None:
    with Index.open(path, write=True) as first:
        with pytest.raises(IndexBusyError) as info:
            Index.open(path, write=True, wait=0)
        assert info.value.exit_code == 8
        first.remove("cup")
    with Index.open(path, write=True, wait=0) as second:
        assert second.labels == {"plate": 3}


def test_a_second_writer_waits_for_the_first_and_sees_what_it_did(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Index.open(path, write=True)

    def pause(seconds: float) -> None:
        first.remove("cup")
        first.close()

    monkeypatch.setattr("deepir.runtime.index_lock.time.sleep", pause)
    with Index.open(path, write=True, wait=60) as second:
        assert second.labels == {"plate": 3}


def test_a_writer_through_a_link_is_the_writer_of_the_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "newest.usearch"
    link.symlink_to(path)
    with Index.open(link, write=True) as writer:
        writer.remove("cup")
        with pytest.raises(IndexBusyError):
            Index.open(path, write=True, wait=0)
        assert Index.open(path).labels == Index.open(link).labels == {"plate": 3}
        writer.save()
    assert link.is_symlink()
    assert os.listdir(link.parent) == [link.name]
    assert Index.open(path).generation == 2


def test_a_file_that_is_replaced_whenever_it_is_read_is_refused_in_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepir.runtime.index_load._identity", lambda path: (0, 0))
    with pytest.raises(IndexFileError, match="was replaced 20 times while it was read"):
        Index.open(path)


def test_a_reader_that_meets_a_save_halfway_reads_the_new_file_and_not_the_old_journal_twice(
    path: Path, rows_nd: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(path, write=True) as writer:
        writer.add("fork", rows_nd[6:], ["1.jpg", "2.jpg"])
        old_journal = journal_of(path).read_bytes()
        writer.save()
        expected = writer.labels
    journal_of(path).write_bytes(old_journal)
    assert Index.open(path).labels == expected
    with Index.open(path, write=True) as writer:
        assert writer.labels == expected
        assert not journal_of(path).exists()
