"""Pictures as the inputs of a file: which arrays, in which order, which pictures together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.card import ModelCard
from deepir.errors import ModelError
from deepir.head import Head
from deepir.image import pixel_scale, prepare, resize
from deepir.inputs import input_windows, model_inputs
from deepir.regions import head_windows
from deepir.spec import ModelSpec

SIZES = ((64, 96), (96, 64), (80, 80))


def spec(**changes: object) -> ModelSpec:
    fields = {"sizes": ((64, 96),), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "stride": 16}
    return ModelSpec(backbone="custom:none", channels=8, dim=8, **{**fields, **changes})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_model_of_one_size_takes_all_pictures_together() -> None:
    pictures = [picture(50, 60), picture(200, 31)]
    (group,) = model_inputs(pictures, ModelCard(spec()))
    assert group.rows == [0, 1]
    np.testing.assert_array_equal(group.arrays[0], np.concatenate([prepare(one, spec()) for one in pictures]))


def test_several_resolutions_are_several_arrays() -> None:
    several = spec(sizes=SIZES)
    (group,) = model_inputs([picture(50, 60)], ModelCard(several))
    assert ModelCard(several).inputs() == ("images_0", "images_1", "images_2")
    assert [array.shape for array in group.arrays] == [(1, 3, *size) for size in SIZES]


def test_a_file_that_takes_pixels_gets_resized_pictures_of_which_prepare_makes_the_rest() -> None:
    (group,) = model_inputs([picture(50, 60)], ModelCard(spec(), pixels="uint8"))
    assert (group.arrays[0].dtype, group.arrays[0].shape) == (np.uint8, (1, 64, 96, 3))
    scale, shift = pixel_scale(spec())
    normalised = (group.arrays[0].astype(np.float32) * scale - shift).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(normalised, prepare(picture(50, 60), spec()))


@pytest.mark.parametrize(("height", "width", "expected"), [(48, 64, 0), (640, 480, 1), (100, 101, 2), (10, 900, 0)])
def test_nearest_takes_the_size_of_the_nearest_aspect(height: int, width: int, expected: int) -> None:
    assert resize(picture(height, width), spec(sizes=SIZES, resize="nearest")).shape[:2] == SIZES[expected]


def test_of_a_part_of_a_picture_the_part_decides_which_size_is_nearest() -> None:
    standing_part = (10.0, 0.0, 30.0, 40.0)
    assert resize(picture(48, 64), spec(sizes=SIZES, resize="nearest"), box=standing_part).shape[:2] == (96, 64)


def test_pictures_of_different_aspect_run_in_groups_with_windows_of_their_own() -> None:
    card = ModelCard(spec(sizes=SIZES, resize="nearest"), strides=(16,))
    groups = model_inputs([picture(48, 64), picture(64, 48), picture(60, 90)], card)
    assert [group.rows for group in groups] == [[0, 2], [1]]
    assert card.inputs() == ("images", "rois")
    for group, size in zip(groups, SIZES, strict=False):
        images, windows = group.arrays
        assert images.shape[2:] == size
        clipped = np.minimum(windows, np.array([size[0] // 16, size[1] // 16] * 2))
        np.testing.assert_array_equal(clipped, head_windows(card.spec.head, size, (size[0] // 16, size[1] // 16), 16))
        assert windows.dtype == np.int32


def test_the_names_of_windows_go_resolution_by_resolution_and_map_by_map() -> None:
    several = spec(sizes=SIZES[:2], resize="longest", head=Head(fusion="concat", middle=(3, 2)))
    names = ModelCard(several, strides=(8, 16, 32)).inputs()
    assert names == (
        *("images_0", "images_1"),
        *("rois_0@0", "rois_1@0", "rois@0", "rois_0@1", "rois_1@1", "rois@1"),
    )


@given(st.integers(32, 700), st.integers(32, 700), st.sampled_from([8, 16, 32]), st.integers(0, 3))
def test_windows_cut_at_the_map_are_those_of_the_map(height: int, width: int, stride: int, levels: int) -> None:
    card = ModelCard(spec(head=Head(levels=levels), resize="longest"), strides=(stride,))
    for rounding in (0, stride - 1):  # maps of trunks that round down and of those that round up
        cells = ((height + rounding) // stride, (width + rounding) // stride)
        (windows,) = input_windows(card, [(height, width)])
        cut = np.minimum(windows, np.array([*cells, *cells], dtype=np.int32))
        np.testing.assert_array_equal(cut, head_windows(card.spec.head, (height, width), cells, stride))


def test_a_card_with_its_inputs_survives_json() -> None:
    card = ModelCard(spec(resize="longest"), pixels="uint8", strides=(8, 16))
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize("change", [('"uint8"', '"int4"'), ("[8, 16]", "[8, 0]"), ("[8, 16]", '["8"]')])
def test_a_card_with_inputs_that_cannot_be_is_refused(change: tuple[str, str]) -> None:
    text = ModelCard(spec(resize="longest"), pixels="uint8", strides=(8, 16)).to_json()
    with pytest.raises(ModelError, match="export the model again"):
        ModelCard.from_json(text.replace(*change))
