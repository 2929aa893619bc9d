"""What a live stream's first read passes over, with a clock that only reads move."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.runtime import capture
from deepir.runtime.capture import open_address

LIMIT = 9.5


class FakeCapture:
    """Gives picture n, which is all n, after the n-th of so many seconds; then the stream breaks off."""

    def __init__(self, seconds: list[float], fps: float) -> None:
        self.now = 100.0
        self._seconds: Iterator[tuple[int, float]] = iter(enumerate(seconds))
        self._fps = fps

    def monotonic(self) -> float:
        return self.now

    def isOpened(self) -> bool:  # noqa: N802 OpenCV's name
        return True

    def read(self) -> tuple[bool, NDArray[np.uint16] | None]:
        number, seconds = next(self._seconds, (None, 0.0))
        self.now += seconds
        return (False, None) if number is None else (True, np.full((2, 2, 3), number, np.uint16))

    def get(self, _property_number: int) -> float:
        return self._fps


Stream = Callable[..., list[int | None]]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """stream(address, seconds, fps, reads) is the numbers of the pictures that so many reads give, None for a loss."""

    def numbers(address: str, seconds: list[float], fps: float = 25.0, reads: int = 2) -> list[int | None]:
        fake = FakeCapture(seconds, fps)
        monkeypatch.setattr("cv2.VideoCapture", lambda *_: fake)
        monkeypatch.setattr(capture, "time", fake)
        opened = open_address(address)
        given = [opened.read()[1] for _ in range(reads)]
        return [None if bgr is None else int(bgr[0, 0, 0]) for bgr in given]

    return numbers


@pytest.mark.parametrize("address", ["rtsp://camera/1", "udp://0.0.0.0:5000", "rtmp://camera/1", "rtsps://camera/1"])
@pytest.mark.parametrize("fps", [25.0, 0.0])
def test_what_piled_up_before_the_first_read_is_passed_over(stream: Stream, address: str, fps: float) -> None:
    assert stream(address, [0.08, *[0.004] * 30, 0.03, 0.04, 0.04], fps) == [31, 32]


def test_a_slow_camera_keeps_its_second_picture(stream: Stream) -> None:
    assert stream("rtsp://camera/1", [0.0, 0.9, 1.0], 1.0) == [1, 2]


def test_a_picture_of_an_http_camera_is_not_passed_over(stream: Stream) -> None:
    assert stream("http://camera/a.mjpg", [0.0, 0.0, 0.0]) == [0, 1]


def test_what_always_comes_at_once_is_passed_over_for_three_seconds_only(stream: Stream) -> None:
    first, second = stream("udp://0.0.0.0:5000", [0.01] * 1000)
    assert (first, second) == (pytest.approx(300, abs=1), pytest.approx(301, abs=1))


def test_a_stream_that_breaks_off_while_it_is_caught_up_with_is_lost(stream: Stream) -> None:
    assert stream("rtsp://camera/1", [0.0, 0.0, 0.0], reads=1) == [None]


def test_a_picture_that_comes_when_its_read_has_run_out_of_time_is_none(stream: Stream) -> None:
    assert stream("rtsp://camera/1", [0.0, LIMIT, 0.04], reads=2) == [None, 2]
    assert stream("http://camera/a.mjpg", [LIMIT, 0.04], reads=2) == [None, 1]
