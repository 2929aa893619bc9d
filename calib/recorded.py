"""Calibration pictures out of a camera, a video or a folder: sharp ones, each different from those before it."""

import contextlib
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.calib.coverage import near
from deepir.descriptors import Descriptors
from deepir.errors import InputError, OptionError
from deepir.files import replacing
from deepir.image import Image, list_images, read_image
from deepir.look import Look, look_at, sharpness
from deepir.optional import need
from deepir.runtime.extractor import Extractor
from deepir.runtime.frame import Frame, Source
from deepir.runtime.source import open_source

_JPEG_QUALITY = 95
_BLURRED = 0.3
"""A frame of less than this share of the usual sharpness is blurred.

Of 339 frames, groceries, a walk and two cameras that stood still, it left out 3 % of the walk and less of the others.
Of the same frames smeared over 31 pixels, as if the camera had moved, it found 63 % of the walk, whose places differ
most, and 96 % or more of the others.
"""

_USUAL_FRAMES = 100
"""The usual sharpness is the median of so many frames: a robot that moves on meets other textures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingConfig:
    """What is recorded, and where to.

    Attributes:
        source: A word of `deepir.runtime.source`.
        out: The folder for the pictures.
        most: Stop after so many.
        every: Least seconds between two pictures of a camera or a video; between images of a folder there is no time.
        model: Tells near-duplicates by descriptor too, which keeps a scene in which only a small thing changes.
        append: Add to the pictures that are in `out` already.
    """

    source: str
    out: Path
    most: int = 300
    every: float = 0.5
    model: Path | None = None
    append: bool = False

    def __post_init__(self) -> None:
        if self.most < 1:
            message = f"--num must be 1 or more, got {self.most}"
            raise OptionError(message)
        if not (math.isfinite(self.every) and self.every >= 0):
            message = f"--every takes seconds, 0 or more, got {self.every}"
            raise OptionError(message)


@dataclass(slots=True)
class RecordingTally:
    """How many frames were looked at, and what became of them; `earlier` pictures were in the folder before."""

    looked_at: int = 0
    kept: int = 0
    blurred: int = 0
    blank: int = 0
    duplicates: int = 0
    earlier: int = 0

    def text(self) -> str:
        """In words."""
        return (
            f"kept {self.kept} of {self.looked_at} frames: {self.duplicates} are near-duplicates, "
            f"{self.blurred} blurred, {self.blank} blank"
        )


def record_pictures(
    config: RecordingConfig, tally: RecordingTally, show: Callable[[str], None] = lambda _line: None
) -> None:
    """Write frames of the source as JPEG files 000001.jpg, 000002.jpg, ..., each whole or not at all.

    Whatever ends it, the pictures counted in `tally` are in the folder.

    Args:
        config: What is recorded.
        tally: Counts while it runs, so that it holds after Ctrl-C as well.
        show: Gets a line of progress after every frame.

    Raises:
        InputError: No such source, a picture in it or in the folder that cannot be decoded, or `out` is a file.
        OptionError: `out` is not empty and `append` is off.
        SourceError: A camera that is not there or was lost.
    """
    _check_folder(config)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(config.source))
        extractor = stack.enter_context(Extractor.open(config.model)) if config.model is not None else None
        config.out.mkdir(parents=True, exist_ok=True)
        earlier = _pictures_in(config.out)
        tally.earlier = len(earlier)
        known = _Known(extractor)
        for path in earlier:
            image = read_image(path)
            known.add(look_at(image), known.describe(image))
        number = max((int(path.stem) for path in earlier if path.stem.isdecimal()), default=0)
        usual: deque[float] = deque(maxlen=_USUAL_FRAMES)
        for frame in _spaced(source, config.every):
            if _is_new(frame.image, known, usual, tally):
                number += 1
                _write(config.out / f"{number:06d}.jpg", frame.image)
                tally.kept += 1
            show(f"{tally.text()}; {config.most - tally.kept} to go")
            if tally.kept == config.most:
                return


class _Known:
    """What was kept so far."""

    def __init__(self, extractor: Extractor | None) -> None:
        self._extractor = extractor
        self._thumbnails: list[NDArray[np.float32]] = []
        self._descriptors: list[Descriptors] = []

    def describe(self, image: Image) -> Descriptors | None:
        """The descriptor (D,) of a picture, where there is a model."""
        return None if self._extractor is None else self._extractor.describe([image])[0]

    def add(self, look: Look, descriptor_1d: Descriptors | None) -> None:
        self._thumbnails.append(look.thumbnail_1d)
        if descriptor_1d is not None:
            self._descriptors.append(descriptor_1d)

    def has_near(self, look: Look, descriptor_1d: Descriptors | None) -> bool:
        """Whether a near-duplicate was kept."""
        if not self._thumbnails:
            return False
        similarity_n = None if descriptor_1d is None else np.stack(self._descriptors) @ descriptor_1d
        return bool(near(np.stack(self._thumbnails) @ look.thumbnail_1d, similarity_n).any())


def _is_new(image: Image, known: _Known, usual: deque[float], tally: RecordingTally) -> bool:
    """Whether a frame is sharp, shows something, and is different from what is known; counts it and gets to know it."""
    tally.looked_at += 1
    look = look_at(image)
    if look.blank:
        tally.blank += 1
        return False
    detail = sharpness(image)
    usual.append(detail)
    if detail < _BLURRED * statistics.median(usual):
        tally.blurred += 1
        return False
    descriptor_1d = known.describe(image)
    if known.has_near(look, descriptor_1d):
        tally.duplicates += 1
        return False
    known.add(look, descriptor_1d)
    return True


def _spaced(source: Source, every: float) -> Iterator[Frame]:
    """Frames at least so many seconds apart; all of them where a source knows no time."""
    before = -math.inf
    for frame in source:
        moment = _moment(frame, source)
        # times of video frames are rounded to milliseconds
        if moment is None or moment >= before + every - 1e-3:
            before = before if moment is None else moment
            yield frame


def _moment(frame: Frame, source: Source) -> float | None:
    if source.live:
        return frame.captured
    if frame.time is None:
        return None
    # some files hold no times: every frame is at 0
    return frame.time or frame.number / (source.fps or 1)


def _check_folder(config: RecordingConfig) -> None:
    if config.out.exists() and not config.out.is_dir():
        message = f"{config.out} is a file: give a folder for the pictures"
        raise InputError(message)
    if config.out.is_dir() and not config.append and any(config.out.iterdir()):
        message = f"{config.out} is not empty: --append adds to it, or give another folder"
        raise OptionError(message)


def _pictures_in(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except InputError:
        # there are none: the folder itself is there
        return []


def _write(path: Path, image: Image) -> None:
    cv2 = need("cv2")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
