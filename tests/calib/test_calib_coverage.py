"""Near-duplicates, the most different pictures first, and what a picture looks like without a model."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.calib.coverage import distinct_rows, k_centre, near
from deepir.descriptors import normalise
from deepir.look import look_at, sharpness


def pattern(seed: int, side: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def textured(seed: int) -> np.ndarray:
    fine = np.random.default_rng(seed).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return cv2.resize(fine, (320, 240), interpolation=cv2.INTER_LINEAR)


def rows(seed: int, count: int, dim: int = 4) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def radius(descriptors_nd: np.ndarray, centres: list[int]) -> float:
    """The largest distance from a row to its nearest centre."""
    distances = np.linalg.norm(descriptors_nd[:, None] - descriptors_nd[None, centres], axis=-1)
    return float(distances.min(axis=1).max())


@given(seed=st.integers(0, 10_000), count=st.integers(1, 9), chosen=st.integers(0, 10))
def test_no_row_is_chosen_twice_and_a_front_part_is_the_choice_of_fewer(seed: int, count: int, chosen: int) -> None:
    descriptors_nd = rows(seed, count)
    order = k_centre(descriptors_nd, chosen)
    assert len(set(order)) == len(order) == min(chosen, count)
    assert order[: chosen // 2] == k_centre(descriptors_nd, chosen // 2)


@given(seed=st.integers(0, 10_000), chosen=st.integers(1, 4))
def test_every_row_is_within_twice_the_best_distance_of_a_chosen_one(seed: int, chosen: int) -> None:
    descriptors_nd = rows(seed, 8)
    best = min(radius(descriptors_nd, list(centres)) for centres in combinations(range(8), chosen))
    assert radius(descriptors_nd, k_centre(descriptors_nd, chosen)) <= 2 * best + 1e-6


def test_one_of_each_group_comes_before_a_second_of_any() -> None:
    groups = np.repeat(np.eye(5, dtype=np.float32), 6, axis=0)
    noisy = normalise(groups + np.random.default_rng(0).normal(scale=0.02, size=groups.shape).astype(np.float32))
    assert {row // 6 for row in k_centre(noisy, 5)} == set(range(5))


def test_rows_that_are_all_alike_are_still_chosen_once_each() -> None:
    assert sorted(k_centre(np.ones((4, 1), np.float32), 4)) == [0, 1, 2, 3]


def test_of_no_rows_none_are_chosen() -> None:
    assert k_centre(np.empty((0, 3), np.float32), 4) == []
    assert distinct_rows(np.empty((0, 3), np.float32), np.empty((0, 9), np.float32)) == []


@given(seed=st.integers(0, 10_000))
def test_no_two_that_stay_are_near_and_each_that_goes_is_near_an_earlier_one_that_stays(seed: int) -> None:
    # few values, so that many rows are alike
    rng = np.random.default_rng(seed)
    descriptors_nd, thumbnails_np = (
        normalise(rng.integers(1, 4, (12, 2)).astype(np.float32)) for _ in ("descriptors", "thumbnails")
    )
    stay = distinct_rows(descriptors_nd, thumbnails_np)

    def alike(row: int, other: int) -> bool:
        pixels = np.array([thumbnails_np[row] @ thumbnails_np[other]])
        return bool(near(pixels, np.array([descriptors_nd[row] @ descriptors_nd[other]]))[0])

    assert stay[0] == 0
    assert not any(alike(row, other) for row, other in combinations(stay, 2))
    assert all(any(alike(row, other) for other in stay if other < row) for row in set(range(12)) - set(stay))


@pytest.mark.parametrize(
    ("pixels", "similarity", "answer"),
    [
        (0.99, 0.95, True),
        # a bottle was put on the table: hardly a pixel changed
        (0.99, 0.60, False),
        # a model without whitening finds everything alike
        (0.50, 0.99, False),
        (0.99, None, True),
        (0.96, None, False),
    ],
)
def test_both_pixels_and_descriptors_must_agree(pixels: float, similarity: float | None, answer: bool) -> None:
    similarity_n = None if similarity is None else np.array([similarity], np.float32)
    assert near(np.array([pixels], np.float32), similarity_n).tolist() == [answer]


@pytest.mark.parametrize("change", ["jpeg", "smaller", "brighter"])
def test_the_same_picture_again_has_the_same_thumbnail_and_another_has_not(change: str) -> None:
    image = pattern(1)
    again = {
        "jpeg": cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR),
        "smaller": cv2.resize(image, (60, 60), interpolation=cv2.INTER_AREA),
        "brighter": cv2.convertScaleAbs(image, alpha=0.8, beta=30),
    }[change]
    thumbnail_1d = look_at(image).thumbnail_1d
    assert thumbnail_1d @ look_at(again).thumbnail_1d > 0.98
    assert thumbnail_1d @ look_at(pattern(2)).thumbnail_1d < 0.5
    assert np.linalg.norm(thumbnail_1d) == pytest.approx(1, abs=1e-5)


def test_a_picture_of_one_colour_is_blank_also_with_the_noise_of_a_sensor() -> None:
    noise = np.random.default_rng(0).normal(40, 6, (240, 320, 3)).clip(0, 255).astype(np.uint8)
    assert look_at(noise).blank
    assert look_at(np.zeros((1, 1, 3), np.uint8)).blank
    assert not look_at(pattern(3)).blank


def test_a_look_knows_height_and_width() -> None:
    assert look_at(np.zeros((30, 50, 3), np.uint8)).size == (30, 50)


def test_a_blurred_picture_is_less_sharp_and_a_darker_one_is_as_sharp() -> None:
    image = textured(0)
    blurred = sharpness(cv2.GaussianBlur(image, (0, 0), 3)) / sharpness(image)
    assert blurred < 0.2
    assert sharpness(cv2.convertScaleAbs(image, alpha=0.5)) == pytest.approx(sharpness(image), rel=0.1)
    assert sharpness(np.full((20, 20, 3), 7, np.uint8)) == 0


def test_the_size_of_a_picture_hardly_changes_its_sharpness() -> None:
    image = textured(1)
    larger = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    assert sharpness(larger) == pytest.approx(sharpness(image), rel=0.35)
