"""What deepir-run says of the places for its answers: that they fail, that they work again, what was given up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepir.runtime.progress import say
from deepir.runtime.sink import Sink, SinkState

_APART = 60.0
"""Seconds between two lines about what one place gave up."""


@dataclass(slots=True)
class _Told:
    trouble: bool = False
    dropped: int = 0
    next: float = 0.0


class SinkNews:
    """Tells on stderr, once each, when a sink's trouble begins and is over, and once a minute what it gave up.

    Args:
        sinks: That are watched.
        quiet: Only what is trouble.
        clock: Seconds that never jump; for tests.
    """

    def __init__(self, sinks: Sequence[Sink], *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks = tuple((sink, _Told(next=clock())) for sink in sinks)
        self._quiet = quiet
        self._clock = clock

    def look(self) -> None:
        """Tell what is new."""
        for sink, told in self._sinks:
            state = sink.state
            self._tell_trouble(sink.name, state, told)
            if self._clock() >= told.next:
                self._tell_dropped(sink.name, state, told)

    def end(self) -> None:
        """Tell what is new now that all are closed, and nobody looks again."""
        for sink, told in self._sinks:
            state = sink.state
            self._tell_trouble(sink.name, state, told)
            self._tell_dropped(sink.name, state, told)

    def _tell_trouble(self, name: str, state: SinkState, told: _Told) -> None:
        trouble = " ".join(state.trouble.split())
        if bool(trouble) == told.trouble:
            return
        told.trouble = bool(trouble)
        if trouble:
            say(f"warning: {name}: {trouble}")
        elif not self._quiet:
            say(f"{name} works again")

    def _tell_dropped(self, name: str, state: SinkState, told: _Told) -> None:
        given_up = state.dropped - told.dropped
        if not given_up:
            return
        told.dropped, told.next = state.dropped, self._clock() + _APART
        answers = "1 answer was" if given_up == 1 else f"{given_up} answers were"
        say(f"warning: {name}: {answers} given up")
