"""Where one thread hands things to the next: a few wait in order, or the newest takes the place of what waits."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Handover(Generic[_T]):
    """Room for a few things between a thread that puts and one that takes.

    Args:
        room: How many may wait, 1 or more.
        newest: When there is no more room, the oldest makes way; else whoever puts waits.
    """

    def __init__(self, room: int, *, newest: bool = False) -> None:
        self._room = room
        self._newest = newest
        self._waiting: deque[_T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, thing: _T) -> bool:
        """Hand over; False when nobody takes any more."""
        with self._changed:
            while not self._newest and len(self._waiting) >= self._room and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            if len(self._waiting) >= self._room:
                self._waiting.popleft()
            self._waiting.append(thing)
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; whoever takes gets the error, if any, after what waits."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is taken; whoever waits with a thing in his hands goes on."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether everything was taken and nothing more comes; not while an error is to be raised."""
        with self._changed:
            return self._closed or (self._ended and not self._waiting and self._error is None)

    def take(self, seconds: float | None = None) -> _T | None:
        """The next thing; None when there was none in so many seconds, or all is over.

        Raises:
            BaseException: What `end` was told, once everything before it was taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._closed, seconds)
            if self._waiting:
                thing = self._waiting.popleft()
                self._changed.notify_all()
                return thing
            if self._error is not None and not self._closed:
                raise self._error
            return None

    def __iter__(self) -> Iterator[_T]:
        while True:
            thing = self.take()
            if thing is None:
                return
            yield thing
