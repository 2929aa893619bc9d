"""Where answers go besides the JSON lines: one protocol for web addresses, brokers, folders and files."""

from dataclasses import dataclass
from typing import Protocol

from deepir.runtime.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkState:
    """How a sink is doing.

    Attributes:
        sent: Answers that arrived.
        waiting: Answers that are on their way, or wait for the other side to come back.
        dropped: Answers that were given up: refused, too many, or not sent when the program ended.
        trouble: Why the last try failed, one sentence without a password; empty while all is well.
    """

    sent: int = 0
    waiting: int = 0
    dropped: int = 0
    trouble: str = ""


class Sink(Protocol):
    """Takes answers; made and closed by the loop, told of each answer in its thread.

    Attributes:
        name: In one word, for the status line and the metrics.
    """

    name: str

    def take(self, result: Result) -> None:
        """Take one answer; must return at once, whatever the other side does."""

    @property
    def state(self) -> SinkState:
        """How it is doing; may be asked from any thread."""

    def close(self) -> None:
        """Send what waits, if that takes no more than a few seconds, and stop; all sinks do so at the same time."""
