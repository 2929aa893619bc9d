"""The epochs of a training: state on disk after each, a line for each, Ctrl-C that loses at most one."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from deepir.errors import InputError
from deepir.files import replacing, write_text

Figures = dict[str, float]


class Stateful(Protocol):
    """A network, an optimiser or a schedule."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training writes its state and its lines.

    Attributes:
        out: The checkpoint to be; the state lies beside it as `OUT.state`, the figures as `OUT.log.jsonl`.
        resume: Go on from `OUT.state`.
        keep: Leave the state when the training is done: another one goes on from it.
        command: The words that resume this training, told after Ctrl-C.
        report: Takes each line for people.
    """

    out: Path
    resume: bool = False
    keep: bool = False
    command: str = ""
    report: Callable[[str], None] = field(default=lambda _: None)

    @property
    def state_path(self) -> Path:
        return self.out.with_name(self.out.name + ".state")

    @property
    def log_path(self) -> Path:
        return self.out.with_name(self.out.name + ".log.jsonl")


def run_epochs(
    progress: Progress,
    parts: Mapping[str, Stateful],
    *,
    epochs: int,
    seed: int,
    train_epoch: Callable[[int], Figures],
) -> None:
    """Run `train_epoch` for each epoch that is left, seeded by its number so that a resumed run equals an unbroken one.

    Raises:
        InputError: `resume` without a state to resume from, or a state that does not fit.
        KeyboardInterrupt: Passed on, after saying how to resume.
    """
    rows = _restore(progress, parts) if progress.resume else []
    try:
        for epoch in range(len(rows), epochs):
            seed_everything(seed + epoch)
            started = time.monotonic()
            figures = train_epoch(epoch)
            figures["seconds"] = round(time.monotonic() - started, 1)
            rows.append({"epoch": epoch + 1, **figures})
            _save(progress, parts, rows)
            progress.report(_line(epoch + 1, epochs, figures))
    except KeyboardInterrupt:
        again = f"resume with: {progress.command}" if rows else "no epoch was finished, so run it anew without --resume"
        progress.report(f"stopped after epoch {len(rows)} of {epochs}; {again}")
        raise
    progress.state_path.unlink(missing_ok=True)


def seed_everything(seed: int) -> None:
    """Seed every random generator that training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Gives what tells whether Ctrl-C was pressed; pressed a second time it interrupts at once.

    Outside the main thread Ctrl-C arrives elsewhere, and this tells nothing.
    """
    pressed = False

    def press(_number: int, _frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, press)
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _line(epoch: int, epochs: int, figures: Figures) -> str:
    left = (epochs - epoch) * figures["seconds"]
    values = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs} {values} left {left:.0f} s"


def _save(progress: Progress, parts: Mapping[str, Stateful], rows: list[dict[str, Any]]) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(progress.state_path) as temporary:
        torch.save({"rows": rows, "parts": state}, temporary)
    write_text(progress.log_path, "".join(json.dumps(row) + "\n" for row in rows))


def _restore(progress: Progress, parts: Mapping[str, Stateful]) -> list[dict[str, Any]]:
    if not progress.state_path.exists():
        message = f"nothing to resume: {progress.state_path} does not exist; run without --resume"
        raise InputError(message)
    try:
        saved = torch.load(progress.state_path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
    except Exception as error:
        message = f"cannot resume from {progress.state_path}: {error}; run without --resume"
        raise InputError(message) from error
    rows: list[dict[str, Any]] = saved["rows"]
    return rows
