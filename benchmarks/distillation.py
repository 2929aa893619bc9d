"""Distillation on real photographs: does a student at one size keep what its teacher has from three?

    python benchmarks/distillation.py --photos DIR --weights DIR [--videos DIR] [--teacher NAME ...]
        [--only main|ablation] [--minutes 10] [--seeds 0,1] [-o runs/distillation]

PHOTOS holds benchmark.json and its pictures, WEIGHTS holds archs.py (`build(name) -> (module, spec)`) and its files.
Teachers are R-MAC at 160, 320 and 480, whitened on `train` and the reference pictures with equal weight; students see
320 alone. They are trained on unlabelled pictures that no set scores: `train`, frames of the videos, goods rendered as
in the demonstration. Gap closed = (student - teacher at one size) / (teacher at three sizes - teacher at one size), of
the mean mAP over the sets. Recipes are in distillation_recipes.py.

Every result is a line of OUT/results.jsonl, under a key of its settings: run again with the same OUT it goes on from
what lies there, in the middle of a training too. --minutes is turned into a number of steps, so that a run is the same
on any machine.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from distillation_int8 import score_int8
from distillation_pictures import read_pool
from distillation_recipes import (
    ABLATION_MINUTES,
    ABLATIONS,
    INT8_ROWS,
    MAIN,
    MAIN_MINUTES,
    key_of,
    recipe_for,
    settings_of,
    steps_for,
)
from distillation_scores import Result, score_model
from distillation_tables import ablation_table, goal_lines, main_table
from distillation_train import Bench, Run, plan_run, rewhitened_model, trained_model, whitened_model
from shop_photos import read_photos

from deepir.distill.device import find_device
from deepir.errors import reports_errors
from deepir.files import write_text

TEACHERS = ("resnet50v2_c4_mxnet", "resnet101v2_c4_tfslim")
STUDENT = "mobilenetv2_mxnet_bn"
ABLATED = "squeezenet11_mxnet"
FUSED = ("resnet50v2_c4_mxnet", "mobilenetv2_mxnet_bn", "squeezenet11_mxnet")
SAME = "same"
"""Stands for the teacher's own trunk."""
PARTS = ("main", "ablation")
SIZES = {"x1": "one size", "x3": "three"}


class Results:
    """The lines of OUT/results.jsonl, by key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._found: dict[str, Result] = {one["key"]: one for one in map(json.loads, lines)}

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Result:
        return self._found[key]

    def add(self, result: Result) -> None:
        """Keep a result; the file is whole at any moment."""
        self._found[result["key"]] = result
        write_text(self._path, "".join(json.dumps(one) + "\n" for one in self._found.values()))


def reference(trunk: str, bench: Bench, results: Results) -> Result:
    """What a trunk scores as it comes."""
    settings = {"trunk": trunk, "resize": bench.resize}
    key = key_of(settings)
    if key not in results:
        started = time.monotonic()
        scores = score_model(whitened_model(trunk, bench), bench.photos, bench.out / "scored")
        results.add({"key": key, **settings, "seconds": round(time.monotonic() - started, 1), **scores})
        _say(trunk, results[key])
    return results[key]


def rewhitened(trunk: str, bench: Bench, results: Results) -> Result:
    """What a trunk scores at one size that is only whitened anew, as distilled students are, and not trained."""
    settings = {"trunk": trunk, "resize": bench.resize, "whitened": bench.pool.digest}
    key = key_of(settings)
    if key not in results:
        started = time.monotonic()
        scores = score_model(rewhitened_model(trunk, bench), bench.photos, bench.out / "scored", ("x1",))
        results.add({"key": key, **settings, "seconds": round(time.monotonic() - started, 1), **scores})
        _say(f"{trunk} whitened anew", results[key])
    return results[key]


def trained(run: Run, bench: Bench, results: Results, *, int8: bool = False, three: bool = False) -> Result:
    """What the student of a run scores at one size; with `int8` its INT8 file too, with `three` at three sizes too."""
    names = ("x1", "x3") if three else ("x1",)
    if run.key not in results or (three and "x3" not in results[run.key]):
        model, seconds = trained_model(run, bench)
        scores = score_model(model, bench.photos, bench.out / "scored", names)
        facts = {name: getattr(run, name) for name in ("key", "student", "teacher", "steps", "seed")}
        results.add({**facts, "recipe": settings_of(run.recipe), "seconds": round(seconds, 1), **scores})
        _say(f"{run.student} from {run.teacher}, seed {run.seed}", results[run.key])
    if int8 and "int8" not in results[run.key]:
        path = bench.out / "models" / f"{run.key}.int8.onnx"
        scores = score_int8(trained_model(run, bench)[0], bench.photos, path)
        results.add({**results[run.key], "int8": scores})
    return results[run.key]


def main_part(bench: Bench, options: Mapping[str, Any], results: Results) -> Iterator[Result]:
    """Each student from the bench's first teacher, with each seed."""
    teacher = bench.teachers[0]
    for student in dict.fromkeys(teacher if name == SAME else name for name in options["students"]):
        recipe = recipe_for(student, teacher, {}, MAIN)
        steps = steps_for(student, recipe, options["minutes"] or MAIN_MINUTES)
        for place, seed in enumerate(options["seeds"]):
            # three sizes take long, and are beside the point of a student of one
            three = options["three"] and place == 0
            yield trained(plan_run(student, recipe, steps, seed, bench), bench, results, three=three)


