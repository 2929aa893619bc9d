"""Holidays: scenes by the first four digits of a name, a query by 00 at its end."""

from pathlib import Path

import pytest

from deepir.datasets import read_retrieval_sets
from deepir.errors import InputError


def pictures(folder: Path, *numbers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.jpg").touch()
    return folder


@pytest.mark.parametrize("place", [".", "jpg", "images"])
def test_the_first_picture_of_a_scene_searches_the_others(place: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / place, 100000, 100001, 100012, 100100, 100101)
    found = read_retrieval_sets(tmp_path)["holidays"]
    first, second = found.queries
    assert (first.key, first.image) == ("100000", folder / "100000.jpg")
    assert first.positives == {folder / "100001.jpg", folder / "100012.jpg"}
    assert second.positives == {folder / "100101.jpg"}
    assert first.junk == {folder / "100000.jpg"}
    assert len(found.database) == 5


def test_a_scene_of_one_picture_is_left_out_and_one_without_a_query_is_not_searched(tmp_path: Path) -> None:
    pictures(tmp_path / "jpg", 100000, 100001, 100200, 100301, 100302)
    found = read_retrieval_sets(tmp_path)["holidays"]
    assert (len(found.queries), found.left_out, len(found.database)) == (1, 1, 5)


def test_another_name_among_them_is_refused_with_it(tmp_path: Path) -> None:
    pictures(tmp_path / "jpg", 100000, 100001, 7)
    with pytest.raises(InputError, match=r"7.jpg is no picture of Holidays"):
        read_retrieval_sets(tmp_path, "holidays")


def test_scenes_of_one_picture_only_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "jpg", 100000, 100100)
    with pytest.raises(InputError, match="holidays has no queries to score: none of 2 has a positive"):
        read_retrieval_sets(tmp_path, "holidays")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        read_retrieval_sets(tmp_path, "holidays")
