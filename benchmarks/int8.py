"""INT8 on real photographs: what retrieval loses, by pooling and by quantiser, and what a calibration costs.

    python benchmarks/int8.py --photos DIR --weights DIR [--trunk NAME ...] [--only PART ...] [-o runs/int8]

PHOTOS holds benchmark.json and its pictures, WEIGHTS holds archs.py (`build(name) -> (module, spec)`) and its files.
Each form of a trunk runs once over each picture, and all poolings come from the same map: R-MAC, MAC, SPoC and GeM in
floating point, as our files compute them, and GeM quantised through, a Q/DQ pair after each of its steps. Whitening is
fitted on the FP32 vectors of `train` and of the reference pictures, calibration sees `train` alone, and the scored
pictures are seen by nothing. Files and pooled maps stay in OUT, so that an interrupted run goes on.

--modelopt-python names a Python with deepir and nvidia-modelopt, which pins an ONNX Runtime of its own.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from int8_forms import (
    Work,
    calibration_cost,
    file_words,
    fp16_trunk,
    fp32_file,
    library_file,
    measured,
    our_file,
    sized_file,
    trunk_file,
)
from int8_maps import POOLINGS, Form, GemRanges, Pooled, gem_ranges, pooled
from int8_scores import compare, describe, members, read_photos, whitenings
from int8_tables import Result, closeness_table, forms_table, goal_lines, markdown, quality_table
from photos_table import TRUNKS

from deepir.calib.onnx_file import read_card, read_onnx
from deepir.errors import reports_errors
from deepir.files import write_text

LIBRARIES = ("onnxruntime", "modelopt-max", "modelopt-entropy")
SIZES = (8, 32, 128, 400)
TIMED = ("resnet50v2_c4_mxnet", 300)
REFERENCE = "onnxruntime"
FAST = "openvino"
CHECKED_SETS = ("grocery_ref2nat", "grocery_nat2nat", "grocery_nat2ref")
"""What ONNX Runtime, the slow reference for INT8, scores as well."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is scored: the names of poolings and sets, and of the libraries beside us."""

    poolings: Sequence[str]
    sets: Sequence[str]
    libraries: Sequence[str]


class Subject:
    """A trunk with its FP32 reference: what every form of it is compared with."""

    def __init__(self, trunk: str, work: Work, choice: Choice) -> None:
        self.trunk, self.work, self.choice = trunk, work, choice
        self.model = fp32_file(trunk, work)
        self.card = read_card(read_onnx(self.model))
        self.fp32 = self._pooled(Form("FP32", trunk_file(self.model), REFERENCE), len(work.photos.pictures), {})
        self.through = gem_ranges(self.fp32, work.photos.rows(measured(trunk, work)))
        self.fp32_name = {name: name for name in POOLINGS} | dict.fromkeys(self.through, "GeM")
        self.whitenings = whitenings(self.fp32, self.fp32_name, work.photos)

    def results(
        self, form: Form, poolings: Sequence[str], sets: Sequence[str], *, through: bool = False
    ) -> Iterator[Result]:
        """What a form scores with each pooling; with `through` also GeM whose steps are quantised."""
        photos = self.work.photos
        count = 1 + max(max(photos.rows(members(photos.sets[name]))) for name in sets)
        found = self._pooled(form, count, self.through if through else {})
        for pooling in [*poolings, *(self.through if through and "GeM" in poolings else ())]:
            arrays = self.fp32[self.fp32_name[pooling]][:count], found[pooling]
            reference_nd, found_nd = (describe(vectors_nrc, self.whitenings[pooling]) for vectors_nrc in arrays)
            names = {"trunk": self.trunk, "pooling": pooling, "form": form.name, "program": form.program}
            yield {**names, **compare(reference_nd, found_nd, photos, sets)}

    def checked(self) -> list[str]:
        """The chosen sets that the slow forms are scored on."""
        return [name for name in self.choice.sets if name in CHECKED_SETS]

    def _pooled(self, form: Form, count: int, through: Mapping[str, GemRanges]) -> Pooled:
        return pooled(form, self.card, self.work.photos.pictures[:count], self.work.out / "pooled", through)


def quality_part(subject: Subject) -> Iterator[Result]:
    """FP16 and INT8 with every pooling; R-MAC of INT8 in ONNX Runtime too."""
    choice, ours = subject.choice, our_file(subject.trunk, subject.work)
    int8 = trunk_file(ours)
    if subject.checked():
        half = Form("FP16", fp16_trunk(subject.trunk, subject.work), REFERENCE)
        yield from subject.results(half, choice.poolings, subject.checked())
        yield from subject.results(Form("INT8", int8, REFERENCE), ["R-MAC"], subject.checked())
    for result in subject.results(Form("INT8", int8, FAST), choice.poolings, choice.sets, through=True):
        yield {**result, "file": file_words(ours)}


