"""Files written whole or not at all, and their hashes."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from deepir import files
from deepir.errors import InputError, OptionError
from deepir.files import check_apart, file_sha256, flush_folder, remove_leftovers, replacing, write_text


def write_and_fail(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        message = "the power went"
        raise RuntimeError(message)


def test_a_write_makes_the_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "spec.json", "größer")
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"spec.json": "größer"}


def test_a_write_replaces_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "spec.json"
    write_text(target, "old and long")
    write_text(target, "new")
    assert target.read_text() == "new"


def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "spec.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="the power went"):
        write_and_fail(target)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"spec.json": "old"}


def test_a_failing_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the power went"):
        write_and_fail(tmp_path / "spec.json")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_not_seen_before_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "spec.json"
    with replacing(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "spec.json", "text")
        kept = os.umask(umask)
    finally:
        os.umask(before)
    assert (tmp_path / "spec.json").stat().st_mode & 0o777 == mode
    assert kept == umask


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = ("spec.json", "spec.json.bak", "other")
    killed = [replacing(tmp_path / name) for name in names]
    left = [writing.__enter__() for writing in killed]
    remove_leftovers(tmp_path / "spec.json")
    assert [file.exists() for file in left] == [False, True, True]


def test_leftovers_in_a_missing_folder_are_none(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "missing" / "spec.json")


def test_a_folder_that_cannot_be_flushed_does_not_undo_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = files._flush

    def refusing(path: Path) -> None:
        if path.is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(path)

    monkeypatch.setattr(files, "_flush", refusing)
    write_text(tmp_path / "spec.json", "text")
    assert (tmp_path / "spec.json").read_text() == "text"
    flush_folder(tmp_path)


def test_a_missing_folder_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"create the folder {tmp_path}/missing"):
        write_text(tmp_path / "missing" / "spec.json", "text")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_covers_every_byte(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "model").write_bytes(content[:size])
    assert file_sha256(tmp_path / "model") == hashlib.sha256(content[:size]).hexdigest()


def test_the_hash_of_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent: No such file"):
        file_sha256(tmp_path / "absent")


def test_a_file_that_is_read_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "walk.mp4").write_bytes(b"video")
    (tmp_path / "link").symlink_to("walk.mp4")
    source = {"the SOURCE": tmp_path / "walk.mp4", "the model": None}
    check_apart({"--save": tmp_path / "new.mp4", "--jsonl": None}, source)
    check_apart({"--save": Path("/dev/null"), "--jsonl": Path("/dev/null")}, source)
    for written in ("walk.mp4", "link", "./walk.mp4", "folder/../walk.mp4"):
        with pytest.raises(OptionError, match="would overwrite the SOURCE: give it another name"):
            check_apart({"--save": tmp_path / written}, source)
    with pytest.raises(OptionError, match=r"--save .* would overwrite --jsonl"):
        check_apart({"--jsonl": tmp_path / "new", "--save": tmp_path / "new"}, source)