def ablation_part(bench: Bench, options: Mapping[str, Any], results: Results) -> Iterator[Result]:
    """Each row of ABLATIONS with each seed; all rows of a seed first, so that a table is there early."""
    student = bench.teachers[0] if options["ablated"] == SAME else options["ablated"]
    for seed in options["seeds"]:
        for row in options["rows"] or ABLATIONS:
            recipe = recipe_for(student, bench.teachers[0], ABLATIONS[row])
            steps = steps_for(student, recipe, options["minutes"] or ABLATION_MINUTES)
            run = plan_run(student, recipe, steps, seed, bench)
            yield {"row": row, **trained(run, bench, results, int8=options["int8"] and row in INT8_ROWS)}


def run_parts(bench: Bench, parts: Sequence[str], options: Mapping[str, Any]) -> str:
    """Train and score what is missing; the tables as Markdown, each written to OUT when its part is done."""
    results = Results(bench.out / "results.jsonl")
    names = dict.fromkeys([*bench.teachers, *(name for name in options["students"] if name != SAME)])
    references = {name: reference(name, bench, results) for name in names}
    references |= {f"{name}, whitened anew": rewhitened(name, bench, results) for name in names}
    texts = []
    for part in parts:
        table = {"main": main_text, "ablation": ablation_text}[part](bench, options, references, results)
        texts.append(f"## {part}\n\nPool: {bench.pool.words}.\n\n{table}\n")
        write_text(bench.out / f"{part}.md", texts[-1])
    return "\n".join(texts)


def main_text(bench: Bench, options: Mapping[str, Any], references: Mapping[str, Result], results: Results) -> str:
    """The table of the main part over all teachers, and whether the goals are met."""
    found: list[Result] = []
    for teacher in bench.teachers:
        others = [name for name in bench.teachers if name != teacher]
        found += main_part(dataclasses.replace(bench, teachers=(teacher, *others)), options, results)
    return "\n\n".join([main_table(references, found), "\n".join(goal_lines(references, found))])


def ablation_text(bench: Bench, options: Mapping[str, Any], references: Mapping[str, Result], results: Results) -> str:
    """The table of the ablations, of the first teacher."""
    return ablation_table(references, list(ablation_part(bench, options, results)))


def _parse_seeds(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as error:
        message = f"expected seeds such as 0,1, got {text!r}"
        raise click.BadParameter(message) from error


def _say(name: str, result: Result) -> None:
    words = [f"{100 * result[sizes]['mean_ap']:.2f} at {word}" for sizes, word in SIZES.items() if sizes in result]
    click.echo(f"{name}: mean mAP {', '.join(words)}", err=True)


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), required=True)
@click.option("--videos", type=click.Path(path_type=Path), help="Whose frames join the pool.")
@click.option(
    "--teacher", "teachers", multiple=True, default=TEACHERS, help="A trunk of archs.py; ablations use the first."
)
@click.option("--student", "students", multiple=True, default=(SAME, STUDENT), help="A trunk, or the teacher's own.")
@click.option("--fuse", "fused", multiple=True, default=FUSED, help="A trunk whose targets are fused.")
@click.option("--ablated", default=ABLATED, help="The student of the ablations.")
@click.option("--only", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS)
@click.option(
    "--row", "rows", type=click.Choice(list(ABLATIONS)), multiple=True, help="Of the ablations.  [default: all]"
)
@click.option(
    "--minutes", type=float, help=f"Of a run on two cores.  [default: {MAIN_MINUTES:g}, ablations {ABLATION_MINUTES:g}]"
)
@click.option("--three/--one", default=True, help="Score the first seed's students at three sizes too.")
@click.option("--int8/--no-int8", default=True, help="Score the INT8 files of two rows too.")
@click.option("--seeds", default="0,1", callback=_parse_seeds)
@click.option("--resize", type=click.Choice(["longest", "stretch"]), default="longest")
@click.option("--device", default="cpu")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/distillation"))
@reports_errors
def main(folder: Path, weights: Path, videos: Path | None, out: Path, **options: Any) -> None:
    """Distil three resolutions into one, and score teachers and students on every set."""
    out.mkdir(parents=True, exist_ok=True)
    photos = read_photos(folder)
    pool = read_pool(photos, videos, out / "pool")
    device = find_device(options["device"])
    bench = Bench(weights, photos, pool, out, options["teachers"], options["fused"], options["resize"], device)
    click.echo(run_parts(bench, options["parts"], options))


if __name__ == "__main__":
    main()
