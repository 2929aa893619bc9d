"""Time as the camera threads use it, so that a test can let it pass."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Two times and one way to wait."""

    def now(self) -> float:
        """Seconds that only ever grow: for ages and delays."""

    def wall(self) -> float:
        """Seconds since 1970: for records; it may jump."""

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait, with the condition held, until it is notified or the seconds have passed; it may return earlier."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        condition.wait(seconds)


SYSTEM_CLOCK = SystemClock()
