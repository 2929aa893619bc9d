"""Sources of calibration pictures: folders, lists, CSV files, benchmark.json."""

import json
from pathlib import Path

import pytest

from deepir.calib.sources import read_sources
from deepir.errors import InputError


def files(folder: Path, *names: str) -> Path:
    """Empty files: what sources list is not opened here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(folder: Path, found: dict[Path, str | None]) -> dict[str, str | None]:
    return {path.relative_to(folder).as_posix(): label for path, label in found.items()}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    files(tmp_path, "tea/1.jpg", "salt/fine/1.jpg", "loose.png", "tea/notes.txt")
    assert named(tmp_path, read_sources([tmp_path])) == {
        "loose.png": None,
        "salt/fine/1.jpg": "salt/fine",
        "tea/1.jpg": "tea",
    }


def test_a_single_sub_folder_is_no_label(tmp_path: Path) -> None:
    files(tmp_path, "2024/1.jpg", "2024/2.jpg")
    assert set(read_sources([tmp_path]).values()) == {None}


def test_of_a_benchmark_only_the_training_pictures_are_taken(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg", "scored.jpg")
    written(tmp_path / "benchmark.json", json.dumps({"sets": {}, "train": [{"image": "a.jpg", "label": "tea"}]}))
    for source in (tmp_path, tmp_path / "benchmark.json"):
        assert named(tmp_path, read_sources([source])) == {"a.jpg": "tea"}


def test_a_list_names_pictures_relative_to_itself(tmp_path: Path) -> None:
    outside = files(tmp_path / "other", "c.jpg") / "c.jpg"
    listed = written(tmp_path / "list.txt", f"\ufeffa.jpg\r\n# a note\r\n\r\n  sub/b.jpg \r\n{outside}\n")
    assert named(tmp_path, read_sources([listed])) == {"a.jpg": None, "sub/b.jpg": None, "other/c.jpg": None}


def test_a_csv_names_pictures_and_where_it_can_labels(tmp_path: Path) -> None:
    labelled = written(tmp_path / "labels.csv", 'label,image\ntea,"a, or b.jpg"\n ,c.jpg\n')
    assert named(tmp_path, read_sources([labelled])) == {"a, or b.jpg": "tea", "c.jpg": None}
    plain = written(tmp_path / "plain.csv", "image\na.jpg\n")
    assert named(tmp_path, read_sources([plain])) == {"a.jpg": None}


def test_a_row_of_a_csv_that_ends_early_has_no_label(tmp_path: Path) -> None:
    listed = written(tmp_path / "short.csv", "image,label\na.jpg\n")
    assert named(tmp_path, read_sources([listed])) == {"a.jpg": None}


def test_a_file_reached_twice_counts_once_with_its_first_label(tmp_path: Path) -> None:
    files(tmp_path / "shop", "tea/1.jpg", "salt/1.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "shop" / "tea" / "1.jpg")
    listed = written(tmp_path / "list.txt", "link.jpg\nshop/../shop/salt/1.jpg\nshop/salt/2.jpg\n")
    found = read_sources([tmp_path / "shop", listed, tmp_path / "shop"])
    assert list(named(tmp_path, found).items()) == [
        ("shop/salt/1.jpg", "salt"),
        ("shop/tea/1.jpg", "tea"),
        ("shop/salt/2.jpg", None),
    ]


def test_a_ring_of_links_in_a_list_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    assert read_sources([written(tmp_path / "list.txt", "a.jpg\nb.jpg\n")])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.txt", "", "lists no pictures"),
        ("list.txt", "# nothing\n\n", "lists no pictures"),
        ("list.txt", b"\xff\xfe\x00", "not UTF-8 text"),
        ("list.txt", "a\0b.jpg\n", "it names"),
        ("rows.csv", "", "line 1: no column image, got ''"),
        ("rows.csv", "image,label\n", "lists no pictures"),
        ("rows.csv", "path,label\na.jpg,tea\n", "line 1: no column image, got 'path,label'"),
        ("rows.csv", "image,label\na.jpg,tea\n,salt\n", "line 3: no image"),
        ("rows.csv", "image\n" + "a" * 200_000 + "\n", "not CSV after line 1: field larger"),
        ("benchmark.json", '{"train": [{"image": "a\\u0000.jpg", "label": "tea"}]}', "it names"),
        ("benchmark.json", "{}", "no `train` pictures"),
        ("model.onnx", b"\x08", "give a folder, a .txt list"),
        ("photo.jpg", b"\x08", "give a folder, a .txt list"),
    ],
)
def test_what_names_no_pictures_is_refused_with_the_cure(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        read_sources([written(tmp_path / name, content)])
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.txt", "nowhere.csv"])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no such folder or list of pictures: .*{name}"):
        read_sources([tmp_path / name])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        read_sources([tmp_path])
