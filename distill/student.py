"""Distillation: a single-resolution student learns the descriptors of a multi-resolution teacher."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model
from deepir.distill.device import Device, move
from deepir.distill.epochs import Figures, Progress, run_epochs, watched
from deepir.distill.metric import set_training
from deepir.distill.middle import check_trained, choose_trained, head_weights
from deepir.distill.network import RMacNetwork
from deepir.distill.optimise import Optimisation
from deepir.distill.pictures import Augmentation, vary
from deepir.distill.targets import View
from deepir.errors import OptionError
from deepir.image import prepare

_BIAS_FACTOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """How a student learns from a teacher.

    Attributes:
        views: Crops of each picture, the whole one among them; teacher and student see the same crop.
        learning_rate: Peak of a one-cycle schedule for the trunk; the whitening layer learns `head_factor` faster.
        cosine_weight: Weight of 1 - cosine(student, teacher).
        similarity_weight: Weight of the divergence between the two rows of in-batch similarities; while the student is
            still far from its teacher a larger one outweighs the cosine and drives the two apart.
        temperature: Softness of those similarities.
        augmentation: What the student's view varies in beyond the crop; by default light, blur.
        freeze_norm: Leave batch-norm statistics as they are.
        trained: Which parameters learn, one of `deepir.distill.middle.TRAINED`.
    """

    epochs: int = 10
    batch: int = 32
    views: int = 4
    learning_rate: float = 1e-3
    head_factor: float = 3.0
    weight_decay: float = 1e-5
    cosine_weight: float = 4.0
    similarity_weight: float = 0.3
    temperature: float = 0.05
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(smallest_crop=0.8, light=0.3, perspective=0.0, blur=0.1)
    )
    freeze_norm: bool = True
    trained: str = "all"
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.views) < 1 or self.batch < 2:
            message = (
                f"epochs and views must be 1 or more and batch 2 or more, got {self.epochs}, {self.views}, {self.batch}"
            )
            raise OptionError(message)
        if self.learning_rate <= 0 or self.temperature <= 0:
            message = f"learning_rate and temperature must be positive, got {self.learning_rate}, {self.temperature}"
            raise OptionError(message)
        check_trained(self.trained)


class _Pairs(Dataset[tuple[Tensor, Tensor]]):
    """The student's sight of each view, with the teacher's descriptor of it."""

    def __init__(self, views: Sequence[View], targets_nd: Descriptors, student: Model, config: DistilConfig) -> None:
        self._views = views
        self._targets = torch.from_numpy(targets_nd)
        self._spec = student.spec
        self._vary = config.augmentation.transform(student.spec.size)

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image = vary(self._views[number].read(), self._vary)
        return torch.from_numpy(prepare(image, self._spec)[0]), self._targets[number]


def training_views(paths: Sequence[Path], count: int) -> list[View]:
    """`count` views of each picture."""
    return [View(path, number) for path in paths for number in range(count)]


def distil_loss(students_nd: Tensor, teachers_nd: Tensor, config: DistilConfig) -> Tensor:
    """Cosine regression plus the divergence of in-batch similarities (retrieval.md 7 B)."""
    cosine = (1 - (students_nd * teachers_nd).sum(dim=1)).mean()
    others = ~torch.eye(len(teachers_nd), dtype=torch.bool, device=teachers_nd.device)

    def similarity_rows(descriptors_nd: Tensor) -> Tensor:
        rows = (descriptors_nd @ descriptors_nd.T)[others].view(len(others), -1)
        return functional.log_softmax(rows / config.temperature, dim=1)

    divergence = functional.kl_div(
        similarity_rows(students_nd), similarity_rows(teachers_nd), reduction="batchmean", log_target=True
    )
    return config.cosine_weight * cosine + config.similarity_weight * divergence


def distil(
    student: Model,
    views: Sequence[View],
    targets_nd: Descriptors,
    config: DistilConfig,
    progress: Progress,
    device: Device,
) -> Model:
    """Train the student on views and the teacher's descriptors of them.

    Raises:
        OptionError: The student's descriptor has another dimension than the teacher's.
    """
    last_layer = student.network.fuse or student.network.whitening
    if last_layer is None or last_layer.out_features != targets_nd.shape[1]:
        message = f"the student must give {targets_nd.shape[1]} values as its teacher does: call align_head first"
        raise OptionError(message)
    network = device.place(student.network)
    pairs = _Pairs(views, targets_nd, student, config)
    loader = DataLoader(
        pairs, config.batch, shuffle=True, drop_last=len(pairs) > config.batch, num_workers=config.workers
    )
    choose_trained(network, config.trained)
    optimisation = Optimisation(
        _groups(network, config),
        weight_decay=config.weight_decay,
        steps=config.epochs * len(loader),
    )

    def step(images_nchw: Tensor, targets: Tensor) -> tuple[float, float]:
        with device.autocast():
            descriptors = network(images_nchw).float()
        loss = optimisation.step(distil_loss(descriptors, targets, config))
        return loss, float((descriptors.detach() * targets).sum(dim=1).mean())

    def train_epoch(_: int) -> Figures:
        set_training(network, freeze_norm=config.freeze_norm)
        batches = watched(loader, len(loader), progress.report)
        losses, cosines = zip(*(step(*move(device, images, targets)) for images, targets in batches), strict=True)
        return {"loss": sum(losses) / len(losses), "cosine": sum(cosines) / len(cosines)}

    run_epochs(
        progress,
        {"network": network, **optimisation.parts},
        epochs=config.epochs,
        seed=config.seed,
        train_epoch=train_epoch,
    )
    network.requires_grad_(True).eval()
    return student.sealed(whitening=f"learnt from the teacher on {len(views)} views")


def _groups(network: RMacNetwork, config: DistilConfig) -> list[tuple[Iterable[nn.Parameter], float]]:
    """The trunk, then the layers after it, which learn faster; of those alone, biases twice as fast (method.md 4.3)."""
    rate = config.learning_rate
    weights, biases = head_weights(network)
    trunk = [parameter for parameter in network.trunk.parameters() if parameter.requires_grad]
    bias_factor = 1 if config.trained == "all" else _BIAS_FACTOR
    head_rate = rate * config.head_factor
    return [(trunk, rate), (weights, head_rate), (biases, head_rate * bias_factor)]
