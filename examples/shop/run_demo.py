"""The demonstration: renders a shop and takes it through every deepir command, from photographs to live matches."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from render import ShopConfig, clear_shop, render_shop
from report import write_report
from report_facts import ReportFacts
from table import build_rows, gap_closed, read_scores, text_table
from walk_score import score_walk

from deepir.distill.checkpoint import load_model

RENDERING = "render the shop"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much the demonstration does."""

    shop: ShopConfig
    teacher_epochs: int
    student_epochs: int
    student_dim: int


FULL = Scale(ShopConfig(train_photos=8), teacher_epochs=7, student_epochs=4, student_dim=256)
QUICK = Scale(
    ShopConfig(
        train_products=12,
        test_products=6,
        distractor_products=4,
        unknown_products=4,
        walk_products=4,
        train_photos=4,
        query_photos=2,
        frames=48,
    ),
    teacher_epochs=1,
    student_epochs=1,
    # the targets of two teachers need more pictures than values
    student_dim=32,
)


@dataclass(frozen=True, slots=True)
class Step:
    """A command as a user types it in the run folder, and the file that its stdout goes to.

    Attributes:
        unless: Left out where this file is already.
    """

    name: str
    command: str
    output: str = ""
    unless: str = ""

    @property
    def shown(self) -> str:
        return f"{self.command} > {self.output}" if self.output else self.command


STEPS = (
    Step(
        "train the teacher",
        "deepir-distill train shop --trunk timm:resnet10t@3 --size 112 --scales 0.5,1,1.5 --dim 128 --power 0.5 "
        "--loss NormalizedSoftmaxLoss --miner none --per-label 1 --epochs {teacher_epochs} --lr 0.003 --seed {seed} "
        "-o teacher.safetensors",
    ),
    Step("score the teacher", "deepir-eval teacher.safetensors shop --json", "scores/teacher_x3.json"),
    Step("score the teacher", "deepir-eval teacher.safetensors shop --scales 1 --json", "scores/teacher_x1.json"),
    # not trained: the teacher's first two stages, each whitened by itself
    Step(
        "cut the student from the teacher",
        "deepir-distill train shop --trunk timm:resnet10t@2 --weights teacher.safetensors --size 112 --dim 128 "
        "--power 0.35 --epochs 0 -o cut.safetensors",
    ),
    Step(
        "cut the student from the teacher",
        "deepir-distill fuse cut.safetensors --middle 1 --power 0.35 --no-standardise --images shop "
        "-o student_start.safetensors",
    ),
    Step("score the student", "deepir-eval student_start.safetensors shop --json", "scores/student_start.json"),
    # two teachers: what three resolutions see, and what the middle layers see
    Step(
        "distil the student",
        "deepir-distill teacher.safetensors --teacher student_start.safetensors --images shop "
        "--student timm:resnet10t@2 --weights teacher.safetensors --fusion pca-concat-pca --middle 1 "
        "--dim {student_dim} --loss regions=0 --views 1 --epochs {student_epochs} --lr 0.002 --seed {seed} "
        "-o student.safetensors",
    ),
    Step("export and calibrate", "deepir-export student.safetensors --int8 --calib shop/train"),
    # where no INT8 form passes the gate there is an FP16 file; what INT8 would have cost is shown all the same
    Step(
        "export and calibrate",
        "deepir-export student.safetensors --int8 --calib shop/train --keep-fp16 0",
        unless="student.int8.onnx",
    ),
    Step("score the student", "deepir-eval student.onnx shop --backend auto --json", "scores/student.json"),
    Step("score the student", "deepir-eval student.int8.onnx shop --backend auto --json", "scores/student_int8.json"),
    # the training products are not in the index: how alike they come out sets where `unknown` begins
    Step(
        "build the index",
        "deepir-index build shop.usearch shop/references --model student.int8.onnx --unknown shop/train --far 0.05",
    ),
    Step("build the index", "deepir-index info shop.usearch --json", "index.json"),
    Step(
        "run the video",
        "deepir-run shop/walk.webm --index shop.usearch --save walk_annotated.webm",
        "walk_results.jsonl",
    ),
)


@click.command()
@click.argument("out", type=click.Path(path_type=Path), default=Path("runs/shop"))
@click.option("--seed", type=int, default=0, show_default=True, help="Another shop, another training.")
@click.option("--quick", is_flag=True, help="A tenth of the work: shows that everything runs, proves nothing.")
def main(out: Path, seed: int, *, quick: bool) -> None:
    """Run the whole demonstration in the folder OUT (by default runs/shop)."""
    scale = QUICK if quick else FULL
    (out / "scores").mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        if step.unless:
            # of an earlier run
            (out / step.unless).unlink(missing_ok=True)
    seconds = {RENDERING: _render(out / "shop", replace(scale.shop, seed=seed))}
    commands: dict[str, str] = {}
    sizes = {name: getattr(scale, name) for name in ("teacher_epochs", "student_epochs", "student_dim")}
    for step in STEPS:
        if step.unless and (out / step.unless).exists():
            continue
        command = replace(step, command=step.command.format(seed=seed, **sizes))
        commands[step.name] = "\n".join(filter(None, [commands.get(step.name), command.shown]))
        seconds[step.name] = seconds.get(step.name, 0.0) + _run(command, out)
    _conclude(out, seconds, commands, seed)


def _conclude(out: Path, seconds: dict[str, float], commands: dict[str, str], seed: int) -> None:
    """Write the report, print the table."""
    threshold = json.loads((out / "index.json").read_text())["threshold"]
    parameters = load_model(out / "student.safetensors").parameters
    facts = ReportFacts(threshold=threshold["value"], seed=seed, commands=commands, student_parameters=parameters)
    report = write_report(out, seconds, facts)
    rows = build_rows(read_scores(out / "scores"), student_parameters=parameters)
    click.echo(f"\n{text_table(rows)}")
    for key in ("student", "student_int8"):
        click.echo(gap_closed(rows, key).line())
    click.echo(score_walk(out / "shop" / "walk.jsonl", out / "walk_results.jsonl").line())
    click.echo(
        f"took {sum(seconds.values()):.0f} s; pictures and curves: {report}; video: {out / 'walk_annotated.webm'}"
    )


def _render(shop: Path, config: ShopConfig) -> float:
    click.echo(f"== {RENDERING}", err=True)
    started = time.monotonic()
    if shop.exists():
        clear_shop(shop)
    render_shop(shop, config)
    return time.monotonic() - started


def _run(step: Step, folder: Path) -> float:
    """Run a command in a folder; gives its seconds, and ends the demonstration when it fails."""
    click.echo(f"\n== {step.name}\n$ {step.shown}", err=True)
    started = time.monotonic()
    code = _call(shlex.split(step.command), folder, step.output)
    if code != 0:
        click.echo(f"the demonstration stopped: this command ended with exit status {code}", err=True)
        raise SystemExit(code)
    return time.monotonic() - started


def _call(words: Sequence[str], folder: Path, output: str) -> int:
    tool = Path(sys.executable).with_name(words[0])
    if not output:
        return subprocess.run([tool, *words[1:]], cwd=folder, check=False).returncode  # noqa: S603 our own commands
    with (folder / output).open("wb") as stream:
        return subprocess.run([tool, *words[1:]], cwd=folder, stdout=stream, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    main()
