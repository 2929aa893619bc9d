"""The models of distillation.py: whitened trunks as they come, and students trained by a recipe."""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
from distillation_pictures import Pool
from distillation_recipes import Recipe, key_of, settings_of
from distillation_scores import ONE, THREE, fast
from shop_photos import DIM, POWER, Photos, load_trunk

from deepir.descriptors import Descriptors
from deepir.distill.align import align_head
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.device import Device
from deepir.distill.epochs import Progress
from deepir.distill.reduce import ReduceConfig, reduce_model
from deepir.distill.student import DistilConfig, distil
from deepir.distill.teachers import TargetConfig, Targets, make_targets
from deepir.distill.views import View
from deepir.distill.whitening import WhitenConfig, equal_weights, spread, whiten

ALIGNED = 1000
"""Views that a regression of the last layer sees, at most."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run has in common.

    Attributes:
        teachers: Names of trunks; the first is the one to be caught up with, and learnt from where one is.
        fused: Names of trunks that recipes with several teachers learn from.
        resize: How pictures are brought to size, as in ModelSpec.
        out: Models, descriptors and targets lie below it.
    """

    weights: Path
    photos: Photos
    pool: Pool
    out: Path
    teachers: tuple[str, ...]
    fused: tuple[str, ...] = ()
    resize: str = "longest"
    device: Device = field(default_factory=lambda: Device("cpu"))


@dataclass(frozen=True, slots=True)
class Run:
    """One training: who learns from whom, how, for how many steps."""

    student: str
    teacher: str
    recipe: Recipe
    steps: int
    seed: int
    key: str


def whitened_model(trunk: str, bench: Bench) -> Model:
    """R-MAC of a trunk at THREE, whitened at them on `train` and the references with equal weight; kept in OUT."""
    path = bench.out / "models" / f"{trunk} {bench.resize}.safetensors"
    loaded = load_trunk(bench.weights, trunk)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = new_model(loaded, sizes=THREE, resize=bench.resize)
        bench.device.place(model.network)
        with fast(model):
            groups = [bench.photos.train, bench.photos.references]
            fitted = whiten(model, groups, WhitenConfig(dim=DIM, power=POWER), _say)
        save_model(fitted, path)
    return _placed(load_model(path, loaded.module), bench)


def rewhitened_model(trunk: str, bench: Bench) -> Model:
    """The trunk as it comes at one size, whitened as distilled students are in the end."""
    model = whitened_model(trunk, bench)
    single = Model(model.network, model.spec.at_sizes(ONE))
    with fast(single):
        config = WhitenConfig(dim=DIM, power=POWER)
        return whiten(single, [bench.pool.pictures, bench.photos.references], config, _say)


def plan_run(student: str, recipe: Recipe, steps: int, seed: int, bench: Bench) -> Run:
    """A run by a recipe, named by all that its result depends on; the teacher is the bench's first."""
    settings = {
        "student": student,
        "teachers": _learnt_from(recipe, bench),
        "recipe": settings_of(recipe),
        "steps": steps,
        "seed": seed,
        "resize": bench.resize,
        "pool": bench.pool.digest,
    }
    return Run(student, bench.teachers[0], recipe, steps, seed, key_of(settings))


def trained_model(run: Run, bench: Bench) -> tuple[Model, float]:
    """The student of a run and the seconds that its epochs took; one that lies in OUT is taken as it is."""
    path = bench.out / "models" / f"{run.key}.safetensors"
    progress = Progress(out=path, resume=path.with_name(f"{path.name}.state").exists(), report=_say)
    # what is done after the last step is done to the student of the run without it
    plain = replace(run.recipe, refit="none", reduce=())
    seconds = 0.0
    if run.recipe == plain:
        if not path.exists():
            save_model(_trained(run, bench, progress), path)
    else:
        student, seconds = trained_model(plan_run(run.student, plain, run.steps, run.seed, bench), bench)
        if not path.exists():
            save_model(_reduced(_refitted(student, run, bench), run, bench, progress), path)
    model = load_model(path, load_trunk(bench.weights, run.student).module)
    return _placed(model, bench), seconds + _seconds(progress.log_path)


