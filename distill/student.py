"""Distillation: a single-resolution student learns what its teachers see at several resolutions."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepir.distill.answers import region_parts
from deepir.distill.checkpoint import Model
from deepir.distill.device import Device
from deepir.distill.distil_loss import DistilLoss, LossWeights
from deepir.distill.epochs import Figures, Progress, Stateful
from deepir.distill.middle import check_trained, choose_trained, head_weights
from deepir.distill.network import RMacNetwork
from deepir.distill.pictures import Augmentation, set_training
from deepir.distill.quantised import fake_quantised
from deepir.distill.student_sights import StudentSights
from deepir.distill.teachers import Targets
from deepir.distill.trainer import Groups, TrainConfig, train
from deepir.distill.views import CropConfig, View
from deepir.errors import OptionError

_BIAS_FACTOR = 2
_CALIBRATED = 64
"""Views that fix the ranges of fake quantisation before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """How a student learns from its teachers (retrieval.md 7).

    Attributes:
        learning_rate: Peak of a one-cycle schedule for the trunk; the layers after it learn `head_factor` faster.
        weights: Of the parts of the loss.
        jitter: Least and greatest factor of the student's size; one is drawn for each batch.
        augmentation: What the student's sight of a view varies in; by default light and blur.
        freeze_norm: Leave batch-norm statistics as they are.
        trained: Which parameters learn, one of `deepir.distill.middle.TRAINED`.
        quantised: Compute as the INT8 file will (fake quantisation), so that the weights learn to live with it.
        validation: Share of the pictures that are not trained on but show, after each epoch, how near the student
            comes to its teacher; 0 for none.
        chunk, seed, workers, compile, tensorboard, patience: As in `TrainConfig`.
    """

    epochs: int = 10
    batch: int = 32
    learning_rate: float = 1e-3
    head_factor: float = 3.0
    weight_decay: float = 1e-5
    weights: LossWeights = field(default_factory=LossWeights)
    jitter: tuple[float, float] = (1.0, 1.0)
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(smallest_crop=1.0, light=0.3, perspective=0.0, blur=0.1)
    )
    freeze_norm: bool = True
    trained: str = "all"
    quantised: bool = False
    validation: float = 0.0
    chunk: int | None = None
    seed: int = 0
    workers: int = 0
    compile: bool = False
    tensorboard: Path | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 2 or self.learning_rate <= 0:
            message = f"batch must be 2 or more and learning_rate positive, got {self.batch} and {self.learning_rate}"
            raise OptionError(message)
        if not 0 < self.jitter[0] <= self.jitter[1] <= 4:
            message = f"jitter needs two factors above 0 and at most 4, the smaller first, got {self.jitter}"
            raise OptionError(message)
        if not 0 <= self.validation < 1:
            message = f"validation is a share of the pictures from 0 to below 1, got {self.validation}"
            raise OptionError(message)
        if self.weights.regions and (self.augmentation.flip or self.augmentation.smallest_crop < 1):
            message = (
                "per-region targets need the teacher's regions where they are: no mirrored pictures, no further crop, "
                "or regions=0 in the loss"
            )
            raise OptionError(message)
        check_trained(self.trained)


def training_views(paths: Sequence[Path], count: int, crop: CropConfig | None = None) -> list[View]:
    """`count` views of each picture: the whole one and crops."""
    return [View(path, number, crop or CropConfig()) for path in paths for number in range(count)]


def distil(
    student: Model, views: Sequence[View], targets: Targets, config: DistilConfig, progress: Progress, device: Device
) -> Model:
    """Train the student on views and what its teachers say of them; gives the same network with its new weights' hash.

    Args:
        student: Gives descriptors of the targets' dimension: `align_head` makes it so.
        views: What is learnt from; labels are not needed.
        targets: In the order of the views.
        config: How.
        progress: Where state and figures go.
        device: Where it computes.

    Raises:
        OptionError: The student gives another dimension than the targets have, regions are to be learnt and there are
            none, or what `train` raises.
    """
    network = device.place(student.network)
    _check(network, views, targets, config)
    held, learnt = _split(views, config)
    sights = StudentSights(views, student.spec, config.augmentation, config.seed)
    choose_trained(network, config.trained)
    loss = DistilLoss(targets, config.weights)
    described = _Described(network, regions=config.weights.regions > 0)
    parts: dict[str, Stateful] = {}
    with contextlib.ExitStack() as stack:
        if config.quantised:
            calibration = _calibration(sights, learnt, config.batch, device)
            parts["quantised"] = stack.enter_context(fake_quantised(network, calibration=calibration))
        described.train()
        set_training(network, freeze_norm=config.freeze_norm)
        train(
            described,
            sights,
            sights.batches(learnt, config.batch, config.jitter),
            loss,
            _train_config(config),
            groups=_groups(network, config),
            progress=progress,
            device=device,
            parts=parts,
            validate=_validation(described, sights, held, targets, config, device) if held else None,
        )
    network.requires_grad_(True).eval()
    return student.sealed(whitening=f"learnt on {len(learnt)} views from {targets.provenance}")


