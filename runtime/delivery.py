"""Records on their way to another machine: kept in order while it is away, sent again until it has them."""

import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from deepir.runtime.backoff import Backoff
from deepir.runtime.clock import SYSTEM_CLOCK, Clock
from deepir.runtime.redact import without_password
from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState

Send = Literal["changes", "matches", "all"]
SENDS: tuple[Send, ...] = get_args(Send)

ROOM = 1000
"""Records that wait while the other side is away; then the oldest is given up."""

_FAREWELL = 5.0
"""Seconds in which what waits may still be sent when the program ends."""

_GRACE = 0.5
"""Seconds in which a try that was broken off comes to its end."""

_MOST_TRACKED = 256

Record = Mapping[str, Any]
_Shown = tuple[str, str | None]


class DeliveryError(Exception):
    """It did not arrive, but may the next time; says why, without a password.

    Attributes:
        wait: Seconds before which the other side does not want to be asked again.
    """

    def __init__(self, message: str, *, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class RefusedError(DeliveryError):
    """The other side does not want this record, and never will."""


class Choice:
    """Which answers are sent.

    Args:
        send: `all`; `matches`; or `changes`: where status or label of a thing that a tracker follows differ from
            before, and without a tracker, where nothing in the frame before had both.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tracked: OrderedDict[int, _Shown] = OrderedDict()
        self._frame: int | None = None
        self._before: set[_Shown] = set()
        self._now: set[_Shown] = set()

    def takes(self, result: Result) -> bool:
        """Whether this answer is one."""
        shown = result.shown
        if self._send != "changes":
            return self._send == "all" or shown.status == "match"
        thing = None if result.part is None else result.part.tracker
        if thing is None:
            return self._is_new_to_the_frame(result.frame.number, (shown.status, shown.label))
        return self._is_new_of(thing, (shown.status, shown.label))

    def _is_new_of(self, thing: int, shown: _Shown) -> bool:
        before = self._tracked.get(thing)
        self._tracked[thing] = shown
        self._tracked.move_to_end(thing)
        if len(self._tracked) > _MOST_TRACKED:
            self._tracked.popitem(last=False)
        return shown != before

    def _is_new_to_the_frame(self, frame: int, shown: _Shown) -> bool:
        if frame != self._frame:
            self._frame, self._before, self._now = frame, self._now, set()
        new = shown not in self._before | self._now
        self._now.add(shown)
        return new


class Delivery:
    """Sends records in a thread of its own, in order; a `Sink`.

    Args:
        name: In one word.
        deliver: Sends one record; raises DeliveryError where that failed.
        choice: Which answers become records.
        room: How many may wait.
        clock: For tests.
        chance: For tests; numbers of 0 <= x < 1.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Record], None],
        choice: Choice,
        *,
        room: int = ROOM,
        clock: Clock = SYSTEM_CLOCK,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._deliver = deliver
        self._choice = choice
        self._room = room
        self._clock = clock
        self._backoff = Backoff(chance)
        self._changed = threading.Condition()
        self._waiting: deque[Record] = deque()
        self._in_hand: Record | None = None
        self._sent = self._dropped = 0
        self._trouble = ""
        self._until: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"deepir {name}", daemon=True)
        self._thread.start()

    def take(self, result: Result) -> None:
        """Put an answer among those that wait, if it is one to send."""
        if self._choice.takes(result):
            self.put(result.record())

    def put(self, record: Record) -> None:
        """Put a record among those that wait."""
        with self._changed:
            if len(self._waiting) >= self._room:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(record)
            self._changed.notify_all()

    @property
    def state(self) -> SinkState:
        """How it is doing."""
        with self._changed:
            waiting = len(self._waiting) + (self._in_hand is not None)
            return SinkState(sent=self._sent, waiting=waiting, dropped=self._dropped, trouble=self._trouble)

    def wait_for(self, happened: Callable[[SinkState], bool], seconds: float) -> bool:
        """Wait until its state is such; False when it was not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: happened(self.state), seconds)

    def close(self) -> None:
        """Send what waits, for five seconds at most, and stop; what is left counts as dropped."""
        self._stop_at(self._clock.now() + _FAREWELL)
        self._thread.join(_FAREWELL)
        if self._thread.is_alive():
            self._stop_at(self._clock.now())
            self._break_off()
            self._thread.join(_GRACE)

    def _break_off(self) -> None:
        """End the try that goes on; called from another thread than it runs in."""

    def _stop_at(self, until: float) -> None:
        with self._changed:
            self._until = until
            self._changed.notify_all()

    def _run(self) -> None:
        while (record := self._next()) is not None:
            trouble, dropped = "", 0
            try:
                self._deliver(record)
            except RefusedError as error:
                trouble, dropped = str(error), 1
            except DeliveryError as error:
                self._keep(record, error)
                continue
            except Exception as error:  # a record that cannot be sent at all must not end the thread for all others
                trouble, dropped = f"{type(error).__name__}: {without_password(str(error))}", 1
            self._backoff.reset()
            with self._changed:
                self._in_hand = None
                self._sent += 1 - dropped
                self._dropped += dropped
                self._trouble = trouble
                self._changed.notify_all()

    def _next(self) -> Record | None:
        """The next record to send; None when it is time to stop."""
        with self._changed:
            while True:
                if self._until is not None and (self._clock.now() >= self._until or not self._has_work()):
                    self._dropped += len(self._waiting) + (self._in_hand is not None)
                    self._waiting.clear()
                    self._in_hand = None
                    return None
                if self._in_hand is None and self._waiting:
                    self._in_hand = self._waiting.popleft()
                if self._in_hand is not None:
                    return self._in_hand
                self._changed.wait()

    def _has_work(self) -> bool:
        return self._in_hand is not None or bool(self._waiting)

    def _keep(self, record: Record, error: DeliveryError) -> None:
        """Wait before the next try; when the end comes in between, that try comes at once.

        It is one with the same record, unless so many wait by then that this one is given up.
        """
        with self._changed:
            self._in_hand, self._trouble = record, str(error)
            self._changed.notify_all()
            until = self._until
            if until is not None:
                self._backoff.reset()
            again = self._clock.now() + max(self._backoff.next(), error.wait)
            end = again if until is None else min(again, until)
            while self._until == until and (left := end - self._clock.now()) > 0:
                self._clock.wait(self._changed, left)
            if len(self._waiting) >= self._room:
                # the oldest of all: one that the other side never takes must not stop the others for ever
                self._in_hand = None
                self._dropped += 1
