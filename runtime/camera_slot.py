"""What a camera's reading thread and whoever asks for frames share: the newest frame, the state, a way to stop."""

import dataclasses
import threading
from collections.abc import Callable

from deepir.errors import SourceError
from deepir.image import Image
from deepir.runtime.camera_state import CameraState, Patience, Status, Trouble
from deepir.runtime.clock import Clock
from deepir.runtime.frame import Frame


class Slot:
    """Room for one frame; a newer one takes the place of one that nobody asked for.

    A reader says who it is each time: what one says that was replaced, because it hangs in a driver, counts no more.

    Attributes:
        changed: Hold it while looking at more than one thing; notified after every change.
        error: Ends whoever asks next.
        heard: When the reader last gave a sign of life; None while it waits on purpose.
        tried: Whether the first try to open the camera is over.
    """

    def __init__(self, name: str, patience: Patience, clock: Clock) -> None:
        self.name = name
        self.patience = patience
        self.clock = clock
        self.changed = threading.Condition()
        self.size: tuple[int, int] | None = None
        self.fps: float | None = None
        self.state = CameraState(status="connecting", since=clock.now())
        self.error: SourceError | None = None
        self.heard: float | None = clock.now()
        self.tried = False
        self._reader: object = None
        self._newest: Frame | None = None

    def admit(self, reader: object) -> None:
        """From now on this reader counts, and no other; None ends it all."""
        with self.changed:
            self._reader = reader
            self.heard = None if reader is None else self.clock.now()
            self.changed.notify_all()

    def counts(self, reader: object) -> bool:
        """Whether it is still this reader's turn."""
        return self._reader is reader and self.error is None

    def connecting(self, reader: object) -> None:
        """The reader begins to open the camera."""
        with self.changed:
            if self.counts(reader):
                self.heard = self.clock.now()
                self._turn("connecting")

    def connected(self, reader: object, size: tuple[int, int] | None, fps: float | None) -> None:
        """The camera is open; its first frame is yet to come."""
        with self.changed:
            if self.counts(reader):
                self.size, self.fps, self.tried = size, fps, True
                self.heard = self.clock.now()
                self.changed.notify_all()

    def put(self, reader: object, image: Image, captured: float, seen_at: float) -> None:
        """A frame arrived."""
        with self.changed:
            if self.counts(reader):
                number = self.state.frames
                self._newest = Frame(number, image, captured, None, self.name, seen_at)
                self.heard = captured
                since = self.state.since if self.state.status == "live" else captured
                self.state = dataclasses.replace(
                    self.state, status="live", since=since, trouble=None, frames=number + 1
                )
                self.changed.notify_all()

    def drop(self, reader: object) -> None:
        """A frame arrived that no camera saw."""
        with self.changed:
            if self.counts(reader):
                self.heard = self.clock.now()
                self.state = dataclasses.replace(self.state, dropped=self.state.dropped + 1)

    def lose(self, reader: object, trouble: Trouble) -> None:
        """The camera is lost; where that is an error, it comes after the last frame."""
        with self.changed:
            if not self.counts(reader):
                return
            self.heard, self.tried = None, True
            self.state = dataclasses.replace(self.state, outages=self.state.outages + 1)
            if self.patience.on_lost == "exit":
                self.error = SourceError(trouble.sentence)
            self._turn("lost", trouble)

    def end(self, reader: object) -> None:
        """A stream came to its own end, or nobody wants more of it."""
        with self.changed:
            if self.counts(reader):
                self.heard, self.tried = None, True
                self._turn("ended")

    def fail(self, error: SourceError) -> None:
        """Whoever asks next gets this error, even when a lost camera is waited for."""
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def take(self) -> Frame | None:
        """The newest frame, once; hold `changed`."""
        frame, self._newest = self._newest, None
        return frame

    def pause(self, reader: object, seconds: float) -> None:
        """Wait so long, or until it is no more this reader's turn."""
        with self.changed:
            if self.counts(reader):
                self.heard = None
        self._wait_until(lambda: not self.counts(reader), seconds)

    def await_leave(self, reader: object, may: Callable[[], bool]) -> None:
        """Wait until it may, or until it is no more this reader's turn."""
        with self.changed:
            while self.counts(reader) and not may():
                self.clock.wait(self.changed, None)

    def wait_for(self, status: Status, seconds: float) -> bool:
        """Wait until the camera is in a state; False when it was not in time."""
        return self._wait_until(lambda: self.state.status == status, seconds)

    def _wait_until(self, happened: Callable[[], bool], seconds: float) -> bool:
        until = self.clock.now() + seconds
        with self.changed:
            while not happened() and (left := until - self.clock.now()) > 0:
                self.clock.wait(self.changed, left)
            return happened()

    def _turn(self, status: Status, trouble: Trouble | None = None) -> None:
        trouble = trouble or self.state.trouble
        self.state = dataclasses.replace(self.state, status=status, since=self.clock.now(), trouble=trouble)
        self.changed.notify_all()
