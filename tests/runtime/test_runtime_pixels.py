"""Pictures of numpy, torch, PIL and a GPU: the same RGB array, or one sentence that says what to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.errors import OptionError, ShapeError
from deepir.runtime import pixels
from deepir.runtime.pixels import as_boxes, as_image

FAKES = Path(__file__).with_name("fake_gpu")


@pytest.fixture
def rgb(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)


class Offers:
    """Stands for an array of another library: it offers one interface and nothing else."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class DlpackOnly:
    """Stands for a library that speaks only DLPack."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __dlpack__(self, **words: Any) -> Any:
        return self._array.__dlpack__(**words)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class DlpackOnGpu:
    """Stands for a picture on a GPU whose library has no __cuda_array_interface__."""

    def __dlpack__(self, **_words: Any) -> Any:
        raise AssertionError

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_an_rgb_array_is_taken_as_it_is_without_a_copy(rgb: NDArray[np.uint8]) -> None:
    assert as_image(rgb) is rgb


def test_bgr_is_turned_into_rgb(rgb: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(as_image(rgb, "bgr"), rgb[:, :, ::-1])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_fourth_channel_is_left_out(rgb: NDArray[np.uint8], order: pixels.Order) -> None:
    with_alpha = np.dstack([rgb, np.full((5, 7), 9, np.uint8)])
    np.testing.assert_array_equal(as_image(with_alpha, order), rgb if order == "rgb" else rgb[:, :, ::-1])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_is_repeated_for_three_channels(
    rgb: NDArray[np.uint8], shape: tuple[int, ...], order: pixels.Order
) -> None:
    grey = rgb[:, :, 0]
    np.testing.assert_array_equal(as_image(grey.reshape(shape), order), np.dstack([grey, grey, grey]))


def test_a_view_with_padded_rows_is_read_by_its_strides(rgb: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(as_image(rgb[:, 1:5], "bgr"), rgb[:, 1:5, ::-1])


def test_an_array_interface_is_read(rgb: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(as_image(Offers(__array_interface__=rgb.__array_interface__)), rgb)


def test_dlpack_on_the_host_is_read(rgb: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(as_image(DlpackOnly(rgb)), rgb)


def test_a_torch_tensor_is_read_without_a_copy(rgb: NDArray[np.uint8]) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    tensor = torch.from_numpy(rgb)
    image = as_image(tensor)
    tensor[0, 0, 0] = 200
    assert image[0, 0, 0] == 200


def test_a_picture_of_pillow_is_read(rgb: NDArray[np.uint8]) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs pillow")
    np.testing.assert_array_equal(as_image(pillow.fromarray(rgb)), rgb)


@pytest.mark.parametrize("mode", ["P", "1", "LA", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBA", "L"])
def test_a_picture_of_pillow_in_another_mode_is_what_pillow_shows_in_rgb(rgb: NDArray[np.uint8], mode: str) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs pillow")
    picture = _in_mode(pillow.fromarray(rgb), mode)
    np.testing.assert_array_equal(as_image(picture), np.asarray(picture.convert("RGB")))


def test_a_palette_with_transparency_is_read_without_a_warning(
    rgb: NDArray[np.uint8], recwarn: pytest.WarningsRecorder
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs pillow")
    opaque = pillow.fromarray(rgb).quantize(16)
    see_through = opaque.copy()
    see_through.info["transparency"] = bytes(range(16))
    np.testing.assert_array_equal(as_image(see_through), as_image(opaque))
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_a_picture_of_pillow_with_wide_values_is_refused_with_the_cure(mode: str) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs pillow")
    with pytest.raises(ShapeError, match=r"scale it to 0\.\.255 and turn it into uint8"):
        as_image(pillow.new(mode, (7, 5)))


def test_a_mode_that_pillow_cannot_turn_into_rgb_is_refused() -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs pillow")
    with pytest.raises(ShapeError, match=r"picture of mode La into RGB .*give one of mode RGB or L"):
        as_image(pillow.new("La", (7, 5)))


def _in_mode(picture: Any, mode: str) -> Any:
    """Also in those modes that Pillow does not make of RGB."""
    if mode == "LAB":
        return pytest.importorskip("PIL.Image").merge(mode, picture.split())
    return picture.convert("P").convert(mode) if mode == "PA" else picture.convert(mode)


def test_a_picture_on_a_gpu_without_its_interface_is_refused_with_the_cure() -> None:
    with pytest.raises(ShapeError, match=r"lies on a device .*give a copy on the host, such as picture\.cpu\(\)"):
        as_image(DlpackOnGpu())


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (np.zeros((5, 7, 3), np.float32), r"got float32 of shape \(5, 7, 3\): scale it to 0\.\.255 and turn it into"),
        (np.zeros((3, 50, 70), np.uint8), r"got uint8 of shape \(3, 50, 70\): put the channels last"),
        (np.zeros((1, 5, 7, 3), np.uint8), "give one picture of the batch at a time"),
        (np.zeros((0, 7, 3), np.uint8), r"got uint8 of shape \(0, 7, 3\)"),
        (np.zeros((5, 7, 2), np.uint8), r"got uint8 of shape \(5, 7, 2\)"),
        (None, "expected a picture, .*got NoneType"),
        ("shelf.jpg", "expected a picture, .*got str"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape(picture: Any, sentence: str) -> None:
    with pytest.raises(ShapeError, match=sentence):
        as_image(picture)


def test_an_unknown_order_is_refused(rgb: NDArray[np.uint8]) -> None:
    with pytest.raises(OptionError, match="must be rgb or bgr, got 'gbr'"):
        as_image(rgb, "gbr")  # type: ignore[arg-type]


def test_boxes_may_be_a_list_an_array_or_detections(rgb: NDArray[np.uint8]) -> None:
    corners = [(1, 2, 3, 4), (0, 0, 7, 5)]
    expected = [(1.0, 2.0, 3.0, 4.0), (0.0, 0.0, 7.0, 5.0)]
    array = np.array(corners, np.float32)
    assert as_boxes(corners, rgb) == as_boxes(array, rgb) == as_boxes(Offers(xyxy=array), rgb) == expected


def test_no_boxes_give_none(rgb: NDArray[np.uint8]) -> None:
    assert as_boxes([], rgb) == as_boxes(np.empty((0, 4)), rgb) == []


numbers = st.floats(-20, 20, allow_nan=False)


@given(st.tuples(numbers, numbers, numbers, numbers))
def test_a_box_is_cut_to_the_picture_or_refused_by_its_number(box: tuple[float, float, float, float]) -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(7, box[2]), min(5, box[3])
    if left < right and top < bottom:
        assert as_boxes([box], image) == [(left, top, right, bottom)]
    else:
        with pytest.raises(ShapeError, match=r"nothing of the picture, 7 x 5 pixels, lies in box 1, .*leave it out"):
            as_boxes([(0, 0, 1, 1), box], image)


@pytest.mark.parametrize("boxes", [[(1, 2, 3)], (1, 2, 3, 4), [(1, 2, 3, float("nan"))]])
def test_what_is_no_list_of_boxes_is_refused(boxes: Any, rgb: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"expected boxes \(N, 4\) of finite x1, y1, x2, y2"):
        as_boxes(boxes, rgb)


SCRIPT = """
import ctypes, json, sys
from types import SimpleNamespace
import numpy as np
from deepir.errors import ShapeError
from deepir.runtime import pixels

