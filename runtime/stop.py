"""SIGTERM and Ctrl-C ask a loop to end after the answer in hand; a second one ends it at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Terminated(BaseException):
    """SIGTERM arrived where no loop could end by itself."""


class Stop:
    """Takes the two signals while it is entered; only in the main thread of a program.

    Attributes:
        asked: The loop is to end.
        interrupted: By Ctrl-C, which the caller of the program wants to hear of.
    """

    def __init__(self) -> None:
        self.asked = False
        self.interrupted = False
        self._looping = False
        self._before: dict[int, Any] = {}

    def looping(self) -> None:
        """From now on somebody looks at `asked`; before, the first signal ends the program at once."""
        self._looping = True

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return kind is Terminated

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = self.asked
        self.asked = True
        self.interrupted = self.interrupted or number == signal.SIGINT
        if again or not self._looping:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
