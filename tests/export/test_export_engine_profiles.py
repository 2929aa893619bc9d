"""The shapes that an engine is built for: fixed sizes, alternatives, several resolutions, pictures of any aspect."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from deepir.card import ModelCard
from deepir.errors import ModelError, OptionError
from deepir.export.engine_profiles import plan_profiles
from deepir.head import Head
from deepir.inputs import input_windows
from deepir.spec import ModelSpec, Size

SPEC = ModelSpec(
    backbone="timm:resnet18",
    sizes=((384, 512),),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    stride=32,
    channels=512,
    dim=256,
)
BATCH = (1, 4, 8)


def spec(*sizes: Size, resize: str = "stretch", **changes: Any) -> ModelSpec:
    return dataclasses.replace(SPEC, sizes=sizes, resize=resize, **changes)


def file_with(inputs: Mapping[str, list[Any]]) -> ModelProto:
    """An ONNX file of which only the inputs matter; a text is a free dimension."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    return helper.make_model(helper.make_graph([], "inputs", values, []))


def free_file(card: ModelCard) -> ModelProto:
    names = card.inputs()
    return file_with({name: ["n", 3, "h", "w"] if name.startswith("images") else ["r", 4] for name in names})


def test_one_fixed_size_is_one_profile() -> None:
    planned = plan_profiles(file_with({"images": ["n", 3, 384, 512]}), ModelCard(SPEC), BATCH)
    assert planned.profiles == ({"images": ((1, 3, 384, 512), (4, 3, 384, 512), (8, 3, 384, 512))},)
    assert planned.sizes == ((384, 512),)
    assert planned.largest_bytes(4) == 8 * 3 * 384 * 512 * 4


def test_pictures_of_bytes_have_their_channels_last() -> None:
    planned = plan_profiles(file_with({"images": ["n", 384, 512, 3]}), ModelCard(SPEC, pixels="uint8"), BATCH)
    assert planned.profiles[0]["images"][0] == (1, 384, 512, 3)


def test_several_resolutions_are_inputs_of_one_profile() -> None:
    sizes = ((256, 256), (512, 512))
    file = file_with({"images_0": ["n", 3, 256, 256], "images_1": ["n", 3, 512, 512]})
    planned = plan_profiles(file, ModelCard(spec(*sizes)), (2, 2, 2))
    assert planned.profiles == ({"images_0": ((2, 3, 256, 256),) * 3, "images_1": ((2, 3, 512, 512),) * 3},)
    assert planned.sizes == sizes


def test_alternative_sizes_are_a_profile_each_with_exactly_their_windows() -> None:
    sizes = ((384, 512), (512, 384), (448, 448))
    card = ModelCard(spec(*sizes, resize="nearest"), strides=(32,))
    planned = plan_profiles(free_file(card), card, BATCH)
    assert planned.sizes == sizes
    for size, profile in zip(sizes, planned.profiles, strict=True):
        assert profile["images"] == tuple((number, 3, *size) for number in BATCH)
        count = len(input_windows(card, [size])[0])
        assert profile["rois"] == ((count, 4),) * 3


def test_a_fixed_size_that_is_left_free_has_its_windows_for_every_map_and_resolution() -> None:
    card = ModelCard(spec((256, 256), (512, 384), head=Head(fusion="pca-concat-pca", middle=(3,))), strides=(16, 32))
    planned = plan_profiles(free_file(card), card, (1, 1, 1))
    names = ["images_0", "images_1", "rois_0@0", "rois@0", "rois_0@1", "rois@1"]
    assert list(planned.profiles[0]) == names
    counts = [len(windows) for windows in input_windows(card, [(256, 256), (512, 384)])]
    assert [planned.profiles[0][name][0] for name in names[2:]] == [(count, 4) for count in counts]


sides = st.integers(64, 700)


@given(sides, st.floats(0.1, 1.0), st.booleans(), st.sampled_from(["image", "map", "map+whole"]))
def test_every_picture_that_keeps_its_aspect_fits_into_the_profile(
    longest: int, aspect: float, upright: bool, grid: str
) -> None:
    card = ModelCard(spec((longest, longest), resize="longest", head=Head(grid=grid)), strides=(16,))
    profile = plan_profiles(free_file(card), card, (1, 1, 2)).profiles[0]
    short = max(32, round(longest * aspect))
    size = (longest, short) if upright else (short, longest)
    least, usual, most = profile["images"]
    assert all(low <= side <= high for low, side, high in zip(least[2:], size, most[2:], strict=True))
    assert all(low <= side <= high for low, side, high in zip(least, usual, most, strict=True))
    (least_windows, _), (usual_windows, _), (most_windows, _) = profile["rois"]
    assert least_windows <= usual_windows <= most_windows
    windows = len(input_windows(card, [size])[0])
    assert windows <= most_windows
    assert windows >= least_windows


def test_pictures_of_any_aspect_at_several_resolutions_state_the_sizes_of_the_first() -> None:
    card = ModelCard(spec((512, 512), (1024, 1024), resize="longest"), strides=(32,))
    planned = plan_profiles(free_file(card), card, BATCH)
    assert planned.sizes == ((32, 32), (384, 512), (512, 512))
    assert planned.profiles[0]["images_1"][1:] == ((4, 3, 768, 1024), (8, 3, 1024, 1024))


def test_a_head_that_pools_the_whole_map_takes_one_window() -> None:
    card = ModelCard(spec((512, 512), resize="longest", head=Head(levels=0)), strides=(32,))
    assert plan_profiles(free_file(card), card, BATCH).profiles[0]["rois"] == ((1, 4),) * 3


def test_pictures_too_narrow_for_a_level_are_left_out_and_a_model_whose_usual_picture_is_is_refused() -> None:
    def card(levels: int) -> ModelCard:
        head = Head(grid="map", levels=levels)
        return ModelCard(spec((64, 64), resize="longest", head=head), strides=(32,))

    assert plan_profiles(free_file(card(3)), card(3), BATCH).profiles[0]["rois"][0] == (14, 4)
    with pytest.raises(OptionError, match="5 levels do not fit"):
        plan_profiles(free_file(card(5)), card(5), BATCH)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"pictures": ["n", 3, 384, 512]},
        {"images": ["n", 3, 384, 512], "rois": ["r", 4]},
        {"images": ["n", 3, 384, 500]},
        {"images": ["n", 384, 512, 3]},
        {"images": ["n", 3, 384]},
    ],
)
def test_inputs_that_are_not_those_of_the_card_are_refused(inputs: dict[str, list[Any]]) -> None:
    with pytest.raises(ModelError, match="export the model again"):
        plan_profiles(file_with(inputs), ModelCard(SPEC), BATCH)


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 2), (1, 3, 2)])
def test_a_batch_that_falls_or_is_empty_is_refused(batch: tuple[int, int, int]) -> None:
    with pytest.raises(OptionError, match="smallest:usual:largest"):
        plan_profiles(file_with({"images": ["n", 3, 384, 512]}), ModelCard(SPEC), batch)
