"""Real shop photographs: teacher, student and INT8 student on the grocery sets, from pretrained trunks to the index.

    python benchmarks/shop_photos.py --photos DIR --weights DIR [--teacher resnet50v2_c4_mxnet] [-o runs/photos]

PHOTOS holds benchmark.json and its pictures, WEIGHTS holds archs.py (`build(name) -> (module, spec)`) and its files.
Whitening is fitted on `train` and the reference pictures with equal weight, since an index knows its references;
distillation and calibration see `train` alone; the scored photographs are seen by nothing. Run again with the same OUT
it goes on from the models, the scores and the teacher's descriptors that lie there.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch

from deepir.calib.calibrate import CalibrationConfig, calibrate, read_fp32
from deepir.calib.images import CalibrationSet, ChosenImages
from deepir.calib.onnx_file import describe, write_onnx
from deepir.datasets import RetrievalSet, read_retrieval_sets, read_training_images
from deepir.distill.align import align_head
from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.device import Device
from deepir.distill.epochs import Progress
from deepir.distill.student import DistilConfig, distil, training_views
from deepir.distill.teachers import make_targets
from deepir.distill.whitening import WhitenConfig, whiten
from deepir.errors import InputError, reports_errors
from deepir.export.evaluate import Subject, evaluate, open_subject, subject_of_model
from deepir.export.graph import build_onnx
from deepir.export.verify import FP32_TOLERANCE, prove
from deepir.image import read_image
from deepir.runtime import Extractor, Index

SETS = ("grocery_nat2ref", "grocery_ref2nat", "grocery_nat2nat")
REFERENCES = "grocery_nat2ref"
SIZE = 320
TEACHER_SIZES = ((160, 160), (320, 320), (480, 480))
DIM = 256
POWER = 0.25
DEVICE = Device("cpu")


@dataclass(frozen=True, slots=True)
class Photos:
    """The pictures by the part they play."""

    source: Path
    train: list[Path]
    sets: dict[str, RetrievalSet]

    @property
    def references(self) -> list[Path]:
        return list(self.sets[REFERENCES].database)


def read_photos(folder: Path) -> Photos:
    source = folder / "benchmark.json"
    return Photos(source, [image.path for image in read_training_images(source)], read_retrieval_sets(source))


class HalfTrunk(torch.nn.Module):
    """A frozen trunk that computes in bfloat16: four times as fast on processors with AMX."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.trunk(images).float()


def load_trunk(weights: Path, name: str) -> Trunk:
    module, spec = _load_archs(weights).build(name)
    return wrap_module(name, DEVICE.place(module), tuple(spec["mean"]), tuple(spec["std"]))


def _load_archs(weights: Path) -> ModuleType:
    path = weights / "archs.py"
    if not path.is_file():
        message = f"no such file: {path}; --weights must name the folder that holds archs.py"
        raise InputError(message)
    description = importlib.util.spec_from_file_location("archs", path)
    archs = importlib.util.module_from_spec(description)
    description.loader.exec_module(archs)
    return archs


def whitened(trunk: Trunk, sizes: tuple[tuple[int, int], ...], photos: Photos, path: Path) -> Model:
    """The whitened model; one that an earlier run left at `path` is taken as it is."""
    if not path.exists():
        model = new_model(trunk, sizes=sizes)
        config = WhitenConfig(dim=DIM, power=POWER)
        save_model(whiten(model, [photos.train, photos.references], config, _say), path)
    return load_model(path, trunk.module)


def distilled(student: Model, teacher: Model, photos: Photos, out: Path, config: DistilConfig, views: int) -> Model:
    seen = training_views(photos.train, views)
    targets = make_targets([teacher], seen, out / "targets", report=_say)
    progress = Progress(out=out / "student.safetensors", report=_say)
    return distil(align_head(student, seen, targets.descriptors_nd), seen, targets, config, progress, DEVICE)


def exported(student: Model, photos: Photos, out: Path) -> tuple[Path, Path]:
    """The FP32 and the INT8 file; half of `train` fixes the ranges, another quarter judges them."""
    proto = build_onnx(student)
    _say(f"ONNX Runtime against torch: {prove(proto, student, photos.train, FP32_TOLERANCE)}")
    fp32, int8 = out / "student.onnx", out / "student.int8.onnx"
    write_onnx(proto, fp32)
    proto, card = read_fp32(fp32)
    images = CalibrationSet(tuple(photos.train[1::2]), tuple(photos.train[::4]))
    chosen = ChosenImages(images, describe(proto, card, images.judge))
    # one INT8 file in any case, so that its scores show what INT8 costs
    result = calibrate(proto, card, chosen, CalibrationConfig(keep=0), _say)
    write_onnx(result.proto, int8)
    return fp32, int8


