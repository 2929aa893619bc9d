"""What a person sees of a build: a bar with the time left on a terminal, a line every ten seconds in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepir.export.engine_process import Tick
from deepir.runtime.progress import Report, progress_bar

_PARTS = 1000
_BEAT_SECONDS = 10.0
_SOON = 0.02
"""Below this share no time left is told: the first steps say nothing about the rest."""


@contextmanager
def build_progress(report: Report, clock: Callable[[], float] = time.monotonic) -> Iterator[Tick]:
    """A function for `run_build`; on a terminal it moves a bar, elsewhere it reports how far the build is."""
    with progress_bar("building the engine", _PARTS) as advance:
        if sys.stderr.isatty():
            yield _Bar(advance)
        else:
            yield Heartbeat(report, clock)


class Heartbeat:
    """One line every ten seconds, the first after ten.

    Args:
        report: Takes the line.
        clock: Seconds, from any start.
    """

    def __init__(self, report: Report, clock: Callable[[], float]) -> None:
        self._report, self._clock = report, clock
        self._start = clock()
        self._next = self._start + _BEAT_SECONDS
        self._share = 0.0

    def __call__(self, share: float | None) -> None:
        self._share = self._share if share is None else share
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _BEAT_SECONDS
        gone = now - self._start
        left = "" if self._share < _SOON else f", about {_duration(gone * (1 / self._share - 1))} left"
        self._report(f"building the engine: {self._share:.0%}, {_duration(gone)} gone{left}")


class _Bar:
    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._done = 0

    def __call__(self, share: float | None) -> None:
        done = self._done if share is None else int(share * _PARTS)
        self._advance(done - self._done)
        self._done = done


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
