"""The file that answers go to: nothing of a camera's is lost when a service starts again or its log is rotated."""

from pathlib import Path

import pytest

from deepir.errors import InputError
from deepir.runtime.lines import LinesFile


def write(path: Path, text: str, *, add: bool) -> None:
    with LinesFile(path, add=add) as lines:
        lines.write(text)


def test_a_file_is_added_to_or_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text in ("1\n", "2\n"):
        write(path, text, add=True)
    assert path.read_text() == "1\n2\n"
    write(path, "3\n", add=False)
    assert path.read_text() == "3\n"


def test_what_is_flushed_is_there_for_whoever_reads(tmp_path: Path) -> None:
    with LinesFile(tmp_path / "a.jsonl", add=True) as lines:
        lines.write("1\n")
        lines.flush()
        assert (tmp_path / "a.jsonl").read_text() == "1\n"


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"frame": 1}\n{"fra')
    write(path, '{"frame": 3}\n', add=True)
    assert path.read_text() == '{"frame": 1}\n{"fra\n{"frame": 3}\n'


def test_after_another_program_moved_it_away_it_goes_on_in_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with LinesFile(path, add=True) as lines:
        lines.write("1\n")
        lines.flush()
        path.rename(tmp_path / "a.jsonl.1")
        lines.write("2\n")
        path.rename(tmp_path / "a.jsonl.2")
        path.write_text("")
        lines.write("3\n")
    assert [file.read_text() for file in (path, *sorted(tmp_path.glob("a.jsonl.*")))] == ["3\n", "1\n", "2\n"]


def test_a_file_that_was_moved_after_its_last_line_is_left_so(tmp_path: Path) -> None:
    path = tmp_path / "walk.jsonl"
    with LinesFile(path, add=False) as lines:
        lines.write("1\n")
        path.rename(tmp_path / "b")
        lines.write("2\n")
    assert (tmp_path / "b").read_text() == "1\n2\n"
    assert not path.exists()


@pytest.mark.parametrize("add", [True, False])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, add: bool) -> None:
    with pytest.raises(InputError, match=r"cannot write .*nowhere/a.jsonl: No such file or directory"):
        LinesFile(tmp_path / "nowhere" / "a.jsonl", add=add)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: not Linux")
def test_a_full_disk_is_one_sentence_with_the_name() -> None:
    lines = LinesFile(Path("/dev/full"), add=True)
    lines.write("1\n")
    with pytest.raises(InputError, match="cannot write /dev/full: No space left on device; make room") as caught:
        lines.flush()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(InputError, match="No space left"), lines:
        pass
