"""Recipes of distillation.py: how a student is trained, in one place; and the ablations, one change each."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from deepir.distill.distil_loss import LossWeights, parse_weights
from deepir.distill.pictures import Augmentation
from deepir.errors import OptionError

STARTS = ("own", "ridge")
REFITS = ("none", "whiten", "ridge")

PICTURES_PER_MINUTE: Mapping[str, int] = {
    "resnet50v2_c4_mxnet": 400,
    "resnet101v2_c4_tfslim": 200,
    "mobilenetv2_mxnet_bn": 500,
    "squeezenet11_mxnet": 3200,
}
"""What two cores with AMX train on at 320 x 320 in bfloat16. Runs have a number of steps, so that they can be repeated;
this only turns minutes into steps."""

USUAL_PICTURES_PER_MINUTE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a student learns; the rows of the ablation table change one of these at a time.

    Attributes:
        several_teachers: Fuse the targets of the trunks of --fuse; else learn from the teacher alone.
        combine: How the teacher's sizes become one descriptor: `teacher`, as it says itself, or `max`.
        neighbours: Nearest targets that each target is smoothed with; 0 for none.
        dim: Values of the targets and the student; None for the teacher's.
        views: Sights of each picture that the teacher has described: the whole and views - 1 crops.
        loss: The weights of its parts, as deepir-distill takes them; regions need a student that sees what its teacher
            sees, no further crop and no mirrored picture.
        jitter: Least and greatest factor of the student's size, one draw for each batch.
        start: The student's last layer before the first step: its `own` whitening, which for the teacher's trunk is the
            teacher's, or the `ridge` regression to the targets.
        refit: The last layer after the last step: as learnt (`none`), PCA of pool and references with equal weight
            (`whiten`), or the regression to the targets of pool and references (`ridge`).
        reduce: Dimensions to go down to afterwards, in stages, by the pair loss.
        quantised: Train with the rounding of INT8, and score the INT8 file too.
        mixed: Train in bfloat16.
    """

    several_teachers: bool = True
    combine: str = "teacher"
    neighbours: int = 0
    dim: int | None = None
    views: int = 2
    batch: int = 16
    learning_rate: float = 5e-5
    head_factor: float = 10.0
    weight_decay: float = 1e-5
    loss: str = "cosine=4,similarity=1,regions=1"
    jitter: tuple[float, float] = (0.8, 1.1)
    smallest_crop: float = 1.0
    flip: bool = False
    light: float = 0.3
    blur: float = 0.1
    freeze_norm: bool = True
    mixed: bool = True
    start: str = "own"
    refit: str = "whiten"
    reduce: tuple[int, ...] = ()
    quantised: bool = False

    def __post_init__(self) -> None:
        for name, value, choices in (("start", self.start, STARTS), ("refit", self.refit, REFITS)):
            if value not in choices:
                message = f"{name} is one of {', '.join(choices)}, got {value!r}"
                raise OptionError(message)
        if self.views < 1:
            message = f"views must be 1 or more, got {self.views}"
            raise OptionError(message)

    @property
    def fused(self) -> bool:
        """Whether the targets lie in a space of their own, not in one teacher's."""
        return self.several_teachers or self.dim is not None

    @property
    def weights(self) -> LossWeights:
        """Of the parts of the loss."""
        return parse_weights(self.loss, LossWeights(similarity=0.0))

    @property
    def augmentation(self) -> Augmentation:
        """What the student's sight varies in beyond the view."""
        return Augmentation(
            smallest_crop=self.smallest_crop, flip=self.flip, light=self.light, perspective=0.0, blur=self.blur
        )


BASELINE = Recipe()

OTHER_TRUNK: Mapping[str, Any] = {"start": "ridge", "learning_rate": 2e-4, "head_factor": 5.0}
"""What is different for a student whose trunk is not the teacher's."""

MAIN = BASELINE
"""The recipe of the main table."""

MAIN_MINUTES = 8.0
ABLATION_MINUTES = 0.5

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "baseline": {},
    "one teacher": {"several_teachers": False},
    "cosine alone": {"loss": "cosine=4"},
    "without per-region targets": {"loss": "cosine=4,similarity=1"},
    "without similarity KL": {"loss": "cosine=4,regions=1"},
    "with the pair loss": {"loss": "cosine=4,similarity=1,regions=1,pairs=1"},
    "no crops": {"views": 1},
    "crops not coupled": {"loss": "cosine=4,similarity=1", "views": 1, "smallest_crop": 0.35},
    "no scale jitter": {"jitter": (1.0, 1.0)},
    "largest value over sizes": {"combine": "max"},
    "targets smoothed by 5 neighbours": {"neighbours": 5},
    "128 values at once": {"dim": 128},
    "256 -> 128 values in stages": {"reduce": (128,)},
    "quantisation-aware": {"quantised": True},
    "last layer as learnt": {"refit": "none"},
    "last layer by regression": {"refit": "ridge"},
}
"""By the words of a row, what is other than in BASELINE."""

INT8_ROWS = ("baseline", "quantisation-aware")
"""Whose INT8 file is scored as well."""


def recipe_for(student: str, teacher: str, changes: Mapping[str, Any], base: Recipe = BASELINE) -> Recipe:
    """The recipe of a student by its trunk's name, with these changes.

    Raises:
        OptionError: A contradiction.
    """
    recipe = replace(base, **{**({} if student == teacher else OTHER_TRUNK), **changes})
    # the trunk's own whitening fits targets in its own space only
    return replace(recipe, start="ridge") if recipe.fused else recipe


def steps_for(student: str, recipe: Recipe, minutes: float) -> int:
    """Steps that take about so many minutes on two cores."""
    return max(1, round(minutes * PICTURES_PER_MINUTE.get(student, USUAL_PICTURES_PER_MINUTE) / recipe.batch))


def key_of(settings: Mapping[str, Any]) -> str:
    """Names a run: the start of the SHA-256 over its settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON has it."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return settings