def training_views(pictures: Sequence[Path], recipe: Recipe, steps: int) -> tuple[list[View], int]:
    """The views of an epoch and the number of epochs, together as near to `steps` batches as can be.

    The views are the same for every seed and every recipe of as many views, so that their targets are computed once.
    """
    every = [View(path, number) for path in pictures for number in range(recipe.views)]
    epochs = math.ceil(steps * recipe.batch / len(every))
    count = min(len(every), max(recipe.batch, round(steps / epochs) * recipe.batch))
    chosen = np.sort(np.random.default_rng(0).permutation(len(every))[:count])
    return [every[place] for place in chosen], epochs


def _trained(run: Run, bench: Bench, progress: Progress) -> Model:
    recipe = run.recipe
    views, epochs = training_views(bench.pool.pictures, recipe, run.steps)
    targets = _targets(run, bench, views)[0]
    student = _start(run, bench, views, targets)
    device = Device(bench.device.name, mixed=recipe.mixed)
    return distil(student, views, targets, _config(run, epochs), progress, device)


def _reduced(student: Model, run: Run, bench: Bench, progress: Progress) -> Model:
    if not run.recipe.reduce:
        return student
    views, _ = training_views(bench.pool.pictures, run.recipe, run.steps)
    config = ReduceConfig(dims=run.recipe.reduce, seed=run.seed)
    return reduce_model(student, views, config, bench.out / "targets", progress, bench.device)


def _learnt_from(recipe: Recipe, bench: Bench) -> tuple[str, ...]:
    return bench.fused if recipe.several_teachers else bench.teachers[:1]


def _targets(run: Run, bench: Bench, views: Sequence[View]) -> tuple[Targets, Descriptors]:
    """What the student learns, and the targets of whole pictures and references that its last layer is fitted to."""
    recipe = run.recipe
    config = TargetConfig(
        dim=recipe.dim or (DIM if recipe.several_teachers else None),
        combine=recipe.combine,
        neighbours=recipe.neighbours,
        regions=recipe.weights.regions > 0,
    )
    with contextlib.ExitStack() as stack:
        names = _learnt_from(recipe, bench)
        models = [stack.enter_context(fast(whitened_model(name, bench), target=True)) for name in names]
        every = make_targets(models, [*views, *_whole(bench)], bench.out / "targets", config, _say)
    count = len(views)
    regions = None if every.regions is None else every.regions[:count]
    learnt = Targets(every.descriptors_nd[:count], regions, every.provenance, every.projection)
    return learnt, every.descriptors_nd[count:]


def _whole(bench: Bench) -> list[View]:
    return [View(path, 0) for path in (*bench.pool.pictures, *bench.photos.references)]


def _start(run: Run, bench: Bench, views: Sequence[View], targets: Targets) -> Model:
    model = whitened_model(run.student, bench)
    student = Model(model.network, model.spec.at_sizes(ONE))
    if run.recipe.start == "own":
        return student
    few = spread(range(len(views)), ALIGNED)
    with fast(student):
        return align_head(student, [views[row] for row in few], targets.descriptors_nd[few])


def _refitted(student: Model, run: Run, bench: Bench) -> Model:
    photos, refit = bench.photos, run.recipe.refit
    if refit == "none":
        return student
    with fast(student):
        if refit == "whiten":
            config = WhitenConfig(dim=student.network.dim, power=POWER)
            return whiten(student, [bench.pool.pictures, photos.references], config, _say)
        views, _ = training_views(bench.pool.pictures, run.recipe, run.steps)
        wanted_nd = _targets(run, bench, views)[1]
        # the two worlds with equal weight, as in the teacher's whitening
        weights_n = equal_weights(np.repeat([0, 1], [len(bench.pool.pictures), len(photos.references)]))
        return align_head(student, _whole(bench), wanted_nd, weights_n).sealed(whitening="regression to the targets")


def _config(run: Run, epochs: int) -> DistilConfig:
    recipe = run.recipe
    return DistilConfig(
        epochs=epochs,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        head_factor=recipe.head_factor,
        weight_decay=recipe.weight_decay,
        weights=recipe.weights,
        jitter=recipe.jitter,
        augmentation=recipe.augmentation,
        freeze_norm=recipe.freeze_norm,
        quantised=recipe.quantised,
        seed=run.seed,
    )


def _seconds(log: Path) -> float:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return sum(float(json.loads(line).get("seconds", 0)) for line in lines)


def _placed(model: Model, bench: Bench) -> Model:
    bench.device.place(model.network).eval()
    return model


def _say(line: str) -> None:
    click.echo(line, err=True)
