"""What a picture looks like without a model: its size, a small grey copy, how sharp it is."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.errors import InputError
from deepir.image import Image, read_image
from deepir.optional import need
from deepir.reading import default_workers
from deepir.spec import Size

Thumbnails = NDArray[np.float32]
"""(N, 1024): grey pictures of 32 x 32 without their mean, of length 1, or 0 for a picture of one colour."""

_SIDE = 32
_LEAST_CONTRAST = 2.0
"""Grey levels, of 256: with a smaller standard deviation a lens cap, a wall or a failed exposure is all that shows."""

_SHARPNESS_SIDE = 320


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A picture at a glance.

    Attributes:
        size: (height, width) in pixels.
        thumbnail_1d: A row of `Thumbnails`.
    """

    size: Size
    thumbnail_1d: NDArray[np.float32]

    @property
    def blank(self) -> bool:
        """Whether it shows nothing."""
        return not self.thumbnail_1d.any()


def look_at(image: Image) -> Look:
    """Size and thumbnail of an RGB picture, uint8 (H, W, 3)."""
    grey = _shrunk_grey(image, (_SIDE, _SIDE)).ravel()
    centred = grey - grey.mean()
    contrast = float(np.linalg.norm(centred))
    blank = contrast < _LEAST_CONTRAST * _SIDE
    thumbnail = np.zeros_like(centred) if blank else centred / np.float32(contrast)
    return Look((image.shape[0], image.shape[1]), thumbnail)


def look_at_files(paths: Sequence[Path]) -> list[Look | None]:
    """A look at each file, in order; None for one that cannot be decoded. Several threads read, a picture each."""
    with ThreadPoolExecutor(default_workers()) as pool:
        return list(pool.map(_look_at_file, paths))


def sharpness(image: Image) -> float:
    """How much fine detail an RGB picture has for its contrast: the variance of its Laplacian over that of its grey.

    Only to be compared with other pictures of the same scene and camera. Divided by the contrast, so that a scene in
    half the light is as sharp as before; taken at 320 pixels, so that the noise of a sensor does not count as detail.
    """
    factor = min(1.0, _SHARPNESS_SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    grey = _shrunk_grey(image, (height, width))
    variance = float(grey.var())
    return float(need("cv2").Laplacian(grey, -1).var()) / variance if variance > 0 else 0.0


def _look_at_file(path: Path) -> Look | None:
    # a list may name a pipe or a device, which would be read for ever
    if not path.is_file():
        return None
    try:
        return look_at(read_image(path))
    except InputError:
        return None


def _shrunk_grey(image: Image, size: Size) -> NDArray[np.float32]:
    cv2 = need("cv2")
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size[::-1], interpolation=cv2.INTER_AREA)
    shrunk: NDArray[np.float32] = grey.astype(np.float32)
    return shrunk
