"""The whole way of a student: targets, the start of its last layer, training, and the last layer once more."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.distill.align import align_head, whiten_towards
from deepir.distill.checkpoint import Model
from deepir.distill.device import Device
from deepir.distill.epochs import Progress
from deepir.distill.ranks import first_on_each_machine_first
from deepir.distill.student import DistilConfig, distil, training_views
from deepir.distill.teachers import TargetConfig, Targets, make_targets
from deepir.distill.views import CropConfig, View
from deepir.distill.whitening import equal_weights
from deepir.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachConfig:
    """What a student learns, how, and what its last layer is fitted to in the end.

    Attributes:
        views: Of each picture: the whole one and `views` - 1 crops, which teachers and student both see.
        crop: How crops are drawn.
        targets: What is made of the teachers' descriptors.
        distil: How the student is trained.
        refit: Fit the last layer anew after training, on whole pictures and the references: a plain head is whitened
            and turned towards the targets, that of pca-concat-pca is a regression to them. Only where the whole
            network is trained.
    """

    views: int = 4
    crop: CropConfig = field(default_factory=CropConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    refit: bool = True

    def __post_init__(self) -> None:
        if self.views < 1:
            message = f"views must be 1 or more, got {self.views}"
            raise OptionError(message)
        if self.distil.weights.regions and not self.targets.regions:
            message = "a loss with regions needs targets with regions"
            raise OptionError(message)


def teach(  # noqa: PLR0913 who learns, from whom, from what, and where what is kept
    student: Model,
    teachers: Sequence[Model],
    pictures: Sequence[Path],
    config: TeachConfig,
    progress: Progress,
    device: Device,
    *,
    cache: Path,
    references: Sequence[Path] = (),
) -> Model:
    """Distil teachers into a student; labels are not needed.

    A trunk that saw only photographs moves reference pictures (pack shots, plans) to where no teacher has them. They
    are known when an index is built, so they may take part in the last layer's fit, with the same weight as the
    pictures: this alone is worth several points of mAP between the two worlds (docs/benchmarks.md).

    Args:
        student: Its network is trained in place.
        teachers: Whitened; several are fused.
        pictures: What is learnt from.
        config: How.
        progress: Where state and figures go, and who is told.
        device: Where it computes.
        cache: A folder for what the teachers said; it is not asked again.
        references: Pictures of another kind that will be searched; nothing is trained on them.

    Raises:
        InputError, ModelError, OptionError, ShapeError: As `make_targets`, `align_head` and `distil`.
    """
    for model in (*teachers, student):
        device.place(model.network).eval()
    views = training_views(pictures, config.views, config.crop)
    shown = training_views(references, 1) if config.refit else []
    with first_on_each_machine_first():
        # together, so that a fusion of teachers sees both worlds
        targets = make_targets(teachers, [*views, *shown], cache, config.targets, progress.report)
    learnt = Targets(
        targets.descriptors_nd[: len(views)],
        None if targets.regions is None else targets.regions[: len(views)],
        targets.provenance,
        targets.projection,
    )
    student = align_head(student, views, learnt.descriptors_nd)
    student = distil(student, views, learnt, config.distil, progress, device)
    if not config.refit or config.distil.trained != "all":
        return student
    whole = [row for row, view in enumerate([*views, *shown]) if view.number == 0]
    return _refitted(student, [pictures, references], targets.descriptors_nd[whole], progress)


def _refitted(student: Model, worlds: Sequence[Sequence[Path]], targets_nd: Descriptors, progress: Progress) -> Model:
    """The student with a last layer fitted to whole pictures of one or two worlds that weigh the same."""
    fusion, learnt = student.spec.head.fusion, student.spec.whitening
    if fusion == "pca-concat-pca":
        weights_n = equal_weights(np.repeat([0, 1], [len(world) for world in worlds]))
        student = align_head(student, [View(path, 0) for world in worlds for path in world], targets_nd, weights_n)
    elif fusion == "none" and len(targets_nd) > targets_nd.shape[1]:
        parts = np.split(targets_nd, [len(worlds[0])])
        filled = [(world, part) for world, part in zip(worlds, parts, strict=True) if world]
        student = whiten_towards(student, [one for one, _ in filled], [part for _, part in filled], progress.report)
    else:
        reason = "its head is joined" if fusion != "none" else f"{len(targets_nd)} pictures are too few to fit it"
        progress.report(f"the last layer stays as it was learnt: {reason}")
        return student
    fitted = f"last layer fitted to {len(worlds[0])} pictures and {len(worlds[1])} references"
    return student.sealed(whitening=f"{learnt}; {fitted}")
