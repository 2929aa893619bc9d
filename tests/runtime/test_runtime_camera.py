"""The camera thread, with a capture that the test holds in its hand."""

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import deepir.runtime.camera as module
from deepir.errors import SourceError
from deepir.runtime.camera import Camera, open_camera

PATIENCE = 10.0
"""Never reached by a test that passes."""


class FakeCapture:
    """Frames of which the n-th is filled with n; each read waits until the test allows it."""

    def __init__(self, frames: int, *, opened: bool = True, error: Exception | None = None) -> None:
        self.allowed = threading.Semaphore(0)
        self.released = threading.Event()
        self.waiting = threading.Semaphore(0)
        self._frames = frames
        self._opened = opened
        self._error = error
        self._given = 0

    def isOpened(self) -> bool:  # noqa: N802
        return self._opened

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        self.waiting.release()
        assert self.allowed.acquire(timeout=PATIENCE)
        if self._given == self._frames:
            if self._error is not None:
                raise self._error
            return False, None
        bgr = np.zeros((4, 6, 3), np.uint8)
        bgr[..., 2] = self._given
        self._given += 1
        return True, bgr

    def get(self, property_number: int) -> float:
        return {3: 6.0, 4: 4.0, 5: 30.0}.get(property_number, 0.0)

    def release(self) -> None:
        self.released.set()

    def allow(self, reads: int) -> None:
        """Let the thread read so often, and wait until it has stored the last frame."""
        for _ in range(reads):
            assert self.waiting.acquire(timeout=PATIENCE)
            self.allowed.release()
        assert self.waiting.acquire(timeout=PATIENCE)
        self.waiting.release()


def test_whoever_asks_late_gets_the_newest_frame_once() -> None:
    capture = FakeCapture(10)
    with Camera(capture, "fake") as camera:
        frames = iter(camera)
        capture.allow(3)
        first = next(frames)
        capture.allow(2)
        second = next(frames)
        capture.allowed.release(10)
    assert [(frame.number, frame.image[0, 0, 0]) for frame in (first, second)] == [(2, 2), (4, 4)]
    assert second.captured >= first.captured
    assert first.time is None


def test_size_and_rate_are_those_of_the_driver() -> None:
    capture = FakeCapture(0)
    with Camera(capture, "fake") as camera:
        assert (camera.size, camera.fps, camera.live) == ((4, 6), 30.0, True)
        capture.allowed.release()


def test_a_lost_camera_reaches_the_caller_after_its_last_frame() -> None:
    capture = FakeCapture(1)
    with Camera(capture, "fake") as camera:
        frames = iter(camera)
        capture.allow(1)
        next(frames)
        capture.allowed.release()
        with pytest.raises(SourceError, match="lost fake after 1 frames"):
            next(frames)
    assert capture.released.is_set()


def test_what_the_driver_raises_reaches_the_caller() -> None:
    capture = FakeCapture(0, error=RuntimeError("USB says no"))
    with Camera(capture, "fake") as camera:
        capture.allowed.release()
        with pytest.raises(SourceError, match="fake failed after 0 frames: USB says no") as caught:
            next(iter(camera))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_camera_that_says_nothing_is_lost_in_the_end() -> None:
    capture = FakeCapture(1)
    with Camera(capture, "fake", silence=0.0) as camera:
        with pytest.raises(SourceError, match="gave no frame for 0 seconds"):
            next(iter(camera))
        capture.allowed.release(2)


def test_closing_stops_the_thread_and_gives_the_device_back() -> None:
    capture = FakeCapture(1000)
    camera = Camera(capture, "fake")
    capture.allow(2)
    capture.allowed.release(1000)
    camera.close()
    assert capture.released.wait(PATIENCE)
    assert list(camera) == []


def test_a_camera_that_cannot_be_opened_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FakeCapture(0, opened=False)
    monkeypatch.setattr(module, "open_device", lambda _number: capture)
    with pytest.raises(SourceError, match="camera987"):
        open_camera(987)
    assert capture.released.is_set()
