"""Training: the epochs and steps of any network, loss and pictures; saved on the way and resumed to the step."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from deepir.distill.device import Device
from deepir.distill.epochs import Figures, Progress, Stateful, interruptible, seed_everything
from deepir.distill.journal import Journal
from deepir.distill.optimise import Descent, Divergence, Groups
from deepir.distill.ranks import Ranks, current
from deepir.distill.sights import Batch, SightReader, Sights
from deepir.distill.snapshot import Course, Keeper, identify
from deepir.distill.stepper import CompilationError, Loss, StepForm, Stepper
from deepir.errors import InputError, MemoryLimitError, OptionError, ShapeError

__all__ = ["Batch", "Groups", "Loss", "Sights", "TrainConfig", "train"]

_HEARTBEAT_SECONDS = 10.0
_GO, _SAVE, _STOP = range(3)
_NOTHING: Mapping[str, Stateful] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long and in which form a network is trained.

    Attributes:
        epochs: Passes, 1 or more.
        weight_decay: As AdamW's.
        chunk: Pictures in memory at once, however large the batch (method.md 5); None computes it in one graph.
        seed: Of everything that is drawn.
        workers: Processes that read pictures; 0 reads in this one.
        compile: Let torch.compile translate the network.
        tensorboard: A folder for TensorBoard's events.
        save_minutes: The state is saved so often within an epoch, besides at its end.
        patience: Stop when the first figure of the validation was not better for so many epochs, and take the weights
            of the best one; None trains on and takes the last ones.
    """

    epochs: int
    weight_decay: float = 0.0
    chunk: int | None = None
    seed: int = 0
    workers: int = 0
    compile: bool = False
    tensorboard: Path | None = None
    save_minutes: float = 5.0
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "chunk", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"{name} must be 1 or more, got {value}"
                raise OptionError(message)
        if min(self.workers, self.seed, self.save_minutes, self.weight_decay) < 0:
            message = (
                "workers, seed, save_minutes and weight_decay cannot be negative, "
                f"got {self.workers}, {self.seed}, {self.save_minutes}, {self.weight_decay}"
            )
            raise OptionError(message)


def train(  # noqa: PLR0913 the one door: what is trained, on what, how, and who is told
    network: nn.Module,
    sights: Sights,
    batches: Callable[[int], Sequence[Batch]],
    loss: Loss,
    config: TrainConfig,
    *,
    groups: Groups,
    progress: Progress,
    device: Device,
    parts: Mapping[str, Stateful] = _NOTHING,
    validate: Callable[[], Figures] | None = None,
) -> None:
    """Train a network; its weights are the result.  What it sees, and so the result, depends on the seed alone.

    Under torchrun every process calls this; each computes its share of every batch, and all end with the same weights.

    Args:
        network: On the device, its modules in the modes to be trained in; images (N, 3, H, W) to (N, ...).
        sights: What it sees of picture k in epoch e.
        batches: The steps of an epoch; called once as it begins, in the first process.
        loss: Of the outputs of a whole batch.
        config: How long and in which form.
        groups: Parameters with their peak learning rates; those of the loss too, if it learns.
        progress: Where state and figures go.
        device: Where the network is.
        parts: What else must be saved, such as a loss that learns.
        validate: Figures of the network as it is, the first of them the higher the better; called after each epoch.

    Raises:
        InputError: A picture that cannot be read, once the state is saved; no state to resume from or one that does
            not fit; no room for the state.
        OptionError: No batches, patience without a validation, chunks or processes that a module in training mode
            forbids, a network that cannot be compiled; the loss or a gradient became NaN or infinite, and the state
            saved last is kept.
        MemoryLimitError: The GPU has too little memory.
        KeyboardInterrupt: Ctrl-C, once the state is saved.
    """
    if config.patience is not None and validate is None:
        message = f"patience {config.patience} needs a validation to watch: hold something out, or leave patience out"
        raise OptionError(message)
    ranks = current()
    journal = Journal(progress, config.epochs, config.tensorboard, first=ranks.first)
    descent = Descent(groups, weight_decay=config.weight_decay, scaled=device.scaled)
    ranks.equalise([*descent.parameters, *network.buffers()])
    identity = identify(network, pictures=len(sights), seed=config.seed, epochs=config.epochs)
    keeper = Keeper(progress.state_path, identity, {"network": network, **parts, "descent": descent}, ranks)
    course = keeper.load() if progress.resume else Course()
    form = StepForm(chunk=config.chunk, compiled=config.compile, ranks=ranks)
    run = _Run(
        config=config,
        course=course,
        network=network,
        modes=[(module, module.training) for module in network.modules()],
        descent=descent,
        stepper=Stepper(network, loss, descent, device, form),
        reader=SightReader(sights, workers=config.workers, pinned=device.on_gpu),
        keeper=keeper,
        journal=journal,
        ranks=ranks,
        resumed=progress.resume,
    )
    with _told(run, progress):
        run.train(batches, validate)
    if not progress.keep:
        keeper.remove()


