"""Metric learning: train a trunk on labelled pictures, so that those of one label come close."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from deepir.datasets import LabelledImage
from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model
from deepir.distill.choices import MININGS
from deepir.distill.classify import ClassificationLoss
from deepir.distill.describe import describe_files
from deepir.distill.device import Device
from deepir.distill.epochs import Figures, Progress, seed_everything
from deepir.distill.lessons import (
    TUPLE_LOSSES,
    Lesson,
    TupleConfig,
    random_lesson,
    triplet_lesson,
    tuple_lesson,
)
from deepir.distill.loss_choice import build_loss, build_miner, takes_pairs
from deepir.distill.mining import HardTripletConfig
from deepir.distill.pictures import Augmentation, PictureSights, set_training
from deepir.distill.trainer import TrainConfig, train
from deepir.distill.validation import split_labels, validation_of, with_partners
from deepir.errors import OptionError

_PROXY_FACTOR = 10.0
"""A loss with a vector for each label learns those faster than the trunk: each is seen in few batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricConfig:
    """How a trunk is trained on labels.

    Attributes:
        loss: A name that `loss_choice.build_loss` knows; one of `lessons.TUPLE_LOSSES` unless mining is random.
        miner: A class of pytorch_metric_learning.miners that chooses pairs within a batch, for losses that take pairs;
            `none` uses every pair.
        mining: One of `deepir.distill.choices.MININGS`.
        triplets, tuples: How those two are mined; an epoch of triplets is one refresh of its candidates.
        batch: Pictures a step, `per_label` of each label; at most all labels once.  For random mining.
        learning_rate: Peak of a one-cycle schedule of AdamW.
        freeze_norm: Leave batch-norm statistics as they are: for pretrained trunks and small batches, and where there
            are chunks or several processes.
        chunk: Pictures in memory at once, however large the batch; None for a batch in one graph.
        warm_epochs: Epochs in which the trunk first learns to name the labels (method.md 6, C-Clean).
        held_out: Share of the labels, 0..0.5, that are validated on after each epoch, not trained on.
        patience: Epochs without a better validation until training stops; the best weights are taken.
        training: What else `TrainConfig` has: compile, tensorboard, save_minutes.
    """

    epochs: int = 20
    batch: int = 32
    per_label: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    loss: str = "MultiSimilarityLoss"
    miner: str = "MultiSimilarityMiner"
    mining: str = "random"
    triplets: HardTripletConfig = field(default_factory=HardTripletConfig)
    tuples: TupleConfig = field(default_factory=TupleConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    freeze_norm: bool = False
    chunk: int | None = None
    warm_epochs: int = 0
    held_out: float = 0.0
    patience: int | None = None
    seed: int = 0
    workers: int = 0
    training: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1))

    def __post_init__(self) -> None:
        if self.batch % self.per_label or self.batch < 2 * self.per_label:
            message = (
                f"batch must be a multiple of per_label with two labels or more, got {self.batch} and {self.per_label}"
            )
            raise OptionError(message)
        if self.epochs < 1 or self.learning_rate <= 0:
            message = f"epochs and learning_rate must be positive, got {self.epochs} and {self.learning_rate}"
            raise OptionError(message)
        if self.mining not in MININGS or (self.mining != "random" and self.loss not in TUPLE_LOSSES):
            message = (
                f"mining is one of {', '.join(MININGS)}, the last two with a loss of {', '.join(TUPLE_LOSSES)}; "
                f"got {self.mining} with {self.loss}"
            )
            raise OptionError(message)
        if not 0 <= self.held_out <= 0.5 or self.warm_epochs < 0:
            message = (
                f"held_out must lie in 0..0.5 and warm_epochs be 0 or more, got {self.held_out}, {self.warm_epochs}"
            )
            raise OptionError(message)
        if self.patience is not None and not self.held_out:
            message = f"patience {self.patience} needs labels to validate on: set held_out too"
            raise OptionError(message)


