"""What flows from the loop to those who look at the page: events with answers, and moving pictures."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from deepir.optional import need
from deepir.runtime.page_shown import Showcase, Shown
from deepir.runtime.vitals import Vitals

_PAUSE = 0.1
"""Seconds between two events or pictures: ten a second are as many as a person tells apart in numbers."""

_LOOK = 0.05
_HEARTBEAT = 1.0
"""Seconds after which an event comes without an answer: so that a camera that is lost shows at once."""

BOUNDARY = "deepir-frame"

_T = TypeVar("_T")


class Feed:
    """Follows the answers for any number of listeners, who cost nothing while no answer comes.

    Args:
        vitals: Of the loop.
        showcase: Encodes what is shown.
        facts: What every event tells besides the answer.
    """

    def __init__(self, vitals: Vitals, showcase: Showcase, facts: Callable[[], dict[str, Any]]) -> None:
        self._vitals = vitals
        self._showcase = showcase
        self._facts = facts
        self._ended = threading.Event()

    def end(self) -> None:
        """Let every listener go within a tenth of a second."""
        self._ended.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events: the newest answer at most ten times a second, and the state at least once a second."""
        yield b"retry: 1000\n\n"
        seen = -1
        while not self._ended.is_set():
            seen = await self._newer(seen, _HEARTBEAT)
            if self._ended.is_set():
                return
            yield b"data: " + await _in_thread(self.state) + b"\n\n"
            await asyncio.sleep(_PAUSE)

    def state(self) -> bytes:
        """The newest frame with its answers and how the loop is doing, as JSON in one line."""
        shown = self._showcase.newest()
        latest = self._vitals.latest
        age = None if latest is None else round(time.monotonic() - latest.frame.captured, 2)
        state = {
            "frame": None if shown is None else shown.record(),
            "frame_age_s": age,
            "report": self._vitals.report(),
            **self._facts(),
        }
        return json.dumps(state).encode()

    async def pictures(self) -> AsyncIterator[bytes]:
        """JPEGs as parts of a multipart answer, each when a new frame was answered, at most ten a second."""
        seen = -1
        sent: Shown | None = None
        while not self._ended.is_set():
            seen = await self._newer(seen, _HEARTBEAT)
            shown = await _in_thread(self._showcase.newest)
            if shown is not None and (sent is None or shown.picture is not sent.picture):
                sent = shown
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shown.picture)}\r\n\r\n"
                yield head.encode() + shown.picture + b"\r\n"
            await asyncio.sleep(_PAUSE)

    async def _newer(self, seen: int, seconds: float) -> int:
        until = time.monotonic() + seconds
        # looked at rather than waited for: a thread for each listener would have to be woken at the end
        while self._vitals.results == seen and time.monotonic() < until and not self._ended.is_set():
            await asyncio.sleep(_LOOK)
        return self._vitals.results


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Not in the thread that serves everybody: a picture takes milliseconds."""
    found: _T = await need("starlette.concurrency").run_in_threadpool(work)
    return found
