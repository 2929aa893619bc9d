"""INT8 of every form: several inputs, free sizes, uint8 pixels, and weights that several convolutions share."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions

from deepir.calib.derive import plain_int8
from deepir.calib.onnx_check import check
from deepir.calib.onnx_file import Feeds, describe, open_session, prepared, read_card
from deepir.calib.quantise import int8_share, place
from deepir.calib.ranges import measure_statistics
from deepir.distill.checkpoint import Model
from deepir.export.graph import build_onnx
from deepir.image import list_images, read_image
from deepir.inputs import model_inputs

MakeModel = Callable[..., Model]
CONVOLUTIONS = 3
FORMS = {
    "two resolutions": ({"sizes": ((64, 64), (96, 64))}, {}),
    "two resolutions, uint8": ({"sizes": ((64, 64), (96, 64))}, {"pixels": "uint8"}),
    "nearest": ({"sizes": ((64, 64), (96, 64)), "resize": "nearest"}, {}),
    "longest": ({"resize": "longest"}, {"pixels": "uint8"}),
}


@pytest.fixture(scope="module")
def masters(make_model: MakeModel) -> dict[str, onnx.ModelProto]:
    model = make_model(dim=6)
    return {
        form: build_onnx(Model(model.network, dataclasses.replace(model.spec, **spec)), **options)
        for form, (spec, options) in FORMS.items()
    }


@pytest.fixture(scope="module")
def paths(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve pictures, every third of them half as wide."""
    folder = tmp_path_factory.mktemp("aspects")
    for number, path in enumerate(list_images(pictures)[:12]):
        image = read_image(path)
        cv2.imwrite(str(folder / f"{number:02}.png"), (image[:, : len(image) // 2] if number % 3 == 0 else image))
    return list_images(folder)


def quantised(proto: onnx.ModelProto, paths: list[Path]) -> onnx.ModelProto:
    return plain_int8(proto, lambda: prepared(paths, read_card(proto)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_int8_and_stays_close(
    masters: dict[str, onnx.ModelProto], paths: list[Path], form: str
) -> None:
    master = masters[form]
    int8 = quantised(master, paths)
    check(int8)
    assert int8_share(int8) == 1
    card = read_card(master)
    right, found = describe(master, card, paths), describe(int8, card, paths)
    assert np.sum(right * found, axis=1).min() > 0.98
    # sums of INT8 convolutions may be rounded in another order where the body stands in place
    inlined = describe(inline_local_functions(int8), card, paths)
    np.testing.assert_allclose(inlined, found, atol=2e-3)


def test_weights_that_two_resolutions_share_are_quantised_once(
    masters: dict[str, onnx.ModelProto], paths: list[Path]
) -> None:
    int8 = quantised(masters["two resolutions"], paths)
    weights = [tensor.name for tensor in int8.graph.initializer if tensor.name.endswith("weight/codes")]
    assert len(weights) == CONVOLUTIONS
    readers = Counter(node.input[1] for node in int8.graph.node if node.op_type == "Conv")
    assert set(readers.values()) == {2}
    makers = [node.output[0] for node in int8.graph.node if node.op_type == "DequantizeLinear"]
    assert len(makers) == len(set(makers))


def test_each_resolution_has_ranges_of_its_own(masters: dict[str, onnx.ModelProto], paths: list[Path]) -> None:
    tensors = place(masters["two resolutions"]).tensors
    assert {"images_0", "images_1"} <= set(tensors)
    ranges = measure_statistics(
        masters["two resolutions"], tensors, lambda: prepared(paths, read_card(masters["two resolutions"]))
    )
    inner = [name.removesuffix("@0") for name in tensors if name.endswith("@0")]
    assert inner
    assert all(f"{name}@1" in ranges for name in inner)


def test_pixels_are_quantised_after_they_are_normalised(masters: dict[str, onnx.ModelProto]) -> None:
    tensors = place(masters["longest"]).tensors
    assert "prepared" in tensors
    assert not {"images", "pixels", "scaled"} & set(tensors)


def test_ranges_are_the_largest_over_groups_of_different_sizes(masters: dict[str, onnx.ModelProto]) -> None:
    card = read_card(masters["nearest"])
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, top, (*size, 3), dtype=np.uint8) for size, top in (((64, 64), 256), ((96, 64), 200))
    ]
    groups = model_inputs(images, card)
    feeds: list[Feeds] = [dict(zip(card.inputs(), group.arrays, strict=True)) for group in groups]
    assert len(feeds) == 2
    for order in (feeds, feeds[::-1]):
        found = measure_statistics(masters["nearest"], ["images"], lambda batches=order: batches)["images"]
        assert found.largest == pytest.approx(max(np.abs(feed["images"]).max() for feed in feeds))


@pytest.mark.parametrize("form", ["nearest", "longest"])
def test_descriptors_come_in_the_order_of_the_pictures(
    masters: dict[str, onnx.ModelProto], paths: list[Path], form: str
) -> None:
    master, card = masters[form], read_card(masters[form])
    assert len({feeds["images"].shape for feeds in prepared(paths, card)}) > 1
    single = np.concatenate([describe(master, card, [path]) for path in paths])
    np.testing.assert_allclose(describe(master, card, paths), single, atol=1e-6)


def test_no_pictures_give_no_descriptors(masters: dict[str, onnx.ModelProto]) -> None:
    assert describe(masters["longest"], read_card(masters["longest"]), []).shape == (0, 6)


def test_prepared_pictures_are_what_the_session_takes(masters: dict[str, onnx.ModelProto], paths: list[Path]) -> None:
    for master in masters.values():
        session = open_session(master)
        wanted = {value.name: value.type for value in session.get_inputs()}
        for feeds in prepared(paths[:2], read_card(master)):
            assert set(feeds) == set(wanted)
            types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
            assert all(array.dtype == types[wanted[name]] for name, array in feeds.items())
