"""Reading pictures of every kind, refusing damaged ones, and preparing them for the network."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import InputError, ShapeError
from deepir.image import Image, check_image, decode_image, holds_pixels, list_images, prepare, read_image
from deepir.spec import ModelSpec, Size

PICTURE: Image = np.random.default_rng(5).integers(0, 256, (48, 64, 3)).astype(np.uint8)
# one colour for each quarter, so that a turn shows after JPEG too
QUARTERS: Image = np.kron(
    np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]]), np.ones((16, 24, 1))
).astype(np.uint8)
TURNS = {
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS, -1),
    7: QUARTERS.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(QUARTERS),
}


def spec(**changes: object) -> ModelSpec:
    fields = {
        "backbone": "timm:resnet18",
        "sizes": ((64, 96),),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "stride": 32,
        "channels": 512,
        "dim": 128,
    }
    return ModelSpec(**{**fields, **changes})


def encoded(image: np.ndarray, suffix: str, *options: int) -> bytes:
    bgr = image[:, :, ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    return cv2.imencode(suffix, bgr, options)[1].tobytes()


def jpeg_segment(marker: bytes, content: bytes) -> bytes:
    return marker + struct.pack(">H", len(content) + 2) + content


def jpeg_with_orientation(orientation: int) -> bytes:
    tiff = b"MM\x00\x2a\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    plain = encoded(QUARTERS, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98)
    return plain[:2] + jpeg_segment(b"\xff\xe1", b"Exif\x00\x00" + tiff) + plain[2:]


def jpeg_with_thumbnail() -> bytes:
    plain = encoded(PICTURE, ".jpg")
    return plain[:2] + jpeg_segment(b"\xff\xe1", encoded(PICTURE[::4, ::4], ".jpg")) + plain[2:]


def png_of_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_lossless_file_gives_its_pixels_as_rgb(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"picture{suffix}").write_bytes(encoded(PICTURE, suffix))
    np.testing.assert_array_equal(read_image(tmp_path / f"picture{suffix}"), PICTURE)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_lossy_file_gives_nearly_its_pixels_as_rgb(suffix: str) -> None:
    decoded = decode_image(encoded(QUARTERS, suffix), "picture")
    assert np.abs(decoded[4:12, 4:20].astype(int) - [250, 10, 10]).max() < 20


def test_what_is_read_is_contiguous() -> None:
    assert decode_image(encoded(PICTURE, ".png"), "picture").flags.c_contiguous


@pytest.mark.parametrize("orientation", TURNS)
def test_a_photo_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    decoded = decode_image(jpeg_with_orientation(orientation), "photo")
    expected = TURNS[orientation].astype(int)
    assert decoded.shape == expected.shape
    assert np.median(np.abs(decoded - expected)) < 10


def test_grey_becomes_rgb_with_three_equal_channels() -> None:
    grey = PICTURE[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(grey, ".png"), "grey"), np.stack([grey] * 3, axis=2))


def test_transparency_is_dropped() -> None:
    bgra = np.dstack([PICTURE[:, :, ::-1], np.full((48, 64), 128, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(bgra, ".png"), "rgba"), PICTURE)


def test_sixteen_bits_become_the_upper_eight() -> None:
    deep = PICTURE.astype(np.uint16) * 256 + 37
    np.testing.assert_allclose(decode_image(encoded(deep, ".png"), "deep"), PICTURE, atol=1)


def test_a_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent.jpg: No such file"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8", b"\xff\xd8\xff\xe1"])
def test_what_is_not_a_picture_is_refused_with_its_length(content: bytes) -> None:
    with pytest.raises(InputError, match=rf"cannot decode holiday.jpg \({len(content)} bytes\)"):
        decode_image(content, "holiday.jpg")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_a_file_cut_short_is_refused(suffix: str, share: float) -> None:
    whole = encoded(PICTURE, suffix)
    with pytest.raises(InputError, match="damaged or not a picture"):
        decode_image(whole[: int(share * len(whole))], "cut")


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_without_its_last_two_bytes_is_refused(progressive: int) -> None:
    whole = encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    with pytest.raises(InputError, match="damaged or not a picture"):
        decode_image(whole[:-2], "cut")


def test_a_jpeg_cut_short_is_refused_before_opencv_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenCV 4 decodes such a file and paints the rest grey; OpenCV 5 refuses it
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="damaged or not a picture"):
        decode_image(encoded(PICTURE, ".jpg")[:-2], "cut")


def test_the_end_of_a_thumbnail_does_not_pass_for_the_end_of_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="damaged or not a picture"):
        decode_image(jpeg_with_thumbnail()[:-2], "cut")


@pytest.mark.parametrize("trailer", [b"", b"what some phones append"])
def test_a_whole_jpeg_with_thumbnail_and_trailer_is_read(trailer: bytes) -> None:
    assert decode_image(jpeg_with_thumbnail() + trailer, "photo").shape == PICTURE.shape


def test_fill_bytes_between_the_segments_of_a_jpeg_are_allowed() -> None:
    plain = encoded(PICTURE, ".jpg")
    assert decode_image(plain[:2] + b"\xff\xff" + plain[2:], "photo").shape == PICTURE.shape


def test_a_header_that_claims_too_many_pixels_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot decode bomb.png"):
        decode_image(png_of_size(60_000, 60_000), "bomb.png")


def test_images_of_a_folder_are_listed_sorted_at_any_depth_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", ".hidden.jpg", "b/notes.txt", "b/c/3.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a.webp", "b/1.png", "b/2.JPG", "b/c/3.tiff"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder: .*absent"):
        list_images(tmp_path / "absent")


def test_a_folder_without_images_is_refused_with_the_endings_that_count(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images in .*.jpg"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=str,
)
def test_an_array_that_is_no_rgb_image_is_refused_with_its_shape_and_type(wrong: np.ndarray) -> None:
    with pytest.raises(ShapeError) as refusal:
        check_image(wrong)
    assert f"got {wrong.dtype} of shape {wrong.shape}" in str(refusal.value)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (683, 1024, (534, 800)),
        (1024, 683, (800, 534)),
        (300, 400, (600, 800)),
        (800, 800, (800, 800)),
        (1, 4000, (1, 800)),
    ],
)
def test_longest_makes_the_longest_side_the_size_and_keeps_the_aspect(height: int, width: int, size: Size) -> None:
    blank = np.zeros((height, width, 3), np.uint8)
    assert prepare(blank, spec(resize="longest"), (800, 800)).shape[2:] == size


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_stretch_always_gives_the_size(height: int, width: int) -> None:
    blank = np.broadcast_to(np.uint8(0), (height, width, 3))
    assert prepare(blank, spec(), (64, 96)).shape[2:] == (64, 96)


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_prepare_equals_the_plain_formula(interpolation: str) -> None:
    small = (32, 40)
    method = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR}[interpolation]
    resized = cv2.resize(PICTURE, (40, 32), interpolation=method).astype(np.float64)
    expected = ((resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None]
    prepared = prepare(PICTURE, spec(interpolation=interpolation), small)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)


def test_both_interpolations_enlarge_alike() -> None:
    area, bilinear = (prepare(PICTURE, spec(interpolation=name), (96, 128)) for name in ("area", "bilinear"))
    np.testing.assert_array_equal(area, bilinear)


def test_prepare_gives_contiguous_float32_at_the_specs_size() -> None:
    prepared = prepare(PICTURE, spec())
    assert (prepared.shape, prepared.dtype, prepared.flags.c_contiguous) == ((1, 3, 64, 96), np.float32, True)


def test_prepare_leaves_the_picture_as_it_was() -> None:
    before = PICTURE.copy()
    prepare(PICTURE, spec(), PICTURE.shape[:2])
    np.testing.assert_array_equal(PICTURE, before)


def test_prepare_refuses_what_is_no_image() -> None:
    with pytest.raises(ShapeError, match="float32"):
        prepare(PICTURE.astype(np.float32), spec())


CAFFE_RGB = (123.68000031, 116.77899933, 103.93900299)
CAFFE = {"mean": tuple(value / 255 for value in CAFFE_RGB), "std": (1 / 255,) * 3, "interpolation": "bilinear"}


@pytest.mark.parametrize("mean", [CAFFE_RGB, (123.68, 116.779, 103.939), (0.0, 128.0, 255.0)])
def test_a_caffe_mean_is_subtracted_from_every_value_to_the_last_bit(mean: tuple[float, float, float]) -> None:
    every_value: Image = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    caffe = spec(mean=tuple(value / 255 for value in mean), std=(1 / 255,) * 3)
    expected = every_value.astype(np.float32) - np.array(mean, dtype=np.float32)
    np.testing.assert_array_equal(prepare(every_value, caffe, (16, 16)), expected.transpose(2, 0, 1)[None])


def test_rgb_prepared_and_turned_over_is_what_a_bgr_network_was_given() -> None:
    prepared = prepare(PICTURE, spec(**CAFFE, resize="longest"), (96, 96))
    bgr = cv2.resize(np.ascontiguousarray(PICTURE[:, :, ::-1]), (96, 72))
    expected = bgr.astype(np.float32) - np.array(CAFFE_RGB[::-1], dtype=np.float32)
    np.testing.assert_array_equal(prepared[:, ::-1], expected.transpose(2, 0, 1)[None])


def cut(image: Image, box: tuple[float, ...], side: int) -> np.ndarray:
    """The crop of a query as the original does it: resize by the ratio, then cut rounded indices."""
    ratio = side / max(image.shape[:2])
    resized = cv2.resize(image, (round(image.shape[1] * ratio), round(image.shape[0] * ratio)))
    left, top, right, bottom = np.round(np.array(box) * ratio).astype(np.int32)
    return resized[top:bottom, left:right]


@pytest.mark.parametrize("side", [32, 64, 100])
@pytest.mark.parametrize("box", [(0, 0, 64, 48), (3.4, 5.6, 40.2, 33.3), (10, 20, 63.9, 47.9), (5, 5, 9, 30)])
def test_a_query_is_cut_out_of_the_resized_picture_and_not_resized_again(
    box: tuple[float, float, float, float], side: int
) -> None:
    longest = spec(**CAFFE, resize="longest")
    expected = cut(PICTURE, box, side).astype(np.float32) - np.array(CAFFE_RGB, dtype=np.float32)
    np.testing.assert_array_equal(prepare(PICTURE, longest, (side, side), box), expected.transpose(2, 0, 1)[None])


def test_indices_of_a_box_are_rounded_half_to_even_and_its_end_is_exclusive() -> None:
    # 64 pixels become 32: 5 / 2 is 2.5 and becomes 2, 7 / 2 is 3.5 and becomes 4
    longest = spec(resize="longest")
    whole = prepare(PICTURE, longest, (32, 32))
    np.testing.assert_array_equal(prepare(PICTURE, longest, (32, 32), (5, 7, 41, 43)), whole[:, :, 4:22, 2:20])


def test_a_box_as_large_as_the_picture_changes_nothing() -> None:
    for resize in ("longest", "stretch"):
        model = spec(resize=resize)
        np.testing.assert_array_equal(prepare(PICTURE, model, box=(0, 0, 64, 48)), prepare(PICTURE, model))


def test_stretch_resizes_the_part_in_the_box() -> None:
    stretched = prepare(PICTURE, spec(), (64, 96), (9.5, 2.5, 50.4, 41.2))
    np.testing.assert_array_equal(stretched, prepare(PICTURE[2:41, 10:50], spec(), (64, 96)))


@pytest.mark.parametrize("resize", ["longest", "stretch"])
def test_what_sticks_out_of_the_picture_is_cut_off(resize: str) -> None:
    model = spec(resize=resize)
    inside = prepare(PICTURE, model, (64, 64), (0, 10, 64, 48))
    np.testing.assert_array_equal(prepare(PICTURE, model, (64, 64), (-8, 10, 1e300, 99)), inside)


@pytest.mark.parametrize("resize", ["longest", "stretch"])
@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 5, 5, 9), (70, 5, 90, 9), (5, -9, 9, -2), (5.1, 5.1, 5.2, 9), (-5, -5, -1, -1)]
)
def test_a_box_without_a_pixel_of_the_picture_is_refused_with_both(
    box: tuple[float, float, float, float], resize: str
) -> None:
    with pytest.raises(ShapeError, match=r"nothing of the picture, 64 x 48 pixels, lies in the box \("):
        prepare(PICTURE, spec(resize=resize), (64, 64), box)


SIDES = st.floats(-20, 90)


@given(st.tuples(SIDES, SIDES, SIDES, SIDES), st.sampled_from(["longest", "stretch", "nearest"]))
def test_a_box_holds_pixels_exactly_where_it_can_be_resized(box: tuple[float, ...], mode: str) -> None:
    kind = spec(resize=mode, sizes=((32, 40),))
    try:
        prepare(PICTURE, kind, box=box)
    except ShapeError:
        assert not holds_pixels(box, PICTURE, kind)
    else:
        assert holds_pixels(box, PICTURE, kind)


@pytest.mark.parametrize("box", [(0, 0, np.nan, 5), (0, 0, np.inf, 5), (0, 0, 5)])
def test_a_box_that_is_not_four_finite_numbers_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(ShapeError, match="a box needs four finite numbers"):
        prepare(PICTURE, spec(resize="longest"), (64, 64), box)
