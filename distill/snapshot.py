"""The state of a training on disk: written whole or not at all, and refused where it does not fit."""

import hashlib
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepir.distill.epochs import Stateful
from deepir.distill.ranks import Ranks
from deepir.distill.sights import Batch
from deepir.errors import InputError
from deepir.files import replacing

_SCHEMA = 1


@dataclass(kw_only=True)
class Course:
    """How far a training has come.

    Attributes:
        rows: The figures of the epochs that are done.
        epoch, step: The next step, both from 0.
        batches: Of the epoch under way; empty before its first step.
        loss_sum, seconds: Of the steps done in this epoch.
        steps_before: How many steps the last epoch had that was begun; 0 before the first.
        best_epoch, best_score, best: The validation that went best, and the network's weights then.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    batches: list[Batch] = field(default_factory=list)
    loss_sum: float = 0.0
    seconds: float = 0.0
    steps_before: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    best: dict[str, Tensor] | None = None

    def begin_next(self) -> None:
        """Turn to the next epoch."""
        self.epoch, self.step, self.batches, self.loss_sum, self.seconds = self.epoch + 1, 0, [], 0.0, 0.0


def identify(network: nn.Module, *, pictures: int, seed: int, epochs: int) -> dict[str, Any]:
    """What must be the same for a training to go on: seed, length, number of pictures, shapes of the weights."""
    shapes = repr([(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()])
    return {
        "seed": seed,
        "epochs": epochs,
        "pictures": pictures,
        "weights": hashlib.sha256(shapes.encode()).hexdigest(),
    }


class Keeper:
    """Keeps the state of a training in a file; of several processes the first one does.

    Args:
        path: The file.
        identity: What must be the same for a training to go on.
        parts: Network, optimiser and what else has a state.
        ranks: The processes that train together.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], parts: Mapping[str, Stateful], ranks: Ranks) -> None:
        self._path = path
        self._identity = dict(identity)
        self._parts = parts
        self._ranks = ranks
        self._time = time.monotonic()
        self.place: str | None = None
        """How far the training had come when it was saved last, in words."""

    @property
    def age(self) -> float:
        """Seconds since the last save, or since the start."""
        return time.monotonic() - self._time

    def save(self, course: Course) -> None:
        """Replace the state on disk.

        Raises:
            InputError: No room, or the folder cannot be written; the state that was there stays.
        """
        if self._ranks.first:
            states = {name: part.state_dict() for name, part in self._parts.items()}
            self._write({"schema": _SCHEMA, "identity": self._identity, "course": _plain(course), "parts": states})
        self._time = time.monotonic()
        self.place = self._place(course)

    def load(self) -> Course:
        """Bring the parts back to the state on disk.

        Raises:
            InputError: No state, a damaged one, or one of another training.
        """
        content, error = b"", None
        if self._ranks.first:
            try:
                content = self._path.read_bytes()
            except OSError as problem:
                message = f"nothing to resume: cannot read {self._path} ({problem.strerror}); run without --resume"
                error = InputError(message)
        self._ranks.check(error)
        try:
            course = self._restore(self._ranks.from_rank(0, content))
        except Exception as problem:
            message = f"cannot resume from {self._path}: {problem}; run without --resume"
            raise InputError(message) from problem
        self.place = self._place(course)
        return course

    def remove(self) -> None:
        """The training is done: leave nothing to resume."""
        if self._ranks.first:
            self._path.unlink(missing_ok=True)

    def _place(self, course: Course) -> str:
        steps = f" and step {course.step} of {len(course.batches)}" if course.step else ""
        return f"epoch {course.epoch} of {self._identity['epochs']}{steps}"

    def _write(self, saved: dict[str, Any]) -> None:
        try:
            with replacing(self._path) as temporary:
                torch.save(saved, temporary)
        except (OSError, RuntimeError) as error:
            # torch's writer tells of a full disk without the system's words
            reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
            message = f"cannot save the training to {self._path} ({reason}): make room; the state saved before is kept"
            raise InputError(message) from error

    def _restore(self, content: bytes) -> Course:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check_identity(saved, self._identity)
        for name, part in self._parts.items():
            part.load_state_dict(saved["parts"][name])
        return _course(saved["course"])


def _plain(course: Course) -> dict[str, Any]:
    values = {name: getattr(course, name) for name in course.__dataclass_fields__}
    return {**values, "batches": [(batch.numbers, batch.size) for batch in course.batches]}


def _course(values: dict[str, Any]) -> Course:
    batches = [Batch(numbers, size) for numbers, size in values["batches"]]
    return Course(**{**values, "batches": batches})


def _check_identity(saved: Any, identity: Mapping[str, Any]) -> None:
    if not isinstance(saved, dict) or saved.get("schema") != _SCHEMA:
        message = "it was written by another version of deepir"
        raise InputError(message)
    for name, now in identity.items():
        before = saved["identity"][name]
        if before != now:
            words = "the network has other layers" if name == "weights" else f"its {name} were {before}, now {now}"
            raise InputError(words)
