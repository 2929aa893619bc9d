"""Small copies beside an index, and how an index names and finds the pictures of its views."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepir.errors import InputError, OptionError
from deepir.image import Image, read_image
from deepir.runtime.items import Item
from deepir.runtime.pictures import (
    THUMBNAIL,
    check_side,
    drop_unused,
    encode_thumbnail,
    find_pictures,
    keep_thumbnail,
    read_view,
    source_text,
    thumbnails_of,
)

Texture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop" / "i.usearch"


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((120, 160), 80, (60, 80)), ((160, 120), 80, (80, 60)), ((40, 30), 80, (40, 30)), ((2, 999), 50, (1, 50))],
)
def test_a_small_copy_has_the_side_that_was_asked_for_and_is_never_larger(
    size: tuple[int, int], side: int, expected: tuple[int, int], tmp_path: Path, texture: Texture
) -> None:
    path = tmp_path / "small.jpg"
    path.write_bytes(encode_thumbnail(texture(1, size), side))
    assert read_image(path).shape == (*expected, 3)


def test_a_small_copy_keeps_the_colours(tmp_path: Path) -> None:
    path = tmp_path / "small.jpg"
    path.write_bytes(encode_thumbnail(np.full((64, 64, 3), (200, 30, 90), np.uint8), 32))
    np.testing.assert_allclose(read_image(path).mean(axis=(0, 1)), (200, 30, 90), atol=3)


@pytest.mark.parametrize("side", [31, 0, -384])
def test_a_side_at_which_nothing_can_be_seen_is_refused(side: int) -> None:
    with pytest.raises(OptionError, match=f"32 pixels or more, got {side}"):
        check_side(side)


def test_the_same_content_is_kept_once_and_under_the_same_name(index_path: Path, texture: Texture) -> None:
    names = [keep_thumbnail(index_path, encode_thumbnail(texture(seed), 64)) for seed in (1, 2, 1)]
    assert names[0] == names[2] != names[1]
    assert sorted(path.name for path in thumbnails_of(index_path).iterdir()) == sorted(set(names))
    assert thumbnails_of(index_path).name == "i.usearch.thumbnails"


def test_copies_that_no_view_names_are_deleted_and_no_others(index_path: Path) -> None:
    used, unused = (keep_thumbnail(index_path, content) for content in (b"used", b"unused"))
    (thumbnails_of(index_path) / "notes.txt").write_text("of somebody else")
    items = [Item(1, "a", "a.jpg", {THUMBNAIL: used}), Item(2, "b", "b.jpg")]
    assert drop_unused(index_path, items) == 1
    assert {path.name for path in thumbnails_of(index_path).iterdir()} == {used, "notes.txt"}
    assert unused != used
    assert drop_unused(index_path, items) == 0


def test_an_index_without_copies_has_none_to_delete(index_path: Path) -> None:
    assert drop_unused(index_path, []) == 0


@pytest.mark.parametrize("inside", ["a.jpg", "products/tea/a.jpg"])
def test_a_picture_below_the_index_is_named_from_its_folder(inside: str, index_path: Path) -> None:
    assert source_text(index_path.parent / inside, index_path) == inside


def test_a_picture_elsewhere_is_named_by_its_whole_path(
    tmp_path: Path, index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_text(Path("photos/a.jpg"), Path("shop/i.usearch")) == str(tmp_path / "photos" / "a.jpg")


def test_the_original_is_found_before_the_small_copy_and_moves_with_the_index(
    tmp_path: Path, index_path: Path, texture: Texture, write_picture: WritePicture
) -> None:
    original = write_picture(index_path.parent / "products" / "a.png", texture(1))
    name = keep_thumbnail(index_path, encode_thumbnail(texture(1), 64))
    item = Item(1, "a", source_text(original, index_path), {THUMBNAIL: name})
    assert find_pictures(item, index_path) == [original, thumbnails_of(index_path) / name]
    moved = index_path.parent.rename(tmp_path / "robot") / "i.usearch"
    assert find_pictures(item, moved) == [moved.parent / "products" / "a.png", thumbnails_of(moved) / name]


def test_without_its_original_a_view_is_read_from_the_small_copy(index_path: Path, texture: Texture) -> None:
    name = keep_thumbnail(index_path, encode_thumbnail(texture(1), 64))
    item = Item(1, "a", "a.png", {THUMBNAIL: name})
    assert read_view(item, index_path).shape == (48, 64, 3)


def test_an_original_that_was_damaged_is_read_from_the_small_copy(index_path: Path, texture: Texture) -> None:
    (index_path.parent / "a.png").write_bytes(b"torn")
    name = keep_thumbnail(index_path, encode_thumbnail(texture(1), 64))
    assert read_view(Item(1, "a", "a.png", {THUMBNAIL: name}), index_path).shape == (48, 64, 3)
    with pytest.raises(InputError, match=r"a\.png"):
        read_view(Item(1, "a", "a.png"), index_path)


@pytest.mark.parametrize("source", ["gone.png", ""])
def test_a_view_without_any_picture_is_named(source: str, index_path: Path) -> None:
    item = Item(1, "tea", source)
    assert find_pictures(item, index_path) == []
    with pytest.raises(InputError, match=r"neither the picture .* of tea nor a thumbnail"):
        read_view(item, index_path)


@pytest.mark.parametrize("kept", ["../../secret.jpg", "/etc/hostname", "", "..", 7, None, ["a.jpg"]])
def test_metadata_name_no_file_outside_the_folder_of_copies(kept: object, tmp_path: Path, index_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    keep_thumbnail(index_path, b"any")
    assert find_pictures(Item(1, "a", "", {THUMBNAIL: kept}), index_path) == []
