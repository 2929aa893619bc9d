"""Distractor descriptors on disk: read in chunks, appended to a database, damaged files refused."""

from pathlib import Path

import numpy as np
import pytest

from deepir.datasets import Query, RetrievalSet
from deepir.descriptors import normalise
from deepir.distractors import Distractors, open_distractors
from deepir.errors import InputError, ShapeError
from deepir.score import score

ROWS = normalise(np.random.default_rng(3).normal(size=(25, 6)).astype(np.float32))


def write(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_the_descriptors_of_a_file_come_in_chunks_as_often_as_asked(tmp_path: Path) -> None:
    opened = open_distractors(write(tmp_path / "flickr.npy", ROWS))
    distractors = Distractors(opened.files, opened.count, opened.dim, chunk=10)
    assert (len(distractors), distractors.dim) == (25, 6)
    for _ in range(2):
        assert [len(chunk) for chunk in distractors] == [10, 10, 5]
        np.testing.assert_array_equal(np.concatenate(list(distractors)), ROWS)


def test_the_files_of_a_folder_follow_each_other_by_name(tmp_path: Path) -> None:
    write(tmp_path / "b.npy", ROWS[:5])
    write(tmp_path / "a.npy", ROWS[5:])
    (tmp_path / "names.txt").write_text("not read")
    distractors = open_distractors(tmp_path, 6)
    assert len(distractors) == 25
    np.testing.assert_array_equal(np.concatenate(list(distractors)), np.concatenate([ROWS[5:], ROWS[:5]]))


@pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4"])
def test_every_float_becomes_float32(kind: str, tmp_path: Path) -> None:
    (chunk,) = open_distractors(write(tmp_path / "d.npy", ROWS.astype(kind)))
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(chunk, ROWS, atol=1e-3)


def test_appended_distractors_leave_the_junk_rules_as_they_are(tmp_path: Path) -> None:
    database = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    query = Query("q", Path("elsewhere"), frozenset({Path("2")}), frozenset({Path("0"), Path("1")}))
    task = RetrievalSet("toy", tuple(map(Path, "0123")), (query,))
    distractors = open_distractors(write(tmp_path / "d.npy", np.array([[1, 0], [0, 1]], np.float32)))
    queries = np.array([[1, 0]], np.float32)
    assert score(task, queries, database).average_precisions == (1.0,)
    # one of the two is more similar than the positive; junk still takes no rank
    assert score(task, queries, database, distractors=distractors).average_precisions == (0.25,)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent.npy: No such file"):
        open_distractors(tmp_path / "absent.npy")


def test_a_folder_without_descriptors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.npy files"):
        open_distractors(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.9])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "d.npy", ROWS)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"d.npy is truncated, empty or not a .npy file"):
        open_distractors(path)


@pytest.mark.parametrize("content", [b"not an array at all, only words", b"\x80\x04."])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"not a .npy file"):
        open_distractors(tmp_path / "d.npy")


def test_python_objects_are_refused_unread(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not a .npy file of numbers"):
        open_distractors(tmp_path / "d.npy")


@pytest.mark.parametrize("array", [ROWS[0], ROWS[None], ROWS.astype(int), ROWS > 0], ids=lambda array: str(array.shape))
def test_an_array_of_another_form_is_refused_with_it(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ShapeError) as refusal:
        open_distractors(write(tmp_path / "d.npy", array))
    assert f"holds {array.dtype} of shape {array.shape}" in str(refusal.value)


def test_descriptors_of_another_model_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", ROWS)
    write(tmp_path / "b.npy", ROWS[:, :4])
    with pytest.raises(ShapeError, match=r"b.npy holds descriptors of 4 values, expected 6"):
        open_distractors(tmp_path)
    with pytest.raises(ShapeError, match=r"a.npy holds descriptors of 6 values, expected 5"):
        open_distractors(tmp_path / "a.npy", 5)


def test_descriptors_not_of_length_one_are_refused_with_their_row(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[3] = 0
    rows[7] *= 2
    with pytest.raises(ShapeError, match=r"d.npy, rows from 0: the descriptor 7 has length 2, expected 1"):
        list(open_distractors(write(tmp_path / "d.npy", rows)))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[4, 1] = np.nan
    with pytest.raises(ShapeError, match="1 of 25 descriptors hold NaN or infinity, row 4 first"):
        list(open_distractors(write(tmp_path / "d.npy", rows)))
