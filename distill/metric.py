"""Metric learning: train a trunk on labelled pictures, with a loss and a miner of pytorch-metric-learning."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from deepir.datasets import LabelledImage
from deepir.distill.checkpoint import Model
from deepir.distill.device import Device, move
from deepir.distill.epochs import Figures, Progress, run_epochs, seed_everything, watched
from deepir.distill.optimise import Optimisation
from deepir.distill.pictures import Augmentation, Pictures
from deepir.errors import InputError, OptionError
from deepir.optional import need

_PROXY_FACTOR = 10.0
"""A loss with a vector for each label learns those faster than the trunk: each is seen in few batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricConfig:
    """How a trunk is trained on labels.

    Attributes:
        loss, miner: Class names of pytorch_metric_learning; miner `none` uses every pair.
        batch: Pictures a step, `per_label` of each label; at most all labels once.
        learning_rate: Peak of a one-cycle schedule of AdamW.
        freeze_norm: Leave batch-norm statistics as they are: for pretrained trunks and small batches.
    """

    epochs: int = 20
    batch: int = 32
    per_label: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    loss: str = "MultiSimilarityLoss"
    miner: str = "MultiSimilarityMiner"
    augmentation: Augmentation = field(default_factory=Augmentation)
    freeze_norm: bool = False
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch % self.per_label or self.batch < 2 * self.per_label:
            message = (
                f"batch must be a multiple of per_label with two labels or more, got {self.batch} and {self.per_label}"
            )
            raise OptionError(message)
        if self.epochs < 1 or self.learning_rate <= 0:
            message = f"epochs and learning_rate must be positive, got {self.epochs} and {self.learning_rate}"
            raise OptionError(message)


def train_metric(
    model: Model, images: Sequence[LabelledImage], config: MetricConfig, progress: Progress, device: Device
) -> Model:
    """Train the network so that pictures of one label come close; returns it with its new weights' hash.

    Raises:
        InputError: Fewer than two labels.
        OptionError: A loss or a miner that the library does not have.
    """
    names = sorted({image.label for image in images})
    if len(names) < 2:
        message = f"training needs pictures of two labels or more, got {len(names)}: {', '.join(names)}"
        raise InputError(message)
    seed_everything(config.seed)
    labels = torch.tensor([names.index(image.label) for image in images])
    network = device.place(model.network)
    loss = _build_loss(config.loss, classes=len(names), dim=model.spec.dim).to(device.name)
    miner = None if config.miner == "none" else _build("miners", config.miner)
    rate = config.learning_rate
    optimisation = Optimisation(
        [(network.parameters(), rate), (loss.parameters(), rate * _PROXY_FACTOR)],
        weight_decay=config.weight_decay,
        steps=config.epochs * len(_loader(model, images, labels, config)),
    )

    def step(images_nchw: Tensor, labels_n: Tensor) -> float:
        with device.autocast():
            descriptors = network(images_nchw).float()
        pairs = None if miner is None else miner(descriptors, labels_n)
        return optimisation.step(loss(descriptors, labels_n, pairs))

    def train_epoch(_: int) -> Figures:
        set_training(network, freeze_norm=config.freeze_norm)
        # made anew, because the sampler keeps an order of its own that a resumed training would not have
        loader = _loader(model, images, labels, config)
        batches = watched(loader, len(loader), progress.report)
        values = [step(*move(device, images_nchw, labels[numbers])) for images_nchw, numbers in batches]
        return {"loss": sum(values) / len(values)}

    parts = {"network": network, "loss": loss, **optimisation.parts}
    run_epochs(progress, parts, epochs=config.epochs, seed=config.seed, train_epoch=train_epoch)
    network.eval()
    return model.sealed()


def set_training(network: nn.Module, *, freeze_norm: bool) -> None:
    """Training mode; batch norm stays in evaluation mode when its statistics are frozen."""
    network.train()
    if freeze_norm:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _loader(
    model: Model, images: Sequence[LabelledImage], labels: Tensor, config: MetricConfig
) -> DataLoader[tuple[Tensor, int]]:
    samplers = need("pytorch_metric_learning.samplers")
    # a batch takes each label once, so few labels make small batches
    batch = min(config.batch, config.per_label * len(set(labels.tolist())))
    length = max(len(images) // batch, 1) * batch
    sampler = samplers.MPerClassSampler(labels.tolist(), config.per_label, batch, length)
    pictures = Pictures([image.path for image in images], model.spec, config.augmentation)
    return DataLoader(pictures, batch, sampler=sampler, drop_last=True, num_workers=config.workers)


def _build_loss(name: str, *, classes: int, dim: int) -> nn.Module:
    wanted = inspect.signature(_find("losses", name)).parameters
    sizes = {"num_classes": classes, "embedding_size": dim}
    loss: nn.Module = _build("losses", name, **{key: value for key, value in sizes.items() if key in wanted})
    return loss


def _build(family: str, name: str, **options: int) -> Any:
    return _find(family, name)(**options)


def _find(family: str, name: str) -> Any:
    library = need(f"pytorch_metric_learning.{family}")
    known = [key for key in dir(library) if key[:1].isupper()]
    if name not in known:
        message = f"pytorch-metric-learning has no {name!r} in its {family}; it has {', '.join(known)}"
        raise OptionError(message)
    return getattr(library, name)