class _Described(nn.Module):
    """Images to (N, 1 + R, D): the descriptor, then what each region adds to it where that is asked for."""

    def __init__(self, network: RMacNetwork, *, regions: bool) -> None:
        super().__init__()
        self.network = network
        self._regions = regions

    def forward(self, images_nchw: Tensor) -> Tensor:
        vectors = self.network.region_vectors(images_nchw)
        descriptors = self.network.project(self.network.aggregate(vectors))[:, None]
        if not self._regions:
            return descriptors
        return torch.cat([descriptors, region_parts(self.network, vectors)], dim=1)


def _check(network: RMacNetwork, views: Sequence[View], targets: Targets, config: DistilConfig) -> None:
    if network.dim != targets.descriptors_nd.shape[1] or (network.whitening is None and network.fuse is None):
        message = (
            f"the student must give {targets.descriptors_nd.shape[1]} values as its targets have, not {network.dim}: "
            "call align_head first"
        )
        raise OptionError(message)
    if len(views) != len(targets.descriptors_nd):
        message = f"there are {len(views)} views and {len(targets.descriptors_nd)} targets: they must belong together"
        raise OptionError(message)
    if config.weights.regions and (targets.regions is None or network.projection is not None):
        message = "regions are to be learnt, and the targets have none: make them with regions, or set regions=0"
        raise OptionError(message)


def _split(views: Sequence[View], config: DistilConfig) -> tuple[list[int], list[int]]:
    """Numbers of the views to validate with and to learn from; those of one picture stay together."""
    pictures = sorted({view.path for view in views})
    count = round(config.validation * len(pictures))
    chosen = np.random.default_rng(config.seed).permutation(len(pictures))[:count]
    held_out = {pictures[place] for place in chosen}
    held = [number for number, view in enumerate(views) if view.path in held_out]
    learnt = [number for number, view in enumerate(views) if view.path not in held_out]
    return held, learnt


def _validation(
    described: nn.Module,
    sights: StudentSights,
    held: Sequence[int],
    targets: Targets,
    config: DistilConfig,
    device: Device,
) -> Callable[[], Figures]:
    """The mean cosine between student and teacher on pictures that are not trained on."""
    groups = sights.in_shapes(held, config.batch)
    wanted_nd = torch.from_numpy(targets.descriptors_nd[[number for group in groups for number in group]])

    def validate() -> Figures:
        described.eval()
        with torch.inference_mode(), device.autocast():
            found = [described(_on(device, sights.plain(group)))[:, 0].float().cpu() for group in groups]
        return {"validation_cosine": float((torch.cat(found) * wanted_nd).sum(dim=1).mean())}

    return validate


def _calibration(sights: StudentSights, learnt: Sequence[int], batch: int, device: Device) -> Iterator[Tensor]:
    few = learnt[:: max(1, len(learnt) // _CALIBRATED)][:_CALIBRATED]
    return (_on(device, sights.plain(group)) for group in sights.in_shapes(few, batch))


def _on(device: Device, images_nchw: Tensor) -> Tensor:
    return images_nchw.to(device.name, memory_format=torch.channels_last)


def _train_config(config: DistilConfig) -> TrainConfig:
    names = ("epochs", "weight_decay", "chunk", "seed", "workers", "compile", "tensorboard", "patience")
    return TrainConfig(**{name: getattr(config, name) for name in names})


def _groups(network: RMacNetwork, config: DistilConfig) -> Groups:
    """The trunk, then the layers after it, which learn faster; of those alone, biases twice as fast (method.md 4.3)."""
    rate = config.learning_rate
    weights, biases = head_weights(network)
    trunk = [parameter for parameter in network.trunk.parameters() if parameter.requires_grad]
    bias_factor = 1 if config.trained == "all" else _BIAS_FACTOR
    head_rate = rate * config.head_factor
    return [(trunk, rate), (weights, head_rate), (biases, head_rate * bias_factor)]