@dataclass(kw_only=True)
class _Run:
    """A training under way."""

    config: TrainConfig
    course: Course
    network: nn.Module
    modes: list[tuple[nn.Module, bool]]
    descent: Descent
    stepper: Stepper
    reader: SightReader
    keeper: Keeper
    journal: Journal
    ranks: Ranks
    resumed: bool

    @property
    def here(self) -> str:
        """Which step is under way, in words."""
        return f"epoch {self.course.epoch + 1}, step {self.course.step + 1} of {len(self.course.batches)}"

    def train(self, batches: Callable[[int], Sequence[Batch]], validate: Callable[[], Figures] | None) -> None:
        course = self.course
        with interruptible() as stop_wanted:
            while course.epoch < self.config.epochs and not self._is_stale():
                self._plan(batches)
                self._steps(stop_wanted)
                self._close_epoch(validate)
                # Ctrl-C during a validation, after which there may be no further step
                self._save_or_stop(stop_wanted)
        if course.best is not None:
            self.network.load_state_dict(course.best)
            self.journal.tell(f"took the weights of epoch {course.best_epoch}, which were validated best")

    def _plan(self, batches: Callable[[int], Sequence[Batch]]) -> None:
        """Ask for the batches of this epoch; a resumed one keeps those it began with."""
        course = self.course
        _seed(self.config.seed, course.epoch)
        asked = list(batches(course.epoch)) if self.ranks.first else []
        told = json.dumps([(batch.numbers, batch.size) for batch in asked]).encode()
        plan = [
            Batch(tuple(numbers), None if size is None else (size[0], size[1]))
            for numbers, size in json.loads(self.ranks.from_rank(0, told))
        ]
        if not all(batch.numbers for batch in plan) or not plan:
            message = "an epoch needs batches with pictures, got none: give more pictures or a smaller --batch"
            raise OptionError(message)
        if self.resumed and course.steps_before not in (0, len(plan)):
            message = (
                f"cannot resume: the epochs had {course.steps_before} steps and now have {len(plan)}: "
                "train with the same pictures and --batch, or without --resume"
            )
            raise InputError(message)
        self.resumed, course.steps_before = False, len(plan)
        course.batches = course.batches or plan

    def _steps(self, stop_wanted: Callable[[], bool]) -> None:
        """The steps that are left of this epoch."""
        config, course = self.config, self.course
        for module, mode in self.modes:
            module.training = mode
        left = course.batches[course.step :]
        images = self.reader.read([one for batch in left for one in self.stepper.requests(batch, course.epoch)])
        said = time.monotonic()
        for batch in left:
            started = time.monotonic()
            _seed(config.seed, course.epoch, course.step)
            self.descent.start((course.epoch + (course.step + 0.5) / len(course.batches)) / config.epochs)
            course.loss_sum += self._step(batch, images)
            course.step += 1
            course.seconds += time.monotonic() - started
            self._save_or_stop(stop_wanted)
            if time.monotonic() - said > _HEARTBEAT_SECONDS:
                said = time.monotonic()
                self.journal.tell(f"step {course.step}/{len(course.batches)}")

    def _step(self, batch: Batch, images: Iterator[Tensor]) -> float:
        try:
            return self.stepper.step(batch, images)
        except ShapeError:
            raise
        except InputError as problem:
            self.keeper.save(self.course)
            message = f"{problem}; the training is saved in {self.here}: repair or replace the picture, then --resume"
            raise InputError(message) from problem

    def _save_or_stop(self, stop_wanted: Callable[[], bool]) -> None:
        is_due = self.keeper.age > 60 * self.config.save_minutes
        asked = self.ranks.largest(_STOP if stop_wanted() else _SAVE if is_due else _GO)
        if asked:
            self.keeper.save(self.course)
        if asked == _STOP:
            raise KeyboardInterrupt

    def _close_epoch(self, validate: Callable[[], Figures] | None) -> None:
        course, started = self.course, time.monotonic()
        found = validate() if validate is not None and self.ranks.first else {}
        figures: Figures = json.loads(self.ranks.from_rank(0, json.dumps(found).encode()))
        seconds = round(course.seconds + time.monotonic() - started, 1)
        row = {"epoch": course.epoch + 1, "loss": course.loss_sum / len(course.batches), **figures}
        course.rows.append({**row, "seconds": seconds, "seed": self.config.seed})
        if self.config.patience is not None:
            self._remember_best(figures)
        course.begin_next()
        self.keeper.save(course)
        self.journal.write(course.rows)

    def _remember_best(self, figures: Figures) -> None:
        course, score = self.course, next(iter(figures.values()), None)
        if score is not None and (course.best_score is None or score > course.best_score):
            course.best_score, course.best_epoch = score, course.epoch + 1
            course.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def _is_stale(self) -> bool:
        """Whether the validation was not better for as many epochs as there is patience for."""
        patience, course = self.config.patience, self.course
        return patience is not None and course.best is not None and course.epoch - course.best_epoch >= patience


@contextlib.contextmanager
def _told(run: _Run, progress: Progress) -> Iterator[None]:
    """What stops a training, in one sentence with the place and the way on."""
    try:
        yield
    except KeyboardInterrupt:
        place = run.keeper.place or f"epoch 0 of {run.config.epochs}"
        run.journal.tell(f"stopped after {place}; {_way_on(run, progress)}")
        raise
    except Divergence as problem:
        message = f"{problem} in {run.here}: use a smaller learning rate; {_way_on(run, progress)}"
        raise OptionError(message) from problem
    except CompilationError as problem:
        message = f"torch.compile cannot translate this network here ({problem}): leave out --compile"
        raise OptionError(message) from problem
    except torch.OutOfMemoryError as problem:
        message = f"the GPU ran out of memory in {run.here}: use a smaller --batch, or --chunk 8"
        raise MemoryLimitError(message) from problem
    finally:
        run.journal.close()


def _way_on(run: _Run, progress: Progress) -> str:
    if run.keeper.place is None:
        return "no epoch was finished, so run it anew without --resume"
    return f"resume with: {progress.command or '--resume'}"


def _seed(*numbers: int) -> None:
    seed_everything(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
