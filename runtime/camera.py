"""Cameras: a thread reads them all the time, so that whoever asks gets the newest frame."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from deepir.errors import SourceError
from deepir.image import turn_to_rgb
from deepir.runtime.capture import Capture, frame_rate, frame_size, open_address, open_device
from deepir.runtime.frame import Frame

_SILENCE = 20.0
"""A network camera can stall for ever without an error; after so many seconds it counts as lost."""

_FAREWELL = 2.0


class Camera:
    """The newest frame of an open capture, each at most once; iterate it in one thread.

    Raises:
        SourceError: While iterating, when the camera is lost.
    """

    live = True

    def __init__(self, capture: Capture, name: str, *, silence: float = _SILENCE) -> None:
        self.name = name
        self.size = frame_size(capture)
        self.fps = frame_rate(capture)
        self._capture = capture
        self._silence = silence
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._error: SourceError | None = None
        self._stopping = False
        # a thread that hangs in a driver must not keep the program alive
        self._reader = threading.Thread(target=self._read, name=f"deepir {name}", daemon=True)
        self._reader.start()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._take()) is not None:
            yield frame

    def close(self) -> None:
        """Stop the thread and give the device back."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._reader.join(_FAREWELL)

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> Frame | None:
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._newest or self._error or self._stopping, self._silence)
            frame, self._newest = self._newest, None
            if self._stopping:
                return None
            if frame is not None:
                return frame
            if self._error is not None:
                raise self._error
            if not arrived:
                message = f"{self.name} gave no frame for {self._silence:g} seconds: check its cable or network"
                raise SourceError(message)
            return None

    def _read(self) -> None:
        number = 0
        try:
            while not self._stopping:
                read, bgr = self._capture.read()
                if not read or bgr is None:
                    self._fail(SourceError(f"lost {self.name} after {number} frames: check its cable or network"))
                    return
                image = turn_to_rgb(bgr)
                self._put(Frame(number, image, time.monotonic(), None, self.name))
                number += 1
        except Exception as error:  # whatever the driver raises must reach the caller's thread
            lost = SourceError(f"{self.name} failed after {number} frames: {error}")
            lost.__cause__ = error
            self._fail(lost)
        finally:
            # released here: to release it while another thread reads crashes OpenCV
            self._capture.release()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            self._newest = frame
            self._changed.notify_all()

    def _fail(self, error: SourceError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


def open_camera(number: int) -> Camera:
    """A camera of this machine by its number.

    Raises:
        SourceError: Not there, or not to be opened; lists those that are.
    """
    capture = open_device(number)
    if capture.isOpened():
        return Camera(capture, f"camera{number}")
    capture.release()
    present = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
    device = Path(f"/dev/video{number}")
    trouble = "is used by another program or closed to this user" if device.exists() else "is not there"
    message = f"camera{number} ({device}) {trouble}; cameras on this machine: {present}"
    raise SourceError(message)


def open_stream(address: str, name: str) -> Camera:
    """A network camera; `name` is the address without its password.

    Raises:
        SourceError: It does not answer.
    """
    capture = open_address(address)
    if capture.isOpened():
        return Camera(capture, name)
    capture.release()
    message = f"cannot open {name}: check the address, the user and password, and that the network reaches it"
    raise SourceError(message)
