"""The models of index_asymmetric.py as ONNX files: a teacher, its student, and others that do not fit it.

    python benchmarks/index_asymmetric_models.py --photos DIR --weights DIR [--videos DIR] [-o runs/asymmetric]

PHOTOS, WEIGHTS and VIDEOS are those of distillation.py, and so are the whitened trunks, the pool and the training.
Run again it makes what is missing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from distillation import STUDENT, TEACHERS
from distillation_pictures import read_pool
from distillation_recipes import recipe_for
from distillation_scores import ONE, THREE, fast
from distillation_train import Bench, plan_run, trained_model, whitened_model
from shop_photos import DIM, POWER, load_trunk, read_photos

from deepir.calib.calibrate import CalibrationConfig, calibrate, read_fp32
from deepir.calib.images import CalibrationSet, ChosenImages
from deepir.calib.onnx_file import describe, write_onnx
from deepir.descriptors import Descriptors
from deepir.distill.align import align_head, whiten_towards
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.teachers import make_targets
from deepir.distill.views import View
from deepir.distill.whitening import WhitenConfig, equal_weights, whiten
from deepir.errors import reports_errors
from deepir.export.graph import build_onnx

TEACHER = TEACHERS[0]
OTHER_TEACHER = "squeezenet11_mxnet"
OTHER_STUDENT = "mobilenetv2_torchvision_folded"
SMALLER = ((256, 256),)
RECIPE: Mapping[str, Any] = {"several_teachers": False, "views": 1}
"""One teacher, or its descriptors would not be what the student learns; whole pictures, which are described sooner."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What models are made of: `steps` of training, and `other_steps` of a student of another teacher."""

    bench: Bench
    steps: int
    other_steps: int

    @property
    def worlds(self) -> list[list[Path]]:
        """The pool and the references, to which last layers are fitted with the same weight."""
        return [self.bench.pool.pictures, self.bench.photos.references]

    def taught_by(self, teacher: str) -> "Kit":
        return replace(self, bench=replace(self.bench, teachers=(teacher,)))

    def said(self) -> list[Descriptors]:
        """What the teacher says of the whole pictures of the worlds."""
        targets = self.bench.out / "targets"
        with fast(whitened_model(self.bench.teachers[0], self.bench), target=True) as teacher:
            return [
                make_targets([teacher], [View(path, 0) for path in world], targets, report=_say).descriptors_nd
                for world in self.worlds
            ]

    def learnt(self, steps: int, refit: str = "none") -> Model:
        recipe = recipe_for(STUDENT, self.bench.teachers[0], {**RECIPE, "refit": refit})
        return trained_model(plan_run(STUDENT, recipe, steps, 0, self.bench), self.bench)[0]


def teacher(kit: Kit) -> Model:
    return whitened_model(TEACHER, kit.bench)


def teacher_one_size(kit: Kit) -> Model:
    model = teacher(kit)
    return Model(model.network, model.spec.at_sizes(ONE))


def student(kit: Kit) -> Model:
    """As deepir-distill leaves it: whitened anew, and turned towards its teacher; kept, as others are made of it."""
    path = kit.bench.out / "models" / f"asymmetric {kit.bench.pool.digest} {kit.steps}.safetensors"
    if not path.exists():
        save_model(whiten_towards(kit.learnt(kit.steps), kit.worlds, kit.said(), _say), path)
    return load_model(path, load_trunk(kit.bench.weights, STUDENT).module)


def student_three_sizes(kit: Kit) -> Model:
    model = student(kit)
    return Model(model.network, model.spec.at_sizes(THREE))


def student_smaller(kit: Kit) -> Model:
    model = student(kit)
    return Model(model.network, model.spec.at_sizes(SMALLER))


def student_regression(kit: Kit) -> Model:
    return kit.learnt(kit.steps, "ridge")


