"""The thread that opens a camera, reads it all the time, and opens it again when it was lost."""

import threading
from collections.abc import Callable

from deepir.errors import DeepIRError
from deepir.image import turn_to_rgb
from deepir.runtime.backoff import Backoff
from deepir.runtime.camera_slot import Slot
from deepir.runtime.camera_state import Trouble
from deepir.runtime.capture import Capture, frame_count, frame_rate, frame_size
from deepir.runtime.frame_filter import FrameFilter
from deepir.runtime.redact import without_password

Opener = Callable[[], Capture | Trouble]
"""Opens a camera, which may take seconds, or says why it cannot."""

_STEADY = 10.0
"""Seconds after which a connection was a good one: a camera that comes and goes is asked ever less often."""


class Reader:
    """Reads into a slot until it is the turn of another one, or of none.

    The capture is opened, read and released in this thread: to release it while another thread reads crashes OpenCV.

    Args:
        open_capture: Called before every connection, so that a camera that comes back under another number is found.
        slot: Where frames and states go.
        backoff: The delays between tries: those of the reader before, or one that hangs each time would never be asked
            less often.
        may_begin: None for at once. Otherwise the reader before hangs and may still hold the device: then it begins
            after a delay, and not before this holds.

    Attributes:
        opening: Whether the camera is being opened just now.
        over: Whether the thread has nothing more to do.
    """

    def __init__(
        self,
        open_capture: Opener,
        slot: Slot,
        backoff: Backoff,
        *,
        may_begin: Callable[[], bool] | None = None,
    ) -> None:
        self._open_capture = open_capture
        self._slot = slot
        self._backoff = backoff
        self._may_begin = may_begin
        self._filter = FrameFilter()
        self.opening = False
        self.over = False
        slot.admit(self)
        # a thread that hangs in a driver must not keep the program alive
        self.thread = threading.Thread(target=self._run, name=f"deepir {slot.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            if self._may_begin is not None:
                self._slot.pause(self, self._backoff.next())
                self._slot.await_leave(self, self._may_begin)
            self._connect_again_and_again()
        finally:
            with self._slot.changed:
                self.over = True
                self._slot.changed.notify_all()

    def _connect_again_and_again(self) -> None:
        while self._slot.counts(self):
            trouble = self._connect_and_read()
            if trouble is None:
                self._slot.end(self)
                return
            if not self._slot.counts(self):
                # the next delay is that of the reader whose turn it is
                return
            self._slot.lose(self, trouble)
            self._filter.begin(frozen=trouble.kind == "frozen")
            # a camera bars whoever knocks too often with a wrong password
            self._slot.pause(self, self._backoff.next(slowly=trouble.kind == "auth"))

    def _connect_and_read(self) -> Trouble | None:
        """Why the connection failed or was lost; None when the stream ended, or this reader's turn did."""
        self._slot.connecting(self)
        try:
            self.opening = True
            try:
                capture = self._open_capture()
            finally:
                self.opening = False
            if isinstance(capture, Trouble):
                return capture
            try:
                self._slot.connected(self, frame_size(capture), frame_rate(capture))
                return self._read(capture)
            finally:
                capture.release()
        except DeepIRError as error:
            return Trouble("lost", str(error))
        except Exception as error:  # whatever the driver raises must reach whoever asks for frames
            frames = self._slot.state.frames
            message = f"{self._slot.name} failed after {frames} frames: {without_password(str(error))}"
            return Trouble("lost", message)

    def _read(self, capture: Capture) -> Trouble | None:
        clock, name = self._slot.clock, self._slot.name
        count, reads = frame_count(capture), 0
        while self._slot.counts(self):
            read, bgr = capture.read()
            now = clock.now()
            if not read or bgr is None:
                if count is not None and reads >= count:
                    return None
                return Trouble(
                    "lost", f"lost {name} after {self._slot.state.frames} frames: check its cable or network"
                )
            reads += 1
            frozen = self._slot.patience.frozen
            if frozen is not None and (seconds := self._filter.frozen_for(bgr, now)) >= frozen:
                message = f"{name} has given the same picture for {seconds:.0f} seconds: "
                message += "restart the camera; where it looks at a still picture, --frozen off"
                return Trouble("frozen", message)
            if self._filter.accepts(bgr, now):
                self._slot.put(self, turn_to_rgb(bgr), now, clock.wall())
                if self._is_steady(now):
                    self._backoff.reset()
            else:
                self._slot.drop(self)
        return None

    def _is_steady(self, now: float) -> bool:
        state = self._slot.state
        return state.status == "live" and now - state.since >= _STEADY
