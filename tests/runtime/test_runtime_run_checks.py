"""Arrays that are not what a file takes are refused in one sentence, before anything runs."""

from pathlib import Path

import numpy as np
import pytest

from deepir.card import ModelCard
from deepir.errors import ModelError, ShapeError
from deepir.runtime.run_checks import check_arrays, check_descriptors
from deepir.spec import ModelSpec


def card(**changes: object) -> ModelCard:
    fields = {"sizes": ((64, 96),), "resize": "stretch"}
    card_fields = {name: changes.pop(name) for name in ("pixels", "strides") if name in changes}
    numbers = {"mean": (0, 0, 0), "std": (1, 1, 1), "stride": 16, "channels": 8, "dim": 8}
    return ModelCard(ModelSpec(backbone="custom:none", **{**numbers, **fields, **changes}), **card_fields)


IMAGES = np.zeros((2, 3, 64, 96), np.float32)
PIXELS = np.zeros((2, 64, 96, 3), np.uint8)
ROIS = np.zeros((5, 4), np.int32)
FREE = {"resize": "longest", "strides": (16,)}
SEVERAL = {"sizes": ((64, 96), (32, 48))}


@pytest.mark.parametrize(
    ("fields", "arrays"),
    [
        ({}, [IMAGES]),
        ({"pixels": "uint8"}, [PIXELS]),
        (FREE, [IMAGES[:, :, :, :50], ROIS]),
        (SEVERAL, [IMAGES, IMAGES[:, :, :32, :48]]),
    ],
)
def test_what_the_card_tells_of_passes(fields: dict, arrays: list) -> None:
    check_arrays(card(**fields), arrays)


@pytest.mark.parametrize(
    ("fields", "arrays", "sentence"),
    [
        ({}, [], r"takes 1 arrays \(images\), got 0"),
        ({}, [IMAGES[0]], r"float32 \(any, 3, 64, 96\), got float32 of shape \(3, 64, 96\)"),
        ({}, [IMAGES[:, :, :32]], r"got float32 of shape \(2, 3, 32, 96\)"),
        ({}, [IMAGES.astype(np.float64)], "got float64"),
        ({"pixels": "uint8"}, [IMAGES], r"uint8 \(any, 64, 96, 3\), got float32"),
        (FREE, [IMAGES, ROIS.astype(np.int64)], "takes rois as int32"),
        (SEVERAL, [IMAGES, IMAGES[:1, :, :32, :48]], r"same pictures, got batches of \[1, 2\]"),
    ],
)
def test_anything_else_is_refused_with_both_shapes(fields: dict, arrays: list, sentence: str) -> None:
    with pytest.raises(ShapeError, match=sentence):
        check_arrays(card(**fields), arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_descriptors_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match=r"student\.onnx gives NaN"):
        check_descriptors(np.full((1, 4), value, np.float32), Path("student.onnx"))
