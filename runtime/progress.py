"""What a person sees while a command works: a status line, a progress bar; on stderr, never on stdout."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from deepir.optional import need

_ON_SCREEN = 1.0
_IN_A_LOG = 10.0

Advance = Callable[[int], None]

Report = Callable[[str], None]
"""Takes lines for people."""


def say(text: str = "", *, end: bool = True) -> None:
    """A line for people, on stderr; once whoever reads them has left, nothing more is written there.

    Args:
        text: The line.
        end: Whether the line ends here.
    """
    try:
        click.echo(text, err=True, nl=end)
    except OSError:
        # what recognises for weeks does not end because a log's reader did; at exit stderr would be flushed once more
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 open until the program ends


class StatusLine:
    """One line, rewritten once a second on a terminal; a plain line every ten seconds in a log."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._screen = sys.stderr.isatty()
        # the first line of a log comes after the first interval: the start-up block was just written
        self._next = time.monotonic() + (0.0 if self._screen else _IN_A_LOG)
        self._width = 0

    @property
    def due(self) -> bool:
        """Whether it is time for a text: to make one costs something."""
        return not self._quiet and time.monotonic() >= self._next

    def show(self, text: str) -> None:
        """Show the text if it is time for it."""
        if not self.due:
            return
        self._next = time.monotonic() + (_ON_SCREEN if self._screen else _IN_A_LOG)
        if self._screen:
            say("\r" + text.ljust(self._width), end=False)
            self._width = len(text)
        else:
            say(text)

    def end(self) -> None:
        """Leave the line as it is and go to the next."""
        if self._width:
            say()
            self._width = 0


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Advance]:
    """A function to call with the number of things done; draws nothing unless stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    console = need("rich.console").Console(stderr=True)
    with need("rich.progress").Progress(console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
