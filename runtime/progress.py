"""What a person sees while a command works: a status line, a progress bar; on stderr, never on stdout."""

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
            click.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = len(text)
        else:
            click.echo(text, err=True)

    def end(self) -> None:
        """Leave the line as it is and go to the next."""
        if self._width:
            click.echo(err=True)
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
