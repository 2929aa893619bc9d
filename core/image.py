"""Pictures in, network input out: read, resize and normalise, written once for training and running."""

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.errors import InputError, ShapeError
from deepir.optional import need
from deepir.spec import ModelSpec, Size

Image = NDArray[np.uint8]
"""(H, W, 3) RGB."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the original picture, ends exclusive."""

Images = NDArray[np.float32]
"""(N, 3, H, W), normalised."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_JPEG_START, _JPEG_SCAN, _JPEG_END, _JPEG_FILL = b"\xff\xd8", b"\xff\xda", b"\xff\xd9", b"\xff\xff"


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files are left out.

    Raises:
        InputError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        message = f"no such folder: {folder}"
        raise InputError(message)
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    images = sorted(file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if not images:
        message = f"no images in {folder}: expected files ending in {', '.join(sorted(SUFFIXES))}"
        raise InputError(message)
    return images


def read_image(path: Path) -> Image:
    """Decode a file to RGB, turned upright by its EXIF orientation.

    Raises:
        InputError: The file is missing, empty, or not a picture.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    return decode_image(encoded, str(path))


def decode_image(encoded: bytes, name: str) -> Image:
    """Decode the bytes of a picture; `name` is what the error calls it.

    Raises:
        InputError: Not a picture, or one that is cut short.
    """
    cv2 = need("cv2")
    try:
        bgr = None if _is_cut_short(encoded) else cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        # what OpenCV raises, rather than returns, for a header that claims more pixels than it allows
        bgr = None
    if bgr is None:
        message = f"cannot decode {name} ({len(encoded)} bytes): it is damaged or not a picture"
        raise InputError(message)
    return turn_to_rgb(bgr)


def turn_to_rgb(bgr: Image) -> Image:
    """OpenCV's order of channels to ours; copying a view with the last axis reversed takes many times longer."""
    cv2 = need("cv2")
    rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def check_image(image: Image) -> None:
    """Refuse what is not uint8 (H, W, 3) with pixels.

    Raises:
        ShapeError: Says the shape and type that came.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        message = f"expected an RGB image, uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}"
        raise ShapeError(message)


def prepare(image: Image, spec: ModelSpec, size: Size | None = None, box: Box | None = None) -> Images:
    """One image as network input (1, 3, H, W), resized as `resize` does it and normalised.

    Args and Raises: as `resize`.
    """
    resized = resize(image, spec, size, box)
    # (x / 255 - mean) / std as one multiplication and one subtraction
    scale, shift = pixel_scale(spec)
    images_nchw = np.empty((1, 3, *resized.shape[:2]), np.float32)
    # channel by channel: arrays of three values along the last axis cost numpy eight times as much
    for row, values_hw in enumerate(need("cv2").split(resized)):
        np.multiply(values_hw, scale[row], out=images_nchw[0, row])
        np.subtract(images_nchw[0, row], shift[row], out=images_nchw[0, row])
    return images_nchw


def pixel_scale(spec: ModelSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What values of 0..255 are multiplied by, and what is subtracted then, for each of the three channels."""
    # in double precision, so that a std of 1 / 255 subtracts exactly the mean of 0..255 that Caffe models were given
    std = np.asarray(spec.std, dtype=np.float64)
    return (1 / (255 * std)).astype(np.float32), (np.asarray(spec.mean, dtype=np.float64) / std).astype(np.float32)


def resize(image: Image, spec: ModelSpec, size: Size | None = None, box: Box | None = None) -> Image:
    """One image as uint8 (h, w, 3) at `size`; by default at the spec's middle size, or that of the nearest aspect.

    A box of a query is cut out of the resized picture and not resized again with `longest` (method.md 2.2); with
    `stretch` and `nearest` the part in the box is what is resized.

    Args:
        image: RGB, uint8 (H, W, 3).
        spec: How to resize and normalise.
        size: (height, width) in pixels.
        box: x1, y1, x2, y2 in pixels of `image`, ends exclusive; rounded (half to even) after scaling.

    Raises:
        ShapeError: Not an RGB uint8 image, or nothing of it lies in the box.
    """
    check_image(image)
    return _resized_part(image, spec, size, box)