cuda, library, seen = pixels._cuda(), ctypes.CDLL("libcuda.so.1"), {}
bytes_1d = np.random.default_rng(7).integers(0, 256, 6 * 32, dtype=np.uint8)
with cuda.current():
    pointer, stream = cuda.allocate(bytes_1d.size), cuda.stream()
    cuda.upload(pointer, bytes_1d, stream)
    cuda.synchronise(stream)

def given(shape, strides=None, offset=0, **more):
    interface = {"shape": shape, "typestr": "|u1", "data": (pointer + offset, False), "strides": strides, **more}
    return SimpleNamespace(__cuda_array_interface__=interface)

def same(shape, strides, offset=0, **more):
    expected = np.lib.stride_tricks.as_strided(bytes_1d[offset:], shape, strides)
    image = pixels.as_image(given(shape, strides, offset, **more))
    return image.tolist() == (expected[:, :, :3] if len(shape) == 3 else np.dstack([expected] * 3)).tolist()

def waits(**more):
    before = library.fake_default_waits()
    pixels.as_image(given((2, 3, 3), **more))
    return library.fake_default_waits() - before

seen["packed"] = pixels.as_image(given((6, 10, 3))).tolist() == bytes_1d[:180].reshape(6, 10, 3).tolist()
seen["pitched"] = same((6, 10, 3), (32, 3, 1))
seen["four channels"] = same((6, 8, 4), (32, 4, 1))
seen["grey"] = same((6, 30), (32, 1))
seen["crop"] = same((3, 4, 3), (32, 3, 1), 32 + 6)
seen["upside down"] = pixels.as_image(given((6, 10, 3), (-32, 3, 1), 5 * 32)).tolist() == bytes_1d.reshape(
    6, 32)[::-1, :30].reshape(6, 10, 3).tolist()