def train_metric(
    model: Model, images: Sequence[LabelledImage], config: MetricConfig, progress: Progress, device: Device
) -> Model:
    """Train the network so that pictures of one label come close; returns it with its new weights' hash.

    Labels with one picture are left out, which `progress.report` is told.

    Raises:
        InputError: Fewer than two labels with two pictures; else as `trainer.train`.
        OptionError: A loss or a miner that is not there; else as `trainer.train`.
        MemoryLimitError, KeyboardInterrupt: As `trainer.train`.
    """
    kept = with_partners(images, progress.report)
    learnt, held_out = split_labels(kept, config.held_out, config.seed)
    names = sorted({image.label for image in learnt})
    labels_n = torch.tensor([names.index(image.label) for image in learnt])
    seed_everything(config.seed)
    device.place(model.network)
    course = _Course(model, learnt, labels_n, config, device)
    loss = build_loss(config.loss, classes=len(names), dim=model.spec.dim).to(device.name)
    lesson = course.lesson(loss)
    last = progress
    if config.warm_epochs:
        last = course.warm_up(ClassificationLoss(len(names), model.spec.dim, "normalized").to(device.name), progress)
    validate = validation_of(model, held_out) if held_out else None
    course.run(lesson, loss, config.epochs, last, validate)
    _warm(progress).state_path.unlink(missing_ok=True)
    model.network.eval()
    return model.sealed()


@dataclass(frozen=True, slots=True)
class _Course:
    """One model's training on labels: perhaps two runs of the trainer, one after the other."""

    model: Model
    images: Sequence[LabelledImage]
    labels_n: Tensor
    config: MetricConfig
    device: Device

    def lesson(self, loss: nn.Module) -> Lesson:
        """What the ranking is learnt from."""
        config = self.config
        if config.mining == "triplets":
            return triplet_lesson(self.labels_n, config.triplets, config.loss, config.seed, self._describe)
        if config.mining == "negatives":
            return tuple_lesson(self.labels_n, config.tuples, config.loss, config.seed, self._describe)
        miner = build_miner(config.miner) if takes_pairs(config.loss) else None
        return random_lesson(self.labels_n, config.batch, config.per_label, loss, miner)

    def warm_up(self, loss: nn.Module, progress: Progress) -> Progress:
        """Learn to name the labels; gives the progress of what comes after it."""
        progress.report(f"warm start: {self.config.warm_epochs} epochs of naming the labels")
        lesson = random_lesson(self.labels_n, self.config.batch, self.config.per_label, loss, None)
        self.run(lesson, loss, self.config.warm_epochs, _warm(progress), None)
        return replace(progress, resume=progress.resume and progress.state_path.exists())

    def run(
        self,
        lesson: Lesson,
        loss: nn.Module,
        epochs: int,
        progress: Progress,
        validate: Callable[[], Figures] | None,
    ) -> None:
        config, network = self.config, self.model.network
        set_training(network, freeze_norm=config.freeze_norm)
        rate = config.learning_rate
        train(
            network,
            PictureSights([image.path for image in self.images], self.model.spec, config.augmentation, config.seed),
            lesson.batches,
            lesson.loss,
            replace(
                config.training,
                epochs=epochs,
                weight_decay=config.weight_decay,
                chunk=config.chunk,
                seed=config.seed,
                workers=config.workers,
                patience=None if validate is None else config.patience,
            ),
            groups=[(network.parameters(), rate), (loss.parameters(), rate * _PROXY_FACTOR)],
            progress=progress,
            device=self.device,
            parts={"loss": loss},
            validate=validate,
        )

    def _describe(self, numbers: Sequence[int]) -> Descriptors:
        self.model.network.eval()
        return np.concatenate(list(describe_files(self.model, [self.images[number].path for number in numbers])))


def _warm(progress: Progress) -> Progress:
    """Of the warm start, whose state stays on disk until all is done."""
    return replace(progress, out=progress.out.with_name(progress.out.name + ".warm"), keep=True)