def student_unturned(kit: Kit) -> Model:
    return whiten(kit.learnt(kit.steps), kit.worlds, WhitenConfig(dim=DIM, power=POWER), _say)


def student_elsewhere(kit: Kit) -> Model:
    """Learnt from another teacher."""
    other = kit.taught_by(OTHER_TEACHER)
    return whiten_towards(other.learnt(kit.other_steps), kit.worlds, other.said(), _say)


def undistilled(kit: Kit) -> Model:
    model = whitened_model(STUDENT, kit.bench)
    return Model(model.network, model.spec.at_sizes(ONE))


def undistilled_turned(kit: Kit) -> Model:
    """Only its last layer knows the teacher."""
    views = [View(path, 0) for world in kit.worlds for path in world]
    weights_n = equal_weights(np.repeat([0, 1], [len(world) for world in kit.worlds]))
    model = align_head(undistilled(kit), views, np.concatenate(kit.said()), weights_n)
    return model.sealed(whitening="regression to the targets")


def undistilled_other_whitening(kit: Kit) -> Model:
    config = WhitenConfig(dim=DIM, power=POWER)
    return whiten(undistilled(kit), [kit.bench.photos.train], config, _say)


def unwhitened(kit: Kit, trunk: str = STUDENT) -> Model:
    return new_model(load_trunk(kit.bench.weights, trunk), sizes=ONE, resize=kit.bench.resize)


def unwhitened_other(kit: Kit) -> Model:
    return unwhitened(kit, OTHER_STUDENT)


MODELS: Mapping[str, Callable[[Kit], Model]] = {
    "teacher": teacher,
    "teacher_one_size": teacher_one_size,
    "student": student,
    "student_three_sizes": student_three_sizes,
    "student_256": student_smaller,
    "student_regression": student_regression,
    "student_unturned": student_unturned,
    "student_elsewhere": student_elsewhere,
    "undistilled": undistilled,
    "undistilled_turned": undistilled_turned,
    "undistilled_other_whitening": undistilled_other_whitening,
    "unwhitened": unwhitened,
    "unwhitened_other": unwhitened_other,
}


INT8 = "student_int8"
"""Made from the file of `student`."""


def write_models(kit: Kit, out: Path) -> None:
    """Make what is missing in `out`."""
    for name, make in MODELS.items():
        path = out / f"{name}.onnx"
        if not path.exists():
            click.echo(f"making {path}", err=True)
            model = make(kit)
            model.network.eval().to("cpu")
            write_onnx(build_onnx(model), path)
    if not (out / f"{INT8}.onnx").exists():
        _quantise(out / "student.onnx", out / f"{INT8}.onnx", kit.bench.photos.train)


def _quantise(path: Path, out: Path, train: list[Path]) -> None:
    """Nothing stays FP16, so that the figures show what INT8 costs."""
    proto, card = read_fp32(path)
    images = CalibrationSet(tuple(train[1::4]), tuple(train[::8]))
    chosen = ChosenImages(images, describe(proto, card, images.judge))
    write_onnx(calibrate(proto, card, chosen, CalibrationConfig(method="mse", keep=0), _say).proto, out)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), required=True)
@click.option("--videos", type=click.Path(path_type=Path), help="Whose frames join the pool.")
@click.option("--steps", default=250, help="Of the student's training.")
@click.option("--other-steps", default=60, help="Of the student of another teacher.")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs/distillation"), help="As distillation.py -o."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/asymmetric"))
@reports_errors
def main(folder: Path, weights: Path, videos: Path | None, runs: Path, out: Path, **options: int) -> None:
    """Make the models and write them as ONNX files."""
    for place in (runs, out):
        place.mkdir(parents=True, exist_ok=True)
    photos = read_photos(folder)
    bench = Bench(weights, photos, read_pool(photos, videos, runs / "pool"), runs, (TEACHER,))
    write_models(Kit(bench, options["steps"], options["other_steps"]), out)


if __name__ == "__main__":
    main()