seen["waits"] = [waits(version=3, stream=one) for one in (1, 2, None)] + [waits(version=2)]
seen["other stream"] = pixels.as_image(given((2, 3, 3), version=3, stream=stream)).shape
foreign = ctypes.c_void_p()
with cuda.current():
    library.cuStreamCreate(ctypes.byref(foreign), 1)
seen["stream of another library"] = pixels.as_image(given((2, 3, 3), version=3, stream=foreign.value)).shape
try:
    pixels.as_image(given((3, 5, 7)))
except ShapeError as error:
    seen["channels first"] = str(error)
with cuda.current():
    library.cuStreamDestroy_v2(foreign)
    cuda.end_stream(stream)
    cuda.free(pointer)
text = ctypes.create_string_buffer(1000)
library.fake_state(text, 1000)
seen["state"] = json.loads(text.value)
sys.stdout.write(json.dumps(seen))
"""


@pytest.fixture(scope="module", params=["cuda-python", "pycuda"])
def on_a_gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of pictures in the memory of FakeLibcuda, a driver whose memory is the host's."""
    if request.param == "cuda-python":
        pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build FakeLibcuda")
    folder = tmp_path_factory.mktemp("driver")
    words = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", FAKES / "libcuda.c", "-ldl"]
    subprocess.run([compiler, *map(str, words)], check=True)
    path = str(FAKES) if request.param == "pycuda" else ""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("layout", ["packed", "pitched", "four channels", "grey", "crop", "upside down"])
def test_a_picture_on_a_gpu_comes_to_the_host_by_its_strides(on_a_gpu: dict[str, Any], layout: str) -> None:
    assert on_a_gpu[layout] is True


def test_the_stream_that_writes_a_picture_is_waited_for(on_a_gpu: dict[str, Any]) -> None:
    assert on_a_gpu["waits"] == [1, 1, 0, 1]


def test_the_stream_may_belong_to_another_library(on_a_gpu: dict[str, Any]) -> None:
    assert on_a_gpu["other stream"] == on_a_gpu["stream of another library"] == [2, 3, 3]


def test_a_picture_on_a_gpu_with_channels_first_is_refused(on_a_gpu: dict[str, Any]) -> None:
    assert "put the channels last" in on_a_gpu["channels first"]


def test_reading_from_a_gpu_leaves_nothing_there(on_a_gpu: dict[str, Any]) -> None:
    state = on_a_gpu["state"]
    assert (state["memory"], state["pinned"], state["streams"], state["pushed"]) == (0, 0, 0, 0)
