"""A store of targets survives kills, full disks and mixed-up files; feature lists of other tools come back."""

import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepir.distill.targets import TargetStore, read_feature_list, write_feature_list
from deepir.errors import InputError, ShapeError

FileSizeLimit = Callable[[int], AbstractContextManager[None]]

DIM = 3
KEYS = [f"{number:064x}#{number}" for number in range(6)]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of small stores are written here, and a busy disk can take a second for each flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


RECORDS = [rows(count, seed) for seed, count in enumerate((1, 4, 0, 2, 3, 1))]


def fill(folder: Path, count: int = len(KEYS)) -> Path:
    """A store with the first records, in three pieces."""
    with TargetStore(folder, DIM) as store:
        for start in range(0, count, 2):
            end = min(start + 2, count)
            store.append(KEYS[start:end], RECORDS[start:end])
    return folder


def kept(folder: Path) -> list[str]:
    """The keys that a store still has; each must have its own rows."""
    with TargetStore(folder, DIM) as store:
        found = [key for key in KEYS if key in store]
        for key, record in zip(found, store.gather(found), strict=True):
            np.testing.assert_array_equal(record, RECORDS[KEYS.index(key)])
    return found


def test_rows_of_any_number_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    fill(tmp_path)
    with TargetStore(tmp_path, DIM) as store:
        for number, record in zip((3, 0, 2, 3), store.gather([KEYS[number] for number in (3, 0, 2, 3)]), strict=True):
            np.testing.assert_array_equal(record, RECORDS[number])
        assert "another" not in store


def test_rows_are_mapped_not_read_and_outlive_the_store(tmp_path: Path) -> None:
    fill(tmp_path)
    with TargetStore(tmp_path, DIM) as store:
        record = store.gather([KEYS[1]])[0]
        assert not record.flags.owndata
        assert not record.flags.writeable
        store.append(["later"], [rows(50)])
    np.testing.assert_array_equal(record, RECORDS[1])


def test_an_empty_store_has_nothing_and_gives_nothing(tmp_path: Path) -> None:
    with TargetStore(tmp_path / "a" / "b", DIM) as store:
        assert store.gather([]) == []
        store.append([], [])
    with TargetStore(tmp_path / "a" / "b", DIM) as store:
        assert KEYS[0] not in store


def test_a_store_killed_at_any_byte_goes_on_from_its_last_whole_record(tmp_path: Path) -> None:
    """Rows are written before their lines, so a kill cuts one file of the last piece or the other."""
    fill(tmp_path / "before", 4)
    fill(tmp_path / "after", 6)
    files = {
        name: [(tmp_path / when / name).read_bytes() for when in ("before", "after")]
        for name in ("rows.f32", "index.txt")
    }
    (rows_before, rows_after), (index_before, index_after) = files["rows.f32"], files["index.txt"]
    cuts = [(rows_after[:end], index_before) for end in range(len(rows_before), len(rows_after) + 1)]
    cuts += [(rows_after, index_after[:end]) for end in range(len(index_before), len(index_after) + 1)]
    folder = tmp_path / "killed"
    folder.mkdir()
    for values, index in cuts:
        (folder / "rows.f32").write_bytes(values)
        (folder / "index.txt").write_bytes(index)
        whole = 4 + index[len(index_before) :].count(b"\n")
        assert kept(folder) == KEYS[:whole]
        with TargetStore(folder, DIM) as store:
            store.append(KEYS[whole:], RECORDS[whole:])
        assert kept(folder) == KEYS
        assert (folder / "rows.f32").read_bytes() == rows_after
        assert (folder / "index.txt").read_bytes() == index_after


def test_a_store_killed_while_its_first_line_was_written_starts_anew(tmp_path: Path) -> None:
    whole = (fill(tmp_path / "whole", 0) / "index.txt").read_bytes()
    for end in range(len(whole)):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / "index.txt").write_bytes(whole[:end])
        assert kept(fill(folder)) == KEYS


@given(values=st.integers(0, 200), index=st.integers(0, 700))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_cut_anywhere_never_give_wrong_rows(tmp_path: Path, values: int, index: int) -> None:
    folder = fill(tmp_path / "store")
    for name, end in (("rows.f32", values), ("index.txt", index)):
        path = folder / name
        path.write_bytes(path.read_bytes()[:end])
    found = kept(folder)
    assert found == KEYS[: len(found)]
    assert kept(fill(folder)) == KEYS


