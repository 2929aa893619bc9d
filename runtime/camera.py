"""Cameras: a thread reads them all the time, so that whoever asks gets the newest frame, and opens lost ones again."""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from types import TracebackType

from deepir.errors import SourceError
from deepir.runtime.backoff import Backoff
from deepir.runtime.camera_reader import Opener, Reader
from deepir.runtime.camera_slot import Slot
from deepir.runtime.camera_state import CameraState, Patience, Status, Trouble
from deepir.runtime.clock import SYSTEM_CLOCK, Clock
from deepir.runtime.frame import Frame

_FAREWELL = 2.0

_MOST_HUNG = 4
"""Threads that hang in a driver cannot be ended; after so many only a new process helps.

An opening that takes long, as where the name server is away, comes back by itself: then the next one waits for it.
"""


class Camera:
    """The newest frame of a camera, each at most once; iterate it, or `take`, in one thread.

    The camera is opened in the background; `await_first_try` waits until it is clear whether it is there.

    Args:
        open_capture: Opens it; called in the reading thread, again after each loss.
        name: As a person would call it; holds no password.
        patience: When it counts as lost, and what happens then.
        clock: For tests.
        chance: For tests; numbers of 0 <= x < 1.

    Raises:
        SourceError: While iterating, when the camera is lost and `patience` says exit, or its driver hangs for good.
    """

    live = True

    def __init__(
        self,
        open_capture: Opener,
        name: str,
        patience: Patience | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._open_capture = open_capture
        self._backoff = Backoff(chance)
        self._clock = clock
        self._slot = Slot(name, patience or Patience(), clock)
        self._hung: list[Reader] = []
        self._reader = Reader(open_capture, self._slot, self._backoff)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, as the driver said at the newest connection."""
        return self._slot.size

    @property
    def fps(self) -> float | None:
        """Frames per second, as the driver said at the newest connection."""
        return self._slot.fps

    @property
    def state(self) -> CameraState:
        """How it is doing now; may be asked from any thread."""
        slot = self._slot
        with slot.changed:
            state, heard = slot.state, slot.heard
        stale_from = math.inf if heard is None else heard + slot.patience.stale
        if state.status != "live" or self._clock.now() < stale_from:
            return state
        return dataclasses.replace(state, status="stale", since=stale_from)

    def take(self, seconds: float | None = None) -> Frame | None:
        """The newest frame that was not taken yet; None when none came in time, or the state is `ended`.

        Args:
            seconds: How long to wait for it; None waits as long as it takes.

        Raises:
            SourceError: The camera is lost and not waited for, or its driver hangs for good.
        """
        slot = self._slot
        until = math.inf if seconds is None else self._clock.now() + seconds
        with slot.changed:
            while True:
                self._replace_hung_reader()
                if (frame := slot.take()) is not None:
                    return frame
                if slot.error is not None:
                    raise slot.error
                if slot.state.status == "ended" or self._clock.now() >= until:
                    return None
                self._wait(until)

    def wait_for(self, status: Status, seconds: float) -> bool:
        """Wait until it is connecting, live, lost or ended; False when it was not in time."""
        return self._slot.wait_for(status, seconds)

    def await_first_try(self) -> "Camera":
        """Wait until it is clear whether the camera is there, and return it.

        Raises:
            SourceError: It is not, and a lost camera is not waited for; it is closed then.
        """
        slot = self._slot
        with slot.changed:
            while not slot.tried and slot.error is None:
                self._wait(math.inf)
                self._replace_hung_reader()
            error = slot.error
        if error is not None and slot.state.frames == 0:
            self.close()
            raise error
        return self

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.take()) is not None:
            yield frame

    def close(self) -> None:
        """Stop the thread and give the device back."""
        slot = self._slot
        with slot.changed:
            slot.end(self._reader)
            slot.admit(None)
            slot.take()
        self._reader.thread.join(_FAREWELL)

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, until: float) -> None:
        """Wait for a change, for the reader to be overdue, or so long; the caller holds `changed`."""
        first = min(until, self._overdue())
        seconds = None if first == math.inf else max(0.0, first - self._clock.now())
        self._slot.clock.wait(self._slot.changed, seconds)

    def _overdue(self) -> float:
        """When a reader that says nothing more counts as hanging."""
        heard = self._slot.heard
        return math.inf if heard is None else heard + self._slot.patience.silence

    def _replace_hung_reader(self) -> None:
        slot = self._slot
        if slot.error is not None or self._clock.now() < self._overdue():
            return
        message = f"{self.name} gave no frame for {slot.patience.silence:g} seconds: check its cable or network"
        slot.lose(self._reader, Trouble("hung", message))
        if slot.error is not None:
            return
        self._hung.append(self._reader)
        if not self._has_room() and not any(reader.opening for reader in self._hung):
            message = f"the driver of {self.name} hangs and {_MOST_HUNG} threads with it: start the program again"
            slot.fail(SourceError(message))
            return
        self._reader = Reader(self._open_capture, slot, self._backoff, may_begin=self._has_room)

    def _has_room(self) -> bool:
        """Whether one more may hang; the caller holds `changed`."""
        self._hung = [reader for reader in self._hung if not reader.over]
        return len(self._hung) < _MOST_HUNG
