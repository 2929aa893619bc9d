"""Pictures brought to one size: fitted, cropped at random, and written as JPEG."""

from pathlib import Path
from typing import Literal

import numpy as np

from deepir.errors import InputError
from deepir.files import replacing
from deepir.image import Image, check_image
from deepir.optional import need
from deepir.spec import Size

Fit = Literal["crop", "stretch"]

_QUALITY = 95


def fit_picture(image: Image, size: Size, fit: Fit) -> Image:
    """The picture at exactly `size` (height, width), uint8 (*size, 3) (method.md 4.8).

    `crop` keeps the aspect and the middle: what is left when the picture, as small as covers the size, is cut to it.
    `stretch` keeps all of the picture and not its aspect.

    Raises:
        ShapeError: Not an RGB picture.
    """
    check_image(image)
    if fit == "crop":
        # cut first, resize then: the same picture, and no huge one on the way when a narrow strip is enlarged
        height, width = image.shape[:2]
        ratio = max(size[0] / height, size[1] / width)
        window = min(height, max(1, round(size[0] / ratio))), min(width, max(1, round(size[1] / ratio)))
        image = _window(image, (height - window[0]) // 2, (width - window[1]) // 2, window)
    return _resized(image, size)


def random_crops(image: Image, size: Size, count: int, rng: np.random.Generator) -> list[Image]:
    """`count` windows of the picture at random places, half-way between its size and `size` (method.md 4.8).

    A picture of 800x1024 and a size of 384x512 give windows of 592x768; no window is larger than the picture.
    """
    height, width = image.shape[:2]
    window = min(height, (height + size[0]) // 2), min(width, (width + size[1]) // 2)
    tops = rng.integers(0, height - window[0] + 1, count)
    lefts = rng.integers(0, width - window[1] + 1, count)
    return [_window(image, int(top), int(left), window) for top, left in zip(tops, lefts, strict=True)]


def is_smaller(image: Image, size: Size) -> bool:
    """Whether a side of the picture is shorter than that of the size."""
    return bool(image.shape[0] < size[0] or image.shape[1] < size[1])


def write_jpeg(path: Path, image: Image) -> bytes:
    """Write the picture at quality 95, whole or not at all, and give the bytes of the file.

    Raises:
        InputError: The folder cannot be written.
    """
    cv2 = need("cv2")
    written, encoded = cv2.imencode(
        ".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    if not written:
        message = f"cannot write {path}: a JPEG has sides of 65500 at most, got a picture of shape {image.shape}"
        raise InputError(message)
    content = bytes(encoded)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return content


def _resized(image: Image, size: Size) -> Image:
    cv2 = need("cv2")
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Image = cv2.resize(image, (size[1], size[0]), interpolation=method)
    return resized


def _window(image: Image, top: int, left: int, size: Size) -> Image:
    return image[top : top + size[0], left : left + size[1]]