@given(place=st.integers(0, 10_000), mask=st.integers(1, 255), file=st.sampled_from(["rows.f32", "index.txt"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_never_gives_wrong_rows(tmp_path: Path, place: int, mask: int, file: str) -> None:
    folder = tmp_path / "store"
    for name in ("rows.f32", "index.txt"):
        (folder / name).unlink(missing_ok=True)
    path = fill(folder) / file
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= mask
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        # a key that changed is only missing; all that is found is right, or refused
        kept(folder)


def test_rows_that_do_not_belong_to_their_names_are_refused(tmp_path: Path) -> None:
    path = fill(tmp_path) / "rows.f32"
    values = np.fromfile(path, "<f4").reshape(-1, DIM)
    values[[0, 1]] = values[[1, 0]]
    values.tofile(path)
    with (
        TargetStore(tmp_path, DIM) as store,
        pytest.raises(InputError, match=r"do not belong together.*delete this folder"),
    ):
        store.gather(KEYS)


def test_lines_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    path = fill(tmp_path) / "index.txt"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(InputError, match="do not belong together"), TargetStore(tmp_path, DIM):
        pass


def test_names_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    path = fill(tmp_path) / "index.txt"
    first, second = KEYS[0].encode(), KEYS[5].encode()
    path.write_bytes(path.read_bytes().replace(first, b"x").replace(second, first).replace(b"x", second))
    with TargetStore(tmp_path, DIM) as store, pytest.raises(InputError, match="do not belong together"):
        store.gather(KEYS[:1])


def test_a_line_that_claims_too_many_rows_does_not_cut_off_the_others(tmp_path: Path) -> None:
    path = fill(tmp_path) / "index.txt"
    before = path.read_bytes()
    path.write_bytes(before.replace(f"{KEYS[1]} 1 4 ".encode(), f"{KEYS[1]} 1 9 ".encode()))
    size = (tmp_path / "rows.f32").stat().st_size
    with pytest.raises(InputError, match="delete this folder"), TargetStore(tmp_path, DIM):
        pass
    assert (tmp_path / "rows.f32").stat().st_size == size


@pytest.mark.parametrize("text", [b"\n", b"hello\n", b"deepir.targets/1 x\n", b"\xff\xfe\n", b"deepir.targets/2 3\n"])
def test_a_foreign_index_is_refused_and_left_alone(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "index.txt").write_bytes(text)
    with pytest.raises(InputError, match="damaged"), TargetStore(tmp_path, DIM):
        pass
    assert (tmp_path / "index.txt").read_bytes() == text


def test_another_dimension_is_refused_in_one_sentence(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(InputError, match="have 3 values and this teacher gives 5"), TargetStore(tmp_path, 5):
        pass
    with TargetStore(tmp_path, DIM) as store, pytest.raises(InputError, match=r"rows of 3 values, got .* \(2, 5\)"):
        store.append(["key"], [np.zeros((2, 5), np.float32)])
    assert kept(tmp_path) == KEYS


@pytest.mark.parametrize("spare", range(0, 130, 13))
def test_a_full_disk_leaves_what_was_there(file_size_limit: FileSizeLimit, tmp_path: Path, spare: int) -> None:
    fill(tmp_path, 2)
    limit = (tmp_path / "index.txt").stat().st_size + spare
    with TargetStore(tmp_path, DIM) as store:
        with file_size_limit(limit), pytest.raises(OSError, match="File too large"):
            store.append(KEYS[2:4], [RECORDS[2], rows(3 * limit // 12)])
        assert KEYS[2] not in store
        store.append(KEYS[2:], RECORDS[2:])
    assert kept(tmp_path) == KEYS


def write_for_ever(folder: Path, written: int) -> None:
    """Append records until killed, and say so in a pipe after each."""
    with TargetStore(folder, DIM) as store:
        for number in itertools.count():
            store.append([f"{number}"], [np.full((number % 5, DIM), number, np.float32)])
            os.write(written, b".")


def test_a_process_killed_while_it_writes_is_survived(tmp_path: Path) -> None:
    read, written = os.pipe()
    # a fork, since a new interpreter would spend seconds on importing torch
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path, written))
    writer.start()
    os.close(written)
    with os.fdopen(read, "rb") as pipe:
        done = len(pipe.read(30))
        writer.kill()
        done += len(pipe.read())
    writer.join()
    assert done >= 30
    with TargetStore(tmp_path, DIM) as store:
        for number, record in enumerate(store.gather([str(number) for number in range(done)])):
            np.testing.assert_array_equal(record, np.full((number % 5, DIM), number))


def test_a_second_process_waits_until_the_first_has_left(tmp_path: Path) -> None:
    seen: list[bool] = []
    entering = threading.Event()

    def second() -> None:
        entering.set()
        with TargetStore(tmp_path, DIM) as store:
            seen.append(KEYS[0] in store)

    with TargetStore(tmp_path, DIM) as store:
        thread = threading.Thread(target=second)
        thread.start()
        entering.wait()
        store.append(KEYS[:1], RECORDS[:1])
        assert not seen
    thread.join(timeout=30)
    assert seen == [True]


def test_a_store_that_could_not_be_opened_is_left_unlocked(tmp_path: Path) -> None:
    (tmp_path / "index.txt").write_bytes(b"foreign\n")
    handles = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(InputError), TargetStore(tmp_path, DIM):
            pass
    assert len(os.listdir("/proc/self/fd")) == handles


NAMES = ["a.jpg", "two words.jpg", "ünï.png"]


def write_list(folder: Path) -> tuple[Path, Path]:
    paths = folder / "features.npy", folder / "index.txt"
    write_feature_list(*paths, NAMES, rows(3))
    return paths


def test_a_feature_list_comes_back_and_is_plain_numpy_and_text(tmp_path: Path) -> None:
    features, index = write_list(tmp_path)
    names, descriptors_nd = read_feature_list(features, index)
    assert names == NAMES
    np.testing.assert_array_equal(descriptors_nd, rows(3))
    np.testing.assert_array_equal(np.load(features), rows(3))
    assert index.read_text(encoding="utf-8").splitlines() == ["a.jpg 0", "two words.jpg 1", "ünï.png 2"]


def test_a_shuffled_list_gives_each_name_its_row(tmp_path: Path) -> None:
    features, index = write_list(tmp_path)
    index.write_text("c.jpg 2\nb.jpg 1\na.jpg 0\n")
    names, descriptors_nd = read_feature_list(features, index)
    assert names == ["a.jpg", "b.jpg", "c.jpg"]
    np.testing.assert_array_equal(descriptors_nd, rows(3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 0\nb 1\n", "2 names need 2 rows"),
        ("a 0\nb 1\nc 2\nd 3\n", "4 names need 4 rows"),
        ("a 0\nb 1\nc 3\n", "name each of the 3 rows"),
        ("a 0\nb 1\na 2\n", "name each of the 3 rows"),
        ("a 0\nb 1\nc 1\n", "line 3"),
        ("a 0\nb\nc 2\n", "line 2"),
        ("a 0\nb x\nc 2\n", "line 2"),
        ("a 0\nb -1\nc 2\n", "line 2"),
        ("", "0 names need 0 rows"),
    ],
)
def test_rows_and_names_that_do_not_fit_are_refused(tmp_path: Path, text: str, words: str) -> None:
    features, index = write_list(tmp_path)
    index.write_text(text)
    with pytest.raises(InputError, match=words):
        read_feature_list(features, index)


@pytest.mark.parametrize("end", [0, 5, 60, -3])
def test_a_truncated_feature_file_is_refused(tmp_path: Path, end: int) -> None:
    features, index = write_list(tmp_path)
    features.write_bytes(features.read_bytes()[:end])
    with pytest.raises(InputError, match="cannot read the feature list"):
        read_feature_list(features, index)


def test_missing_foreign_and_damaged_features_are_refused(tmp_path: Path) -> None:
    features, index = write_list(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_feature_list(tmp_path / "missing.npy", index)
    with pytest.raises(InputError, match="cannot read"):
        read_feature_list(features, tmp_path / "missing.txt")
    for array in (np.zeros(3), np.zeros((3, 2), np.int64), np.float32(1)):
        np.save(features, array)
        with pytest.raises(InputError, match="3 names need 3 rows"):
            read_feature_list(features, index)
    np.save(features, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read"):
        read_feature_list(features, index)
    np.save(features, np.full((3, 2), np.nan, np.float32))
    with pytest.raises(ShapeError, match="NaN"):
        read_feature_list(features, index)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "a"], ["a", "b", ""], ["a", "b", "c\nd"], ["a", "b", " c"]])
def test_names_that_would_not_come_back_are_not_written(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InputError):
        write_feature_list(tmp_path / "f.npy", tmp_path / "i.txt", names, rows(3))
    assert not list(tmp_path.iterdir())
