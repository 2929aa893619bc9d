"""OpenCV's video capture: opened quietly, behind the three methods that we use."""

import os
import sys
import time
from typing import Any, Protocol

from numpy.typing import NDArray

from deepir.optional import need

_TIMEOUT_MS = 10_000
"""OpenCV waits 30 seconds for a network camera; nobody watching a robot does."""

_FFMPEG_OPTIONS = f"rtsp_transport;tcp|stimeout;{1000 * _TIMEOUT_MS}|rw_timeout;{1000 * _TIMEOUT_MS}"
"""OpenCV's own, and in microseconds how long one read of a socket may take.

stimeout is what FFmpeg before 5 calls it for RTSP; there, `timeout` would make it listen. Later ones pass it over, and
OpenCV's limits stand.
"""

_WAIT = 0.4
_FPS = 25.0
_LONGEST_CATCH_UP = 3.0
"""A picture that took less than such a part of the time between two of them was waiting already. For so many seconds at
most: what goes on coming faster than a camera sends is a file."""


class Capture(Protocol):
    """What we use of cv2.VideoCapture."""

    def isOpened(self) -> bool:  # noqa: N802 OpenCV's name
        """Whether frames can be read."""

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        """The next frame as BGR; False at the end or after a loss."""

    def get(self, property_number: int) -> float:
        """A property, 0 when it is not known."""

    def release(self) -> None:
        """Close the device or file."""


def open_file(path: str) -> Capture:
    """A video file; check `isOpened`."""
    cv2 = _quiet_cv2()
    capture: Capture = cv2.VideoCapture(path)
    return capture


def open_device(number: int) -> Capture:
    """A camera of this machine, with as few frames waiting as its driver allows; check `isOpened`."""
    cv2 = _quiet_cv2()
    # with CAP_ANY an OpenCV with GStreamer takes that, which knows no buffer size
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    opened: Capture = capture
    return opened


def open_address(address: str) -> Capture:
    """A network camera, with limits on every wait; check `isOpened`."""
    cv2 = _quiet_cv2()
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _FFMPEG_OPTIONS)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    return _Prompt(capture, 0.95 * _TIMEOUT_MS / 1000, piles_up=address.startswith(("rtsp", "rtmp", "srt", "udp")))


def open_pipeline(pipeline: str) -> Capture:
    """A GStreamer pipeline that ends in an appsink; check `isOpened`."""
    cv2 = _quiet_cv2()
    capture: Capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    return capture


def has_gstreamer() -> bool:
    """Whether this OpenCV can run GStreamer pipelines."""
    cv2 = _quiet_cv2()
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def frame_size(capture: Capture) -> tuple[int, int] | None:
    """(height, width), None when it is not known."""
    cv2 = need("cv2")
    height, width = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    return (height, width) if height > 0 and width > 0 else None


def frame_rate(capture: Capture) -> float | None:
    """Frames per second, None when it is not known."""
    rate = float(capture.get(need("cv2").CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else None


def frame_count(capture: Capture) -> int | None:
    """How many frames there are in all; None for what has no end, or when it is not known."""
    count = capture.get(need("cv2").CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 1e9 else None


class _Prompt:
    """A capture of a live stream whose pictures are as new as they seem.

    FFmpeg's decoder holds the last pictures back. When a stream stalls they come out one by one, each when the next
    read has run out of time, so none is given then.

    Args:
        capture: To read from.
        limit: Seconds after which a read has run out of time.
        piles_up: While FFmpeg finds out what the stream holds, a second or two of it pile up. The first read passes
            over them: they come at once, a new picture only when it is sent.
    """

    def __init__(self, capture: Capture, limit: float, *, piles_up: bool) -> None:
        self._capture = capture
        self._limit = limit
        self._behind = piles_up

    def isOpened(self) -> bool:  # noqa: N802 OpenCV's name
        return self._capture.isOpened()

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        read, bgr, took = self._read()
        if self._behind:
            self._behind = False
            at_once = _WAIT / (frame_rate(self._capture) or _FPS)
            until = time.monotonic() + _LONGEST_CATCH_UP
            # how long the first one took says nothing: the decoder is still warming up
            while read and time.monotonic() < until:
                read, bgr, took = self._read()
                if took >= at_once:
                    break
        return (False, None) if took >= self._limit else (read, bgr)

    def _read(self) -> tuple[bool, NDArray[Any] | None, float]:
        began = time.monotonic()
        read, bgr = self._capture.read()
        return read, bgr, time.monotonic() - began

    def get(self, property_number: int) -> float:
        return self._capture.get(property_number)

    def release(self) -> None:
        self._capture.release()


def _quiet_cv2() -> Any:
    # read by FFmpeg's wrapper when it opens a stream; without it damaged files fill the terminal
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    cv2 = need("cv2")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
