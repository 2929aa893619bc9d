"""Source to recognitions: the loop behind deepir-run."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TextIO

import click

from deepir.errors import InputError, OptionError
from deepir.runtime.annotate import VideoWriter, annotate, check_video_path
from deepir.runtime.backend import BackendOptions
from deepir.runtime.camera_state import OnLost, Patience
from deepir.runtime.decide import Decider, Deciding
from deepir.runtime.frame import Frame, Source
from deepir.runtime.index_watch import IndexWatch, file_state, reads_again_at_sighup
from deepir.runtime.progress import StatusLine
from deepir.runtime.recogniser import Judgement, Recogniser
from deepir.runtime.run_report import NO_THRESHOLD, Tally, introduce, status_text, write_line
from deepir.runtime.source import open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What deepir-run was asked for; checked when it is made."""

    source: str
    index_path: Path
    model: Path | None = None
    judgement: Judgement = field(default_factory=Judgement)
    deciding: Deciding = field(default_factory=Deciding)
    backend: BackendOptions = field(default_factory=BackendOptions)
    every: int = 1
    max_frames: int | None = None
    save: Path | None = None
    jsonl: Path | None = None
    quiet: bool = False
    on_lost: OnLost = "exit"

    def __post_init__(self) -> None:
        if self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            message = f"--every and --max-frames must be 1 or more, got {self.every} and {self.max_frames}"
            raise OptionError(message)
        if self.save is not None:
            check_video_path(self.save)


def run(options: RunOptions) -> Tally:
    """Recognise every chosen frame of the source; the errors are those of its parts.

    SIGTERM ends it like the end of a file; Ctrl-C passes on after everything was closed. An index that another program
    changes is read again in the background, at SIGHUP in any case, and no frame is missed.
    """
    with contextlib.ExitStack() as stack:
        seen = file_state(options.index_path)
        recogniser = stack.enter_context(
            Recogniser.open(
                options.index_path,
                options.model,
                judgement=options.judgement,
                options=options.backend,
            )
        )
        source = stack.enter_context(open_source(options.source, Patience(on_lost=options.on_lost)))
        lines = stack.enter_context(_open_lines(options.jsonl))
        fps = source.fps / options.every if source.fps else None
        tally = Tally()
        stack.callback(_conclude, tally, options)
        video = stack.enter_context(VideoWriter(options.save, fps)) if options.save else None
        if recogniser.threshold is None:
            click.echo(NO_THRESHOLD, err=True)
        if not options.quiet:
            introduce(recogniser, source, options.index_path)
        status = StatusLine(quiet=options.quiet)
        stack.callback(status.end)
        watch = stack.enter_context(IndexWatch(options.index_path, recogniser.extractor.card, seen=seen).start())
        stack.enter_context(reads_again_at_sighup(watch))
        stack.enter_context(_ends_at_sigterm())
        decider = Decider(recogniser, options.deciding, live=source.live)
        for frame in _chosen(source, options):
            _take_new_index(watch, recogniser, quiet=options.quiet)
            recognition, decision = decider(frame, recogniser.describe(frame.image), recogniser.index)
            age = time.monotonic() - frame.captured
            write_line(frame, recognition, age, lines, decision)
            shown = (
                recognition if decision is None else replace(recognition, status=decision.status, label=decision.label)
            )
            tally.count(shown)
            if video is not None:
                video.write(annotate(frame.image, shown))
            status.show(status_text(tally, shown, age))
    return tally


def _take_new_index(watch: IndexWatch, recogniser: Recogniser, *, quiet: bool) -> None:
    fresh, trouble = watch.take(), watch.take_trouble()
    if trouble:
        click.echo(f"warning: the index before goes on answering: {trouble}", err=True)
    if fresh is not None:
        recogniser.index = fresh
        if not quiet:
            click.echo(f"index   read again: {len(fresh)} items, {len(fresh.labels)} labels", err=True)


def _chosen(source: Source, options: RunOptions) -> Iterator[Frame]:
    taken = 0
    for position, frame in enumerate(source):
        if position % options.every:
            continue
        yield frame
        taken += 1
        if taken == options.max_frames:
            return


@contextlib.contextmanager
def _open_lines(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise InputError(message) from error
    with stream:
        yield stream


def _conclude(tally: Tally, options: RunOptions) -> None:
    if options.quiet:
        return
    click.echo(tally.summary(), err=True)
    if options.save is not None and tally.frames:
        click.echo(f"wrote {options.save}", err=True)


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextlib.contextmanager
def _ends_at_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
