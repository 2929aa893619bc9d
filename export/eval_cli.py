"""deepir-eval: score a model on pictures with ground truth, show its rankings, hand out its descriptors."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepir.command_line import introduces_itself
from deepir.datasets import LAYOUTS
from deepir.errors import OptionError, reports_errors
from deepir.expansion import parse_expansion
from deepir.runtime.backend import BACKENDS, DEVICES, BackendOptions
from deepir.score import AP_CONVENTIONS

if TYPE_CHECKING:
    from deepir.export.evaluate import EvalOptions

_FILE = click.Path(path_type=Path)
_FORMS = ("kapture", "hloc", "npz")


@introduces_itself
@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_EVAL", "show_default": True})
@click.argument("model", type=_FILE)
@click.argument("dataset", type=_FILE)
@click.option("--set", "sets", multiple=True, help="Only this set of the dataset; repeatable.")
@click.option("--layout", type=click.Choice([*LAYOUTS, "pictures"]), default="auto", help="How DATASET is laid out.")
@click.option("--scales", help="Score a checkpoint at other resolutions: factors (0.5,1,1.5) or sizes (160,320,480).")
@click.option("--no-crop", is_flag=True, help="Search with whole pictures where queries have a box.")
@click.option("--qe", help="Expand queries by their nearest pictures: aqe:1, or alpha:10,3 (k, then alpha).")
@click.option("--dbe", help="Expand the database before the search: 20, or alpha:10,3 (k, then alpha).")
@click.option("--ap", type=click.Choice(AP_CONVENTIONS), default=AP_CONVENTIONS[0], help="Which average precision.")
@click.option(
    "--distractors",
    type=_FILE,
    help="Further wrong pictures: .npz, .npy, or a folder, described once into a file beside it.",
)
@click.option("--report", type=_FILE, help="Write an HTML page with the worst queries.")
@click.option("--export", "form", type=click.Choice(_FORMS), help="Write the descriptors for other programs.")
@click.option("-o", "--out", type=_FILE, help="Where --export writes: a file, for kapture its root folder.")
@click.option("--threads", type=int, help="Threads that decode pictures.  [default: one a core, at most 8]")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where the model runs.")
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="What runs a model file.  [default: onnxruntime, the reference]"
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, rankings included.")
@reports_errors
def main(model: Path, dataset: Path, sets: tuple[str, ...], **options: Any) -> None:
    """Score MODEL (.safetensors, .onnx, .engine, or descriptors in .npz) on DATASET.

    DATASET is a benchmark.json or its folder, a folder for each label, a .csv of image,label, or the folder of
    Oxford5k, Paris6k, their revisited forms (gnd_*.pkl) or Holidays. With --layout pictures it is any folder of
    pictures, which --export describes without a score.

    \b
    Example:
      deepir-eval student.int8.onnx photos/benchmark.json --report worst.html
      deepir-eval teacher.safetensors oxford5k --dbe 20 --qe aqe:1
      deepir-eval student.onnx photos --layout pictures --export kapture -o mapping
    """  # noqa: D301 click needs the character
    from deepir.export.eval_report import check_place, write_report
    from deepir.export.eval_text import result_lines
    from deepir.export.evaluate import evaluate, open_at_scales, open_subject
    from deepir.export.subject import default_backend

    report: Path | None = options["report"]
    chosen = _eval_options(options)
    if report is not None:
        check_place(report)
    scales, device = options["scales"], options["device"]
    placed = BackendOptions(device=device, backend=options["backend"] or default_backend(model), report=_say)
    subject = open_at_scales(model, scales, device=device) if scales else open_subject(model, placed)
    result = evaluate(subject, dataset, sets, chosen)
    if report is not None:
        write_report(result, report)
    click.echo(json.dumps(result) if options["as_json"] else "\n".join(result_lines(result)))
    for written in (report, chosen.out):
        if written is not None:
            click.echo(f"wrote {written}", err=True)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _eval_options(options: dict[str, Any]) -> "EvalOptions":
    from deepir.export.eval_text import show_progress
    from deepir.export.evaluate import PICTURES, EvalOptions, ScoringRules

    if options["layout"] == PICTURES and options["report"] is not None:
        message = "--report shows rankings, and the layout pictures has nothing to rank: leave one of them out"
        raise OptionError(message)
    rules = ScoringRules(
        crop=not options["no_crop"],
        query_expansion=parse_expansion(options["qe"]) if options["qe"] else None,
        database_expansion=parse_expansion(options["dbe"]) if options["dbe"] else None,
        convention=options["ap"],
        distractors=options["distractors"],
    )
    return EvalOptions(
        layout=options["layout"],
        rules=rules,
        form=options["form"],
        out=options["out"],
        threads=options["threads"],
        progress=show_progress,
    )
