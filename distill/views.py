"""Training views: a picture, or a crop of it that is the same for teacher and student, today and next year."""

import contextlib
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from deepir.errors import OptionError
from deepir.files import file_sha256
from deepir.image import Image, read_image
from deepir.reading import default_workers, read_images

_MANTISSA = 53
"""Bits of a random 64-bit number that fit a double exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CropConfig:
    """How crops are drawn; checked when it is made.

    Attributes:
        share: Least and largest part of the picture's area that a crop keeps, above 0 and at most 1.
        aspect: Narrowest and widest width / height of a crop, as factors of the picture's own.
    """

    share: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (0.8, 1.25)

    def __post_init__(self) -> None:
        if not 0 < self.share[0] <= self.share[1] <= 1:
            message = f"a crop keeps a share above 0 and at most 1, the smaller first, got {self.share}"
            raise OptionError(message)
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            message = f"the aspect of a crop lies between two positive factors, the smaller first, got {self.aspect}"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class View:
    """A picture, or a crop of it: number 0 is the whole, each other number a crop that never changes.

    The crop depends on the picture's bytes, the number and `crop` alone, so that a teacher that saw it last year and
    a student that sees it now see the same pixels (retrieval.md 7 C).
    """

    path: Path
    number: int
    crop: CropConfig = CropConfig()

    def read(self) -> Image:
        """The view's pixels, RGB uint8 (H, W, 3).

        Raises:
            InputError: The file is missing, empty, or not a picture.
        """
        image = read_image(self.path)
        return image if self.number == 0 else self.cut(image, file_sha256(self.path))

    def cut(self, image: Image, sha256: str) -> Image:
        """The view's part of its whole picture, whose file has this hash."""
        return image if self.number == 0 else _crop(image, self.crop, _shares_of_one(sha256, self.number))

    def key(self, sha256: str) -> str:
        """Names the view by its pixels: the hash of its file, its number, and how it is cropped."""
        if self.number == 0:
            return f"{sha256}#0"
        return f"{sha256}#{self.number}@" + ",".join(map(repr, map(float, (*self.crop.share, *self.crop.aspect))))


def hash_pictures(paths: Iterable[Path]) -> dict[Path, str]:
    """Hex SHA-256 of each file, several read at a time.

    Raises:
        InputError: A file that is missing or unreadable.
    """
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(default_workers()) as pool:
        return dict(zip(distinct, pool.map(file_sha256, distinct), strict=True))


def read_views(views: Sequence[View], hashes: Mapping[Path, str]) -> Generator[Image, None, None]:
    """The pixels of each view, in order; neighbours of one picture decode it once, and pictures are read ahead.

    Args:
        views: Best with those of one picture beside each other.
        hashes: Of the views' files, as `hash_pictures` gives them.

    Raises:
        InputError: A file that is missing or not a picture, when its turn comes.
    """
    of_pictures = [(path, list(group)) for path, group in groupby(views, key=lambda view: view.path)]
    with contextlib.closing(read_images(path for path, _ in of_pictures)) as images:
        for image, (path, group) in zip(images, of_pictures, strict=True):
            for view in group:
                yield view.cut(image, hashes[path])


def _shares_of_one(sha256: str, number: int) -> list[float]:
    """Four numbers in 0..1; numpy promises the bits of this generator, and of no method that draws from them."""
    bits = np.random.PCG64([number, int(sha256[:16], 16)]).random_raw(4).tolist()
    return [(each >> 64 - _MANTISSA) / (1 << _MANTISSA) for each in bits]


def _crop(image: Image, config: CropConfig, drawn: Sequence[float]) -> Image:
    """A crop of drawn area, aspect and place."""
    height, width = image.shape[:2]
    share = _between(config.share, drawn[0])
    aspect = math.exp(_between((math.log(config.aspect[0]), math.log(config.aspect[1])), drawn[1]))
    crop_height = min(height, max(1, round(height * math.sqrt(share / aspect))))
    crop_width = min(width, max(1, round(width * math.sqrt(share * aspect))))
    top, left = int(drawn[2] * (height - crop_height + 1)), int(drawn[3] * (width - crop_width + 1))
    return np.ascontiguousarray(image[top : top + crop_height, left : left + crop_width])


def _between(ends: tuple[float, float], drawn: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * drawn
