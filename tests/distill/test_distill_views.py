"""A view is the same pixels for teacher and student, on any day; crops are what their configuration says."""

import hashlib
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.distill import views as views_module
from deepir.distill.views import CropConfig, View, hash_pictures, read_views
from deepir.errors import InputError, OptionError
from deepir.image import list_images, read_image

SHA = hashlib.sha256(b"a picture").hexdigest()
RAMP = np.arange(90 * 120 * 3, dtype=np.uint32).reshape(90, 120, 3)


def place(crop: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a cut of RAMP."""
    first = int(crop[0, 0, 0])
    return first // 360, first % 360 // 3, crop.shape[0], crop.shape[1]


def test_crops_are_where_they_were_when_this_was_written() -> None:
    # a store on disk names crops by hash and number: were these to move, its targets would be of other pixels
    places = [place(View(Path("x"), number).cut(RAMP, SHA)) for number in range(4)]
    assert places == [(0, 0, 90, 120), (10, 4, 78, 109), (3, 8, 64, 81), (0, 14, 90, 106)]


def test_the_same_bytes_give_the_same_crop_under_any_name(pictures: Path, tmp_path: Path) -> None:
    path = list_images(pictures)[0]
    (tmp_path / "copy.png").write_bytes(path.read_bytes())
    crop = View(path, 3).read()
    np.testing.assert_array_equal(View(path, 3).read(), crop)
    np.testing.assert_array_equal(View(tmp_path / "copy.png", 3).read(), crop)
    np.testing.assert_array_equal(View(path, 0).read(), read_image(path))


def test_other_numbers_and_other_bytes_give_other_crops() -> None:
    other = hashlib.sha256(b"another").hexdigest()
    places = {place(View(Path("x"), number).cut(RAMP, sha)) for number in range(1, 9) for sha in (SHA, other)}
    assert len(places) == 16


@given(
    sha=st.binary(min_size=1).map(lambda content: hashlib.sha256(content).hexdigest()),
    number=st.integers(1, 1000),
    height=st.integers(1, 90),
    width=st.integers(1, 120),
    share=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)).map(sorted).map(tuple),
)
@settings(max_examples=200, deadline=None)
def test_a_crop_lies_in_its_picture_and_keeps_the_share_and_aspect_it_may(
    sha: str, number: int, height: int, width: int, share: tuple[float, float], aspect: tuple[float, float]
) -> None:
    crop = View(Path("x"), number, CropConfig(share=share, aspect=aspect)).cut(RAMP[:height, :width], sha)
    top, left, rows, columns = place(crop)
    np.testing.assert_array_equal(RAMP[top : top + rows, left : left + columns], crop)
    assert top + rows <= height
    assert left + columns <= width
    if height > rows and width > columns:
        # sides are whole pixels: each may be half of one off, or one at least
        assert (rows - 0.5) * (columns - 0.5) <= share[1] * height * width + 1e-6 or 1 in (rows, columns)
        assert (rows + 0.5) * (columns + 0.5) >= share[0] * height * width - 1e-6
        assert (columns - 0.5) / (rows + 0.5) <= aspect[1] * width / height + 1e-6 or 1 in (rows, columns)


def test_the_shares_of_crops_are_spread_over_their_range() -> None:
    shares = [place(View(Path("x"), number).cut(RAMP, SHA)) for number in range(1, 400)]
    areas = np.array([rows * columns / 10800 for _, _, rows, columns in shares])
    assert areas.min() < 0.4
    assert areas.max() > 0.9
    assert 0.6 < areas.mean() < 0.75


def test_a_key_tells_views_apart_by_all_that_changes_their_pixels() -> None:
    other = hashlib.sha256(b"another").hexdigest()
    crops = [CropConfig(), CropConfig(share=(0.2, 1.0)), CropConfig(aspect=(0.8, 1.3)), CropConfig(share=(0.35, 0.9))]
    keys = {View(Path("x"), number, crop).key(sha) for sha in (SHA, other) for number in (1, 2) for crop in crops}
    assert len(keys) == 16
    # the whole picture is the same whatever crops would be, and under any name
    assert {View(Path(name), 0, crop).key(SHA) for name in "xy" for crop in crops} == {f"{SHA}#0"}
    assert not any(" " in key or "\n" in key for key in keys)


@pytest.mark.parametrize(
    "config",
    [
        {"share": (0.0, 1.0)},
        {"share": (0.5, 1.1)},
        {"share": (0.9, 0.5)},
        {"share": (float("nan"), 1.0)},
        {"aspect": (0.0, 1.0)},
        {"aspect": (2.0, 1.0)},
        {"aspect": (1.0, float("inf"))},
    ],
)
def test_crops_that_cannot_be_are_refused(config: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(OptionError):
        CropConfig(**config)


def test_views_read_together_are_those_read_alone(pictures: Path) -> None:
    paths = list_images(pictures)[:5]
    views = [View(path, number) for path in paths for number in (2, 0, 1)] + [View(paths[0], 1)]
    for together, view in zip(read_views(views, hash_pictures(paths)), views, strict=True):
        np.testing.assert_array_equal(together, view.read())


def test_a_picture_is_decoded_once_for_views_beside_each_other(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[Path]] = []

    def listening(paths: object) -> object:
        read.append(list(paths))
        return reads(iter(read[0]))

    reads = views_module.read_images
    monkeypatch.setattr(views_module, "read_images", listening)
    paths = list_images(pictures)[:3]
    assert (
        len(list(read_views([View(path, number) for path in paths for number in range(4)], hash_pictures(paths)))) == 12
    )
    assert read == [paths]


def test_the_threads_that_read_ahead_end_with_the_reader(pictures: Path) -> None:
    before = threading.active_count()
    paths = list_images(pictures)
    images = read_views([View(path, 0) for path in paths], hash_pictures(paths))
    next(images)
    images.close()
    assert threading.active_count() == before


def test_hashes_are_those_of_the_files_each_read_once(pictures: Path) -> None:
    paths = list_images(pictures)[:4]
    hashes = hash_pictures(paths + paths)
    assert hashes == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_missing_and_damaged_pictures_are_named(tmp_path: Path) -> None:
    missing, damaged = tmp_path / "missing.png", tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"missing\.png"):
        hash_pictures([missing])
    with pytest.raises(InputError, match=r"missing\.png"):
        View(missing, 1).read()
    with pytest.raises(InputError, match=r"cannot decode .*damaged\.png"):
        list(read_views([View(damaged, 1)], hash_pictures([damaged])))


def test_a_picture_of_one_pixel_has_crops(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    cv2.imwrite(str(path), np.zeros((1, 1, 3), np.uint8))
    assert View(path, 1).read().shape == (1, 1, 3)