def holds_pixels(box: Box, image: Image, spec: ModelSpec, size: Size | None = None) -> bool:
    """Whether anything of an image lies in a box, so that `resize` has something to cut out; arguments as there."""
    left, top, right, bottom = _corners(box, *_cut_from(image, spec, size))
    return left < right and top < bottom


def _usual_size(image: Image, spec: ModelSpec) -> Size:
    if spec.resize != "nearest":
        return spec.size
    aspect = math.log(image.shape[1] / image.shape[0])
    return min(spec.sizes, key=lambda size: abs(math.log(size[1] / size[0]) - aspect))


def _resized_part(image: Image, spec: ModelSpec, size: Size | None, box: Box | None) -> Image:
    if spec.resize != "longest":
        part = image if box is None else image[_window(box, *_cut_from(image, spec, size))]
        return _resize(part, spec, size or _usual_size(part, spec))
    whole = _resize(image, spec, _longest(image, size or spec.size))
    return whole if box is None else whole[_window(box, *_cut_from(image, spec, size))]


def _cut_from(image: Image, spec: ModelSpec, size: Size | None) -> tuple[Size, float]:
    """The size of the picture that a box is cut out of, and how much larger than the image it is."""
    if spec.resize != "longest":
        return (image.shape[0], image.shape[1]), 1.0
    return _longest(image, size or spec.size), _ratio(image, size or spec.size)


def _ratio(image: Image, size: Size) -> float:
    ratio: float = max(size) / max(image.shape[:2])
    return ratio


def _longest(image: Image, size: Size) -> Size:
    ratio = _ratio(image, size)
    return max(1, round(image.shape[0] * ratio)), max(1, round(image.shape[1] * ratio))


def _window(box: Box, size: Size, ratio: float) -> tuple[slice, slice]:
    """Rows and columns of a box, given in pixels of the original, in the picture resized by `ratio` to `size`."""
    left, top, right, bottom = _corners(box, size, ratio)
    if left >= right or top >= bottom:
        message = (
            f"nothing of the picture, {size[1]} x {size[0]} pixels, lies in the box {box} (x1, y1, x2, y2) "
            f"scaled by {ratio:.3g}: correct the box or leave it out"
        )
        raise ShapeError(message)
    return slice(top, bottom), slice(left, right)


def _corners(box: Box, size: Size, ratio: float) -> list[int]:
    if len(box) != 4 or not np.isfinite(box).all():
        message = f"a box needs four finite numbers x1, y1, x2, y2, got {box}"
        raise ShapeError(message)
    corners: list[int] = np.rint(np.multiply(box, ratio)).clip(0, [size[1], size[0]] * 2).astype(int).tolist()
    return corners


def _resize(image: Image, spec: ModelSpec, size: Size) -> Image:
    if image.shape[:2] == size:
        return image
    cv2 = need("cv2")
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if spec.interpolation == "area" and shrinks else cv2.INTER_LINEAR
    resized: Image = cv2.resize(image, (size[1], size[0]), interpolation=method)
    return resized


def _is_cut_short(encoded: bytes) -> bool:
    """Whether nothing is there, or a JPEG lacks its end marker: OpenCV 4 paints the missing part grey and goes on."""
    if not encoded.startswith(_JPEG_START):
        return not encoded
    # the segments before the scan are passed over: a thumbnail among them has an end marker of its own
    position = len(_JPEG_START)
    while (marker := encoded[position : position + 2])[:1] == b"\xff" and marker not in (_JPEG_SCAN, _JPEG_FILL):
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return encoded.find(_JPEG_END, position) < 0
