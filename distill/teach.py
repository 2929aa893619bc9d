"""The whole way of a student: targets, the start of its last layer, training, and the last layer once more."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepir.distill.align import align_head
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
        refit: Fit the last layer anew after training, to the targets of whole pictures and of the references; only
            where the whole network is trained.
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
    fits = config.distil.trained == "all" and student.spec.head.fusion in ("none", "pca-concat-pca")
    if not (config.refit and fits):
        return student
    whole = [row for row, view in enumerate([*views, *shown]) if view.number == 0]
    seen = [View(path, 0) for path in (*pictures, *references)]
    weights_n = equal_weights(np.repeat([0, 1], [len(pictures), len(references)]))
    words = f"{student.spec.whitening}; last layer fitted to {len(pictures)} pictures and {len(references)} references"
    return align_head(student, seen, targets.descriptors_nd[whole], weights_n).sealed(whitening=words)
