"""Which pictures of a label are left out: blurred ones and the same ones again, and never all of them."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.image import Image
from deepir.look import look_at
from deepir.runtime.view_filter import Glance, Stored, blurred, glance_at, repeated

Texture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]

ALIKE = np.eye(1, 8, dtype=np.float32)


def alike(count: int) -> NDArray[np.float32]:
    """Descriptors of a model that finds all pictures the same."""
    return np.repeat(ALIKE, count, axis=0)


def moved(image: Image, pixels: int) -> Image:
    """The same thing from another side."""
    return np.ascontiguousarray(np.roll(image, pixels, axis=1))


@pytest.mark.parametrize("sigma", [2, 3, 5])
def test_a_blurred_picture_among_sharp_ones_is_found(sigma: float, texture: Texture) -> None:
    views = [moved(texture(1), 9 * number) for number in range(4)]
    views[2] = cv2.GaussianBlur(views[2], (0, 0), sigma)
    assert blurred([glance_at(view) for view in views]) == [2]


def test_a_picture_in_half_the_light_or_of_a_plainer_side_is_not_blurred(texture: Texture) -> None:
    plainer = texture(1)
    plainer[:, :80] = 128
    views = [texture(1), moved(texture(1), 9), (texture(1) // 2).astype(np.uint8), plainer]
    assert blurred([glance_at(view) for view in views]) == []


def test_a_picture_that_is_only_a_little_out_of_focus_is_kept(texture: Texture) -> None:
    views = [moved(texture(1), 9 * number) for number in range(4)]
    views[2] = cv2.GaussianBlur(views[2], (0, 0), 0.8)
    glances = [glance_at(view) for view in views]
    assert glances[2].sharpness < 0.5 * glances[0].sharpness
    assert blurred(glances) == []


def test_of_two_pictures_nobody_knows_which_is_as_sharp_as_can_be(texture: Texture) -> None:
    sharp = texture(1)
    assert blurred([glance_at(sharp), glance_at(cv2.GaussianBlur(sharp, (0, 0), 5))]) == []


def test_pictures_that_are_all_blurred_are_all_kept(texture: Texture) -> None:
    views = [cv2.GaussianBlur(moved(texture(1), 9 * number), (0, 0), 3) for number in range(4)]
    assert blurred([glance_at(view) for view in views]) == []


@given(st.lists(st.floats(0, 1e6), max_size=12))
def test_at_least_half_of_the_pictures_are_sharp_enough(sharpness: list[float]) -> None:
    look = look_at(np.zeros((8, 8, 3), np.uint8))
    assert len(blurred([Glance(look, value) for value in sharpness])) <= len(sharpness) / 2


def test_the_same_picture_again_is_found_and_the_first_of_them_stays(texture: Texture) -> None:
    views = [texture(1), texture(2), texture(1), texture(1)]
    assert repeated([glance_at(view) for view in views], alike(4)) == [2, 3]


def test_a_copy_of_less_quality_in_another_light_is_the_same_picture(texture: Texture) -> None:
    _, encoded = cv2.imencode(".jpg", texture(1), [cv2.IMWRITE_JPEG_QUALITY, 60])
    copies = [texture(1), cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.clip(texture(1) * 0.9, 0, 255).astype(np.uint8)]
    assert repeated([glance_at(copy) for copy in copies], alike(3)) == [1, 2]


def test_another_side_of_the_thing_is_kept_although_the_model_finds_it_the_same(texture: Texture) -> None:
    views = [moved(texture(1), 9 * number) for number in range(4)]
    assert repeated([glance_at(view) for view in views], alike(4)) == []


def test_what_the_model_tells_apart_is_kept_although_it_looks_the_same(texture: Texture) -> None:
    descriptors_nd = np.array([[1, 0], [np.cos(0.2), np.sin(0.2)]], np.float32)
    assert repeated([glance_at(texture(1))] * 2, descriptors_nd) == []


def test_pictures_of_nothing_are_the_same_and_no_other_picture(texture: Texture) -> None:
    glances = [glance_at(np.full((40, 40, 3), grey, np.uint8)) for grey in (0, 128)]
    assert repeated([*glances, glance_at(texture(1))], alike(3)) == [1]


@settings(deadline=None)
@given(kinds=st.lists(st.integers(0, 3), min_size=1, max_size=10))
def test_one_picture_of_each_kind_stays_the_first(kinds: list[int], texture: Texture) -> None:
    glances = [glance_at(texture(kind)) for kind in range(4)]
    expected = [row for row, kind in enumerate(kinds) if kind in kinds[:row]]
    assert repeated([glances[kind] for kind in kinds], alike(len(kinds))) == expected


@pytest.mark.parametrize(
    ("beside", "expected"), [("the same", [0]), ("another one", []), ("gone", []), ("no picture", [])]
)
def test_a_stored_view_counts_where_its_picture_is_there_to_be_looked_at(
    beside: str, expected: list[int], tmp_path: Path, texture: Texture, write_picture: WritePicture
) -> None:
    path = tmp_path / "stored.png"
    if beside == "no picture":
        path.write_bytes(b"nonsense")
    elif beside != "gone":
        write_picture(path, texture(1 if beside == "the same" else 2))
    stored = Stored(ALIKE, lambda _row: path if path.is_file() else None)
    assert repeated([glance_at(texture(1)), glance_at(texture(3))], alike(2), stored) == expected


def test_only_stored_views_that_the_model_finds_the_same_are_looked_at(
    tmp_path: Path, texture: Texture, write_picture: WritePicture
) -> None:
    asked: list[int] = []
    path = write_picture(tmp_path / "stored.png", texture(1))

    def picture_of(row: int) -> Path:
        asked.append(row)
        return path

    stored = Stored(np.eye(3, 8, dtype=np.float32), picture_of)
    new = np.eye(8, dtype=np.float32)[1:2]
    assert repeated([glance_at(texture(1))], new, stored) == [0]
    assert asked == [1]
