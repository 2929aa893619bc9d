"""Pictures from files: images one by one, videos frame by frame; nothing is left out."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from deepir.errors import InputError
from deepir.image import read_image, turn_to_rgb
from deepir.optional import need
from deepir.runtime.capture import frame_count, frame_rate, frame_size, open_file
from deepir.runtime.frame import Frame

_log = logging.getLogger(__name__)

_WHOLE = 0.9
"""Many containers only estimate their number of frames: with such a part of them, or all but one, none is missing."""


class ImageFiles:
    """Image files in the given order; one that cannot be decoded is an InputError that names it."""

    live = False
    size: tuple[int, int] | None = None
    fps: float | None = None

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self.name = name
        self._paths = paths

    def __iter__(self) -> Iterator[Frame]:
        for number, path in enumerate(self._paths):
            image = read_image(path)
            yield Frame(number, image, time.monotonic(), None, str(path))

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> "ImageFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class VideoFile:
    """Every frame of a video file; where it breaks off early, the log has a warning.

    Raises:
        InputError: It does not decode, or has no frame.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._capture = open_file(str(path))
        if not self._capture.isOpened():
            self._capture.release()
            raise _undecodable(path)
        self._path = path
        self.size = frame_size(self._capture)
        self.fps = frame_rate(self._capture)

    def __iter__(self) -> Iterator[Frame]:
        position = need("cv2").CAP_PROP_POS_MSEC
        number = 0
        while True:
            read, bgr = self._capture.read()
            if not read or bgr is None:
                break
            image = turn_to_rgb(bgr)
            yield Frame(number, image, time.monotonic(), self._capture.get(position) / 1000, self.name)
            number += 1
        if number == 0:
            raise _undecodable(self._path)
        expected = frame_count(self._capture) or 0
        # to the decoder, a damaged place and the end are the same
        if number < min(_WHOLE * expected, expected - 1):
            _log.warning(
                "%s broke off after %d of its %d frames: it is damaged or cut short; copy it again from where it was "
                "recorded, or let ffmpeg write what is left of it into a new file",
                *(self.name, number, expected),
            )

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _undecodable(path: Path) -> InputError:
    return InputError(
        f"cannot decode {path} ({path.stat().st_size} bytes): it is damaged, or not a video that this OpenCV can read"
    )
