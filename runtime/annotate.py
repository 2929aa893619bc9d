"""Pictures with the answer drawn on them, and the video they become."""

import glob
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deepir.errors import InputError, OptionError
from deepir.image import Box, Image
from deepir.optional import need
from deepir.runtime.recogniser import Recognition

CODECS = {".webm": "VP80", ".mp4": "mp4v", ".avi": "MJPG"}

_GREEN = (40, 170, 60)
_GREY = (128, 128, 128)
_WHITE = (255, 255, 255)
_DEFAULT_FPS = 10.0

_LEAST_FREE = 16 << 20
_FRAMES_A_LOOK = 25

_LEFT = 600.0
"""Seconds without a byte after which a file is what a killed program left."""


def annotate(image: Image, recognition: Recognition) -> Image:
    """A copy with a frame and a line of text: green for a match, else grey."""
    cv2 = need("cv2")
    drawn: Image = image.copy()
    height, width = drawn.shape[:2]
    bar = max(16, height // 12)
    colour = _GREEN if recognition.status == "match" else _GREY
    cv2.rectangle(drawn, (0, 0), (width - 1, height - 1), colour, max(2, height // 120))
    cv2.rectangle(drawn, (0, height - bar), (width - 1, height - 1), colour, cv2.FILLED)
    _write(drawn, _text(recognition), (bar // 3, height - bar // 3), bar)
    return drawn


def annotate_boxes(image: Image, answers: Sequence[tuple[Box, Recognition]]) -> Image:
    """A copy with each box (x1, y1, x2, y2 in pixels) and its answer drawn."""
    cv2 = need("cv2")
    drawn: Image = image.copy()
    height, width = drawn.shape[:2]
    bar, line = max(14, height // 28), max(2, height // 240)
    for box, recognition in answers:
        left, top, right, bottom = (round(side) for side in box)
        colour = _GREEN if recognition.status == "match" else _GREY
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, line)
        above = max(0, top - bar)
        cv2.rectangle(drawn, (left, above), (min(right, width), above + bar), colour, cv2.FILLED)
        _write(drawn, _text(recognition), (left + bar // 4, above + bar - bar // 4), bar)
    return drawn


class VideoWriter:
    """Annotated frames as a video; it appears under its name when it is closed, and only if it has frames.

    Attributes:
        fps: Frames a second.
        saved: Whether it stands under its name.

    Raises:
        OptionError: The suffix names no container that we write.
        InputError: The folder does not exist or cannot be written, this OpenCV cannot write the format, or the disk is
            full.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        check_video_path(path)
        self._path = path
        _remove_leftovers(path)
        # OpenCV chooses the container by the suffix, so the temporary name keeps it
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self.fps = fps or _DEFAULT_FPS
        self.saved = False
        self._writer: Any = None
        self._size = (0, 0)
        self._frames = 0

    def write(self, image: Image, times: int = 1) -> None:
        """Append a picture, so many times; one of another size is scaled to that of the first."""
        cv2 = need("cv2")
        if self._writer is None:
            self._open((image.shape[1], image.shape[0]))
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        if self._frames % _FRAMES_A_LOOK == 0 and shutil.disk_usage(self._path.parent).free < _LEAST_FREE:
            # OpenCV does not say when nothing more fits
            message = f"cannot write {self._path}: the disk is full; what was written is kept: make room"
            raise InputError(message)
        self._frames += 1
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        for _ in range(times):
            self._writer.write(bgr)

    def close(self) -> None:
        """Finish the file and give it its name; what was written before a loss or Ctrl-C is kept."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            os.replace(self._temporary, self._path)
            self.saved = True

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, size: tuple[int, int]) -> None:
        cv2 = need("cv2")
        codec = cv2.VideoWriter_fourcc(*CODECS[self._path.suffix.lower()])
        with _silent_stderr():
            writer = cv2.VideoWriter(str(self._temporary), codec, self.fps, size)
        if not writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            message = f"cannot write {self._path}: this OpenCV has no encoder for it, or the folder cannot be written"
            raise InputError(message)
        self._writer, self._size = writer, size


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.part{path.suffix}"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _LEFT:
                left.unlink()


def check_video_path(path: Path) -> None:
    """Refuse a path that cannot become a video, before any work is done."""
    if path.suffix.lower() not in CODECS:
        message = f"--save {path}: expected a file ending in {', '.join(CODECS)}"
        raise OptionError(message)
    if not path.parent.is_dir():
        message = f"cannot write {path}: create the folder {path.parent} first"
        raise InputError(message)
    if not os.access(path.parent, os.W_OK):
        message = f"cannot write {path}: the folder {path.parent} cannot be written; choose another place"
        raise InputError(message)


def _write(drawn: Image, text: str, corner: tuple[int, int], bar: int) -> None:
    cv2 = need("cv2")
    # a Hershey letter of scale 1 is about 22 pixels high
    scale = 0.6 * bar / 22
    cv2.putText(drawn, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, max(1, round(scale)), cv2.LINE_AA)


def _text(recognition: Recognition) -> str:
    return f"{_plain(recognition.label or recognition.status)}  {recognition.similarity:.2f}"


def _plain(text: str) -> str:
    # OpenCV's letters are ASCII: an accent is dropped rather than shown as ??
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"


@contextmanager
def _silent_stderr() -> Iterator[None]:
    # FFmpeg's wrapper complains of the VP80 tag with fprintf, which no log level stops
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
