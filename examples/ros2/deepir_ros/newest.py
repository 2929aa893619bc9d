"""Where the subscription leaves a picture for the worker: the newest one only."""

import threading
import time
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Newest(Generic[_T]):
    """Room for one thing; a newer one takes its place.

    Attributes:
        put_count: Things that were put.
        dropped: Things whose place was taken before somebody took them.
    """

    def __init__(self) -> None:
        self.put_count = 0
        self.dropped = 0
        self._thing: _T | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, thing: _T) -> None:
        """Leave a thing; never waits for whoever takes."""
        with self._changed:
            self.put_count += 1
            self.dropped += self._thing is not None
            self._thing = thing
            self._changed.notify_all()

    def take(self, not_before: float = 0.0) -> _T | None:
        """Wait for a thing, and until this second of time.monotonic(); None once it is closed."""
        with self._changed:
            while not self._closed:
                early = not_before - time.monotonic()
                if early > 0:
                    self._changed.wait(early)
                elif self._thing is None:
                    self._changed.wait()
                else:
                    thing, self._thing = self._thing, None
                    return thing
            return None

    def close(self) -> None:
        """Forget what waits and send whoever takes away."""
        with self._changed:
            self._closed, self._thing = True, None
            self._changed.notify_all()