def recall_through_the_index(model: Path, photos: Photos, out: Path) -> float:
    """Recall@1 of the hand-held photographs in a real index file of the reference pictures."""
    dataset = photos.sets[REFERENCES]
    path = out / "shop.usearch"
    with Extractor.open(model) as extractor:
        index = Index.create(extractor.card, model)
        for reference in dataset.database:
            index.add(reference.stem, extractor.describe([read_image(reference)]), [reference.name])
        index.save(path)
        index = Index.open(path)
        hits = [index.search(extractor.describe([read_image(query.image)])[0], 1)[0].view for query in dataset.queries]
    names = [{positive.name for positive in query.positives} for query in dataset.queries]
    return sum(hit in positives for hit, positives in zip(hits, names, strict=True)) / len(hits)


def score_all(subjects: dict[str, Subject], photos: Photos, out: Path) -> dict[str, dict[str, Any]]:
    results = {}
    for name, subject in subjects.items():
        path = out / f"{name} {subject.card.spec.fingerprint}.json"
        if not path.exists():
            path.write_text(json.dumps(evaluate(subject, photos.source, SETS)), encoding="utf-8")
        results[name] = json.loads(path.read_text(encoding="utf-8"))
        _say(f"{name}: " + ", ".join(f"{key} {value['mean_ap']:.4f}" for key, value in results[name]["sets"].items()))
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each model, mAP and recall@1 in percent for each set."""
    head = ["model", "sizes", "M parameters", "MB", "ms per image", *(f"{name} mAP / R@1" for name in SETS)]
    rows = [head, ["---"] * len(head)]
    rows += [
        [
            name,
            "+".join(str(height) for height, _ in result["sizes"]),
            f"{result['parameters'] / 1e6:.2f}" if result["parameters"] else "as above",
            f"{result['bytes'] / 1e6:.1f}",
            f"{result['milliseconds_per_image']:.0f} ({result['runner']})",
            *(_cell(result["sets"][key]) for key in SETS),
        ]
        for name, result in results.items()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def gaps(results: dict[str, dict[str, Any]]) -> list[str]:
    """What share of the teacher's gain from three sizes each student has, on the mean of the sets."""
    means = {name: sum(result["sets"][key]["mean_ap"] for key in SETS) / len(SETS) for name, result in results.items()}
    gain = means["teacher x3"] - means["teacher x1"]
    return [
        f"{name}: mean mAP {means[name]:.4f}, {(means[name] - means['teacher x1']) / gain:.0%} of the teacher's gain "
        f"from three sizes ({means['teacher x1']:.4f} to {means['teacher x3']:.4f})"
        for name in ("student", "student INT8")
    ]


def _cell(scores: dict[str, Any]) -> str:
    return f"{100 * scores['mean_ap']:.1f} / {100 * scores['recall_at']['1']:.1f}"


def _say(line: str) -> None:
    click.echo(line, err=True)


def run(photos: Photos, trunks: Sequence[Trunk], out: Path, config: DistilConfig, views: int) -> None:
    teacher = whitened(trunks[0], TEACHER_SIZES, photos, out / "teacher.safetensors")
    single = Model(teacher.network, teacher.spec.at_sizes(((SIZE, SIZE),)))
    start = whitened(trunks[1], ((SIZE, SIZE),), photos, out / "student_start.safetensors")
    subjects = {
        "teacher x3": subject_of_model(out / "teacher.safetensors", teacher),
        "teacher x1": subject_of_model(out / "teacher.safetensors", single),
        "student undistilled": subject_of_model(out / "student_start.safetensors", start),
    }
    results = score_all(subjects, photos, out)
    student = distilled(start, teacher, photos, out, config, views)
    save_model(student, out / "student.safetensors")
    fp32, int8 = exported(student, photos, out)
    results |= score_all({"student": open_subject(fp32), "student INT8": open_subject(int8)}, photos, out)
    click.echo(table(results))
    for line in gaps(results):
        click.echo(line)
    click.echo(f"recall@1 of nat2ref through shop.usearch, INT8: {recall_through_the_index(int8, photos, out):.4f}")


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), required=True)
@click.option("--teacher", default="resnet50v2_c4_mxnet", help="A trunk of archs.py.")
@click.option("--student", default="mobilenetv2_mxnet_bn", help="A trunk of archs.py.")
@click.option("--epochs", type=int, default=4)
@click.option("--views", type=int, default=3)
@click.option("--lr", type=float, default=2e-4)
@click.option("--mixed", is_flag=True, help="The teacher computes in bfloat16.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/photos"))
@reports_errors
def main(folder: Path, weights: Path, out: Path, **options: Any) -> None:
    """Score teacher, student and INT8 student on real shop photographs."""
    out.mkdir(parents=True, exist_ok=True)
    trunks = [load_trunk(weights, options[name]) for name in ("teacher", "student")]
    if options["mixed"]:
        trunks[0] = replace(trunks[0], module=HalfTrunk(trunks[0].module))
    config = DistilConfig(epochs=options["epochs"], batch=16, learning_rate=options["lr"])
    run(read_photos(folder), trunks, out, config, options["views"])


if __name__ == "__main__":
    main()
