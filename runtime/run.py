"""Source to recognitions: the loop behind deepir-run."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TextIO

import click

from deepir.errors import InputError, OptionError
from deepir.runtime.annotate import VideoWriter, annotate, check_video_path
from deepir.runtime.backend import Device
from deepir.runtime.frame import Frame, Source
from deepir.runtime.progress import StatusLine
from deepir.runtime.recogniser import TOP_LABELS, Recogniser, Recognition
from deepir.runtime.source import open_source

_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What deepir-run was asked for; checked when it is made."""

    source: str
    index_path: Path
    model: Path | None = None
    threshold: float | Literal["auto"] = "auto"
    topk: int = TOP_LABELS
    device: Device = "auto"
    every: int = 1
    max_frames: int | None = None
    save: Path | None = None
    jsonl: Path | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            message = f"--every and --max-frames must be 1 or more, got {self.every} and {self.max_frames}"
            raise OptionError(message)
        if self.save is not None:
            check_video_path(self.save)


@dataclass(slots=True)
class Tally:
    """What came out so far."""

    matches: int = 0
    unknown: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def frames(self) -> int:
        """Frames recognised."""
        return self.matches + self.unknown

    @property
    def rate(self) -> float:
        """Frames per second since the start."""
        return self.frames / max(time.monotonic() - self.started, 1e-9)

    def count(self, recognition: Recognition) -> None:
        """Take one more frame into account."""
        if recognition.status == "match":
            self.matches += 1
        else:
            self.unknown += 1

    def summary(self) -> str:
        """One line for the end."""
        seconds = time.monotonic() - self.started
        return (
            f"{self.frames} frames in {seconds:.1f} s ({self.rate:.1f} frames per second): "
            f"{self.matches} match, {self.unknown} unknown"
        )


def run(options: RunOptions) -> Tally:
    """Recognise every chosen frame of the source; the errors are those of its parts.

    SIGTERM ends it like the end of a file; Ctrl-C passes on after everything was closed.
    """
    with contextlib.ExitStack() as stack:
        recogniser = stack.enter_context(
            Recogniser.open(
                options.index_path,
                options.model,
                threshold=options.threshold,
                device=options.device,
                top_labels=options.topk,
            )
        )
        source = stack.enter_context(open_source(options.source))
        lines = stack.enter_context(_open_lines(options.jsonl))
        fps = source.fps / options.every if source.fps else None
        video = stack.enter_context(VideoWriter(options.save, fps)) if options.save else None
        _introduce(recogniser, source, options)
        tally = Tally()
        stack.callback(_conclude, tally, options)
        status = StatusLine(quiet=options.quiet)
        stack.callback(status.end)
        stack.enter_context(_ends_at_sigterm())
        for frame in _chosen(source, options):
            recognition = recogniser(frame.image)
            tally.count(recognition)
            age = time.monotonic() - frame.captured
            print_line(frame, recognition, age, lines)
            if video is not None:
                video.write(annotate(frame.image, recognition))
            status.show(_status_text(tally, recognition, age))
    return tally


def record(frame: Frame, recognition: Recognition, age: float) -> dict[str, Any]:
    """The JSON object of one frame."""
    return {
        "frame": frame.number,
        "time": None if frame.time is None else round(frame.time, _DIGITS),
        "name": frame.name,
        "age_ms": round(1000 * age, 1),
        "status": recognition.status,
        "label": recognition.label,
        "similarity": round(recognition.similarity, _DIGITS),
        "margin": None if recognition.margin is None else round(recognition.margin, _DIGITS),
        "topk": [[label, round(similarity, _DIGITS)] for label, similarity in recognition.top],
        "ms": {step: round(value, 2) for step, value in recognition.milliseconds.items()},
    }


def print_line(frame: Frame, recognition: Recognition, age: float, lines: TextIO) -> None:
    """One JSON line, sent off at once: whoever reads it acts on it."""
    lines.write(json.dumps(record(frame, recognition, age), ensure_ascii=False) + "\n")
    lines.flush()


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
        yield click.get_text_stream("stdout")
        return
    try:
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise InputError(message) from error
    with stream:
        yield stream


def _introduce(recogniser: Recogniser, source: Source, options: RunOptions) -> None:
    index, card = recogniser.index, recogniser.extractor.card
    if recogniser.threshold is None:
        click.echo(NO_THRESHOLD, err=True)
    if options.quiet:
        return
    threshold = "none" if recogniser.threshold is None else f"{recogniser.threshold:.3f}"
    size = f"{source.size[1]}x{source.size[0]}" if source.size else "sizes vary"
    rate = f", {source.fps:.4g} frames per second" if source.fps else ""
    newest = ", newest frame" if source.live else ""
    click.echo(f"model   {card.spec.backbone} {card.numerics.value}, fingerprint {card.spec.fingerprint}", err=True)
    click.echo(f"backend {recogniser.extractor.backend.name}", err=True)
    click.echo(
        f"index   {options.index_path}: {len(index)} items, {len(index.labels)} labels, threshold {threshold}", err=True
    )
    click.echo(f"source  {source.name}: {size}{rate}{newest}", err=True)


NO_THRESHOLD = (
    "warning: the index has fewer than two labels, so it cannot tell what is unknown: "
    "every picture is a match; add labels, or set --threshold"
)


def _status_text(tally: Tally, recognition: Recognition, age: float) -> str:
    describe = recognition.milliseconds["describe"]
    return (
        f"{tally.frames} frames, {tally.rate:.1f} per second, age {1000 * age:.0f} ms, describe {describe:.1f} ms | "
        f"{recognition.label or 'unknown'} {recognition.similarity:.2f}"
    )


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
