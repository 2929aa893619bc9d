"""The reader of .caffemodel files: known bytes, every form of numbers, and damage."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepir.distill.caffe_file import read_caffemodel
from deepir.errors import ModelError

DATA = Path(__file__).parents[1] / "data"


def test_the_known_file_is_decoded_exactly() -> None:
    layers = {layer.name: layer for layer in read_caffemodel(DATA / "tiny.caffemodel")}
    assert list(layers) == ["conv1", "bn_conv1", "scale_conv1", "pooled_rois/pca"]
    assert [layer.type for layer in layers.values()] == ["Convolution", "BatchNorm", "Scale", "InnerProduct"]
    expected = {
        "conv1": [np.float32([0, 0.1, 0.2, 0.3, 0.4, 0.5]).reshape(2, 3, 1, 1)],
        "bn_conv1": [np.float32([2, 4]), np.float32([8, 2]), np.float32([2])],
        "scale_conv1": [np.float32([1, 3]), np.float32([0.5, -0.5])],
        "pooled_rois/pca": [np.float32([[[[0, 0.25], [0.5, 0.75]]]]), np.float64([0.1, 0.2])],
    }
    for name, arrays in expected.items():
        for blob, array in zip(layers[name].blobs, arrays, strict=True):
            assert blob.dtype == array.dtype
            np.testing.assert_array_equal(blob, array, strict=True)


def test_the_known_file_of_the_old_form_is_decoded_exactly() -> None:
    (layer,) = read_caffemodel(DATA / "tiny_v1.caffemodel")
    assert (layer.name, layer.type) == ("fc", "InnerProduct")
    np.testing.assert_array_equal(layer.blobs[0], np.float32([[[[0, 0.25], [0.5, 0.75]]]]), strict=True)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("old_shape", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_form_of_numbers_is_read(
    packed: bool, old_shape: bool, dtype: type, caffe: SimpleNamespace, tmp_path: Path
) -> None:
    weight = np.random.default_rng(0).normal(size=(300, 7)).astype(dtype)
    layer = caffe.Layer("fc", "InnerProduct", [weight], ["before"])
    path = tmp_path / "m.caffemodel"
    path.write_bytes(caffe.layer_message(layer, packed=packed, old_shape=old_shape))
    (read,) = read_caffemodel(path)
    assert read.inputs == ("before",)
    assert read.blobs[0].shape == ((1, 1, 300, 7) if old_shape else (300, 7))
    np.testing.assert_array_equal(read.blobs[0].reshape(300, 7), weight)


def test_values_in_several_runs_are_joined(caffe: SimpleNamespace, tmp_path: Path) -> None:
    single = caffe.varint(5 << 3 | 5)
    runs = caffe.message(5, np.float32([1, 2]).tobytes()) + single + np.float32(3).tobytes()
    shape = caffe.message(7, b"\x08\x02\x08\x02")
    blob = caffe.message(7, runs + shape + single + np.float32(4).tobytes())
    (tmp_path / "m.caffemodel").write_bytes(caffe.message(100, caffe.message(1, b"fc") + blob))
    (layer,) = read_caffemodel(tmp_path / "m.caffemodel")
    np.testing.assert_array_equal(layer.blobs[0], [[1, 2], [3, 4]])


def test_layers_without_weights_and_unknown_fields_are_passed_over(caffe: SimpleNamespace, tmp_path: Path) -> None:
    unknown = caffe.message(18, b"settings") + caffe.varint(10 << 3) + b"\x01" + caffe.varint(90 << 3 | 5) + b"abcd"
    relu = caffe.message(100, caffe.message(1, b"relu") + unknown)
    layer = caffe.layer_message(caffe.Layer("fc", "InnerProduct", [np.float32([[1]])]))
    (tmp_path / "m.caffemodel").write_bytes(unknown + relu + layer)
    assert [(layer.name, len(layer.blobs)) for layer in read_caffemodel(tmp_path / "m.caffemodel")] == [
        ("relu", 0),
        ("fc", 1),
    ]


@pytest.mark.parametrize("length", [1, 7, 20, 100, 200, 279])
def test_a_truncated_file_is_refused(length: int, tmp_path: Path) -> None:
    (tmp_path / "cut.caffemodel").write_bytes((DATA / "tiny.caffemodel").read_bytes()[:length])
    with pytest.raises(ModelError, match=r"cut\.caffemodel"):
        read_caffemodel(tmp_path / "cut.caffemodel")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"\xff" * 40, "without an end"),
        (b"\xa2\x06\xff\xff\xff\xff\xff\x0f", "truncated: field 100 wants"),
        (b"\xa2\x06\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "truncated"),
        (b"\x0b\x00", "wire type 3"),
        (b"\x02\x00", "field 0"),
        (b"\x0a\x04tiny", "no layer with weights"),
        (b"name: 'tiny'\nlayer {\n}\n", "wire type"),
    ],
)
def test_bytes_that_are_no_model_are_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "m.caffemodel").write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        read_caffemodel(tmp_path / "m.caffemodel")
    assert str(caught.value).count("\n") == 0


def test_a_shape_that_disagrees_with_its_values_names_the_layer(caffe: SimpleNamespace, tmp_path: Path) -> None:
    shape = caffe.message(7, caffe.message(1, caffe.varint(1 << 40) + b"\x02"))
    blob = caffe.message(7, shape + caffe.message(5, bytes(8)))
    (tmp_path / "m.caffemodel").write_bytes(caffe.message(100, caffe.message(1, b"conv9") + blob))
    with pytest.raises(ModelError, match=r"'conv9': a blob of shape 1099511627776x2 holds 2 values"):
        read_caffemodel(tmp_path / "m.caffemodel")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.caffemodel.*No such file"):
        read_caffemodel(tmp_path / "absent.caffemodel")


def outcome(path: Path) -> str:
    try:
        return str([layer.name for layer in read_caffemodel(path)])
    except ModelError as error:
        return str(error)


@given(place=st.integers(0, 279), byte=st.integers(0, 255))
@example(place=152, byte=21)  # a type written as a 32-bit number
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_causes_anything_but_a_model_or_one_sentence(
    place: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray((DATA / "tiny.caffemodel").read_bytes())
    content[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.caffemodel"
    path.write_bytes(content)
    assert "\n" not in outcome(path)