def libraries_part(subject: Subject) -> Iterator[Result]:
    """R-MAC of our INT8 and of the libraries', in both programs."""
    files = {"ours": our_file(subject.trunk, subject.work)}
    files |= {name: library_file(subject.trunk, name, subject.work) for name in subject.choice.libraries}
    for name, path in files.items():
        trunk = trunk_file(path)
        # with what the other part pools of ours, so that it is not run twice
        yield from subject.results(Form(name, trunk, FAST), ["R-MAC"], subject.choice.sets, through=name == "ours")
        if subject.checked():
            yield from subject.results(Form(name, trunk, REFERENCE), ["R-MAC"], subject.checked())


def sizes_part(subject: Subject) -> Iterator[Result]:
    """R-MAC of INT8 by the largest value of few and of many pictures."""
    for count in SIZES:
        path = trunk_file(sized_file(subject.trunk, count, subject.work))
        yield from subject.results(Form(f"{count} pictures", path, FAST), ["R-MAC"], subject.choice.sets)


def time_part(subject: Subject) -> Iterator[Result]:
    """Seconds and memory of a whole calibration of one trunk, gate and all."""
    trunk, count = TIMED
    if subject.trunk == trunk:
        yield {
            "trunk": trunk,
            "form": f"{count} pictures",
            "cost": asdict(calibration_cost(trunk, count, subject.work)),
        }


def quality_text(results: Sequence[Result]) -> str:
    in_order = sorted(results, key=lambda result: (result["trunk"], result["pooling"]))
    tables = [quality_table(in_order, measure) for measure in ("mean_ap", "recall_at_1")]
    goals = [result for result in results if result["form"] == "INT8" and result["pooling"] == "R-MAC"]
    files = dict.fromkeys(f"- {one['trunk']}: {one['file']}" for one in results if "file" in one)
    return "\n\n".join(["\n".join(files), *tables, closeness_table(results), "\n".join(goal_lines(goals))])


def libraries_text(results: Sequence[Result]) -> str:
    fast, slow = ([one for one in results if one["program"] == program] for program in (FAST, REFERENCE))
    return "\n\n".join(forms_table(group) for group in (fast, slow) if group)


def time_text(results: Sequence[Result]) -> str:
    rows = [[one["trunk"], one["form"], *(f"{value:.0f}" for value in one["cost"].values())] for one in results]
    return markdown(["trunk", "deepir-calib", "s", "s of all processors", "most memory, MB"], rows, words=2)


PARTS: dict[str, tuple[Callable[[Subject], Iterator[Result]], Callable[[Sequence[Result]], str]]] = {
    "quality": (quality_part, quality_text),
    "libraries": (libraries_part, libraries_text),
    "sizes": (sizes_part, forms_table),
    "time": (time_part, time_text),
}


def run(work: Work, choice: Choice, trunks: Sequence[str], parts: Sequence[str]) -> None:
    """Part by part, trunk by trunk; the tables of a part are written when it is done for every trunk."""
    results: dict[str, list[Result]] = {part: [] for part in parts}
    for trunk in trunks:
        subject = Subject(trunk, work, choice)
        for part in parts:
            results[part] += PARTS[part][0](subject)
            click.echo(f"{trunk}: {part} done", err=True)
    texts = [f"## {part}\n\n{PARTS[part][1](found)}\n" for part, found in results.items() if found]
    write_text(work.out / "results.json", json.dumps(results))
    write_text(work.out / "results.md", "\n".join(texts))
    click.echo("\n".join(texts))


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), required=True)
@click.option("--trunk", "trunks", multiple=True, default=TRUNKS, help="A trunk of archs.py; repeatable.")
@click.option("--pooling", "poolings", type=click.Choice(list(POOLINGS)), multiple=True, default=list(POOLINGS))
@click.option("--set", "sets", multiple=True, help="A set to score; repeatable.  [default: all]")
@click.option("--library", "libraries", type=click.Choice(LIBRARIES), multiple=True, default=LIBRARIES)
@click.option("--only", "parts", type=click.Choice(list(PARTS)), multiple=True, default=list(PARTS))
@click.option("--modelopt-python", "modelopt", type=click.Path(path_type=Path), help="Without it ModelOpt is left out.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/int8"))
@reports_errors
def main(folder: Path, weights: Path, out: Path, modelopt: Path | None, **options: Any) -> None:
    """Score FP32, FP16 and INT8 of pretrained trunks, our quantiser beside two libraries'."""
    out.mkdir(parents=True, exist_ok=True)
    photos = read_photos(folder, options["sets"])
    libraries = [name for name in options["libraries"] if modelopt or not name.startswith("modelopt")]
    choice = Choice(options["poolings"], list(photos.sets), libraries)
    run(Work(weights, out, photos, modelopt), choice, options["trunks"], options["parts"])


if __name__ == "__main__":
    main()
