"""The model description: JSON, fingerprint, refusals, and the sizes people type."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import SpecError
from deepir.head import Head
from deepir.spec import ModelSpec, Size, parse_scales, parse_size, scaled_sizes

FIELDS = {
    "backbone": "timm:resnet18",
    "sizes": ((224, 320),),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "stride": 32,
    "channels": 512,
    "dim": 128,
}
OTHER_VALUES = {
    "backbone": "timm:resnet50",
    "sizes": ((320, 224),),
    "mean": (0.485, 0.456, 0.5),
    "std": (0.229, 0.224, 0.5),
    "stride": 16,
    "channels": 256,
    "dim": 64,
    "resize": "longest",
    "interpolation": "bilinear",
    "head": Head(levels=3),
    "whitening": "shop",
    "weights": "ab12",
}


def spec(**changes: object) -> ModelSpec:
    return ModelSpec(**{**FIELDS, **changes})


sides = st.integers(32, 8192)
triples = st.tuples(*[st.floats(0.0078125, 255)] * 3)
heads = st.builds(
    Head,
    pooling=st.sampled_from(["max", "mean", "gem"]),
    levels=st.integers(0, 8),
    grid=st.sampled_from(["image", "map", "map+whole"]),
    combine=st.sampled_from(["sum", "max"]),
) | st.builds(Head, fusion=st.just("concat"), middle=st.permutations([1, 2, 3]).map(tuple))

specs = st.builds(
    ModelSpec,
    backbone=st.text(),
    sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=4).map(tuple),
    mean=triples,
    std=triples,
    stride=st.integers(1, 32),
    channels=st.integers(1, 65536),
    dim=st.integers(1, 65536),
    resize=st.sampled_from(["stretch", "longest"]),
    interpolation=st.sampled_from(["area", "bilinear"]),
    head=heads,
    whitening=st.text(),
    weights=st.text("0123456789abcdef"),
)


@given(specs)
def test_json_gives_the_same_spec_back(original: ModelSpec) -> None:
    assert ModelSpec.from_json(original.to_json()) == original


@given(specs)
def test_json_keeps_the_fingerprint(original: ModelSpec) -> None:
    assert ModelSpec.from_json(original.to_json()).fingerprint == original.fingerprint


def test_a_mean_in_whole_numbers_keeps_its_fingerprint_through_json() -> None:
    original = spec(mean=(0, 0, 0), std=(1, 1, 1))
    assert ModelSpec.from_json(original.to_json()).fingerprint == original.fingerprint


def test_numpy_numbers_in_mean_and_std_can_be_written() -> None:
    original = spec(mean=tuple(np.zeros(3, np.float32)), std=tuple(np.ones(3, np.float32)))
    assert original.fingerprint == spec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).fingerprint


def test_the_json_is_canonical() -> None:
    text = spec().to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert json.loads(text)["schema"] == "deepir.spec/1"


def test_this_list_of_fields_is_complete() -> None:
    assert set(OTHER_VALUES) == {field.name for field in dataclasses.fields(ModelSpec)}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_another_value_of_any_field_changes_the_fingerprint(name: str) -> None:
    assert spec(**{name: OTHER_VALUES[name]}).fingerprint != spec().fingerprint


def test_the_fingerprint_is_sixteen_hex_digits() -> None:
    assert len(spec().fingerprint) == 16
    assert int(spec().fingerprint, 16) >= 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sizes": ()}, "at least one size"),
        ({"sizes": ((31, 224),)}, "image side .* between 32 and 8192, got 31"),
        ({"sizes": ((224, 224), (224, 8193))}, "image side .* got 8193"),
        ({"sizes": ((224.5, 224),)}, "image side must be a whole number .* got 224.5"),
        ({"stride": 0}, "stride .* got 0"),
        ({"stride": 33}, "stride .* got 33"),
        ({"stride": 16.0}, "stride must be a whole number .* got 16.0"),
        ({"channels": 0}, "channels .* got 0"),
        ({"channels": 65537}, "channels .* got 65537"),
        ({"dim": 0}, "dim .* got 0"),
        ({"dim": 65537}, "dim .* got 65537"),
        ({"resize": "crop"}, "resize must be one of stretch, longest, nearest, got 'crop'"),
        ({"interpolation": "cubic"}, "interpolation must be one of area, bilinear, got 'cubic'"),
        ({"mean": (0.5, 0.5)}, r"three finite values each.*\(0.5, 0.5\)"),
        ({"mean": (0.5, 0.5, float("nan"))}, "three finite values each.*nan"),
        ({"std": ()}, r"three finite values each.*\(\)"),
        ({"std": (1.0, 1.0)}, r"three finite values each.*\(1.0, 1.0\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std above 0; got .*\(1.0, 0.0, 1.0\)"),
        ({"std": (1.0, float("inf"), 1.0)}, "three finite values each.*inf"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_value(changes: dict, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        spec(**changes)


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(spec().to_json()), **changes})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(spec().to_json()).items() if key != name})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object, got list"),
        ("{}", "got None"),
        (edited(schema="deepir.spec/2"), "schema deepir.spec/1, got 'deepir.spec/2'"),
        (without("dim"), "incomplete or foreign: .*dim"),
        (without("sizes"), "incomplete or foreign: .*sizes"),
        (edited(pooling="gem"), "incomplete or foreign: .*pooling"),
        (edited(sizes=[[224]]), "incomplete or foreign"),
        (edited(sizes=[[224.5, 224]]), "got 224.5"),
        (edited(mean="grey"), "incomplete or foreign"),
        (edited(dim="many"), "dim .* got many"),
        (edited(head={"levels": 99, "middle": []}), "levels .* got 99"),
        (edited(head={"levels": 2}), "incomplete or foreign: .*middle"),
    ],
)
def test_a_damaged_description_is_refused_with_the_reason(text: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        ModelSpec.from_json(text)


def test_the_middle_resolution_is_the_size() -> None:
    assert spec(sizes=((64, 64), (96, 128), (256, 256))).size == (96, 128)


def test_other_resolutions_change_nothing_else() -> None:
    assert spec().at_sizes(((64, 64),)) == spec(sizes=((64, 64),))


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec().dim = 7  # type: ignore[misc]


@pytest.mark.parametrize(("text", "size"), [("320", (320, 320)), ("480x640", (480, 640)), (" 64x32 ", (64, 32))])
def test_a_size_is_read_as_height_by_width(text: str, size: Size) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "12x", "x12", "1x2x3", "-5", "1.5", "480 640", "480X640"])
def test_a_size_in_another_form_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(SpecError, match=f"got '{text}'"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1", ((384, 512),)),
        ("0.5,1,1.5", ((192, 256), (384, 512), (576, 768))),
        ("248, 496, 744", ((248, 248), (496, 496), (744, 744))),
        ("192x256,384x512", ((192, 256), (384, 512))),
        ("192x256,384", ((192, 256), (384, 384))),
    ],
)
def test_scales_are_factors_or_sizes(text: str, sizes: tuple[Size, ...]) -> None:
    assert parse_scales(text, (384, 512)) == sizes


def test_scales_with_a_sign_are_added_to_the_size() -> None:
    assert parse_scales("-250,0,+250", (800, 600)) == ((550, 350), (800, 600), (1050, 850))


def test_scales_with_a_sign_that_are_no_pixels_are_refused() -> None:
    with pytest.raises(SpecError, match="pixels to add such as -250,0,"):
        parse_scales("-0.5,0,+0.5", (800, 800))


@pytest.mark.parametrize("text", ["", "0.5,", "0.5,320", "nan", "half"])
def test_scales_in_another_form_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected a size such as"):
        parse_scales(text, (384, 512))


def test_scaled_sizes_are_whole_pixels() -> None:
    assert scaled_sizes((333, 100), (0.5, 0.333)) == ((166, 50), (111, 33))
