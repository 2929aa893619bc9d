"""deepir-eval: score a model on pictures with ground truth."""

import json
from pathlib import Path

import click

from deepir.errors import reports_errors
from deepir.runtime.backend import DEVICES, Device

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_EVAL", "show_default": True})
@click.argument("model", type=_FILE)
@click.argument("dataset", type=_FILE)
@click.option("--set", "sets", multiple=True, help="Only this set of the dataset; repeatable.")
@click.option("--scales", help="Score a checkpoint at other resolutions: factors (0.5,1,1.5) or sizes (160,320,480).")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where an .onnx file runs.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, rankings included.")
@reports_errors
def main(
    model: Path, dataset: Path, sets: tuple[str, ...], scales: str | None, device: Device, *, as_json: bool
) -> None:
    r"""Score MODEL (.safetensors or .onnx) on DATASET (a benchmark.json, its folder, or a folder for each label).

    \b
    Example:
      deepir-eval student.int8.onnx photos/benchmark.json
    """
    from deepir.export.evaluate import evaluate, open_at_scales, open_subject

    subject = open_at_scales(model, scales) if scales else open_subject(model, device=device)
    result = evaluate(subject, dataset, sets)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{model}: {result['numerics']} by {result['runner']}, {result['milliseconds_per_image']} ms an image")
    for name, scores in result["sets"].items():
        recalls = " ".join(f"recall@{k} {value:.4f}" for k, value in scores["recall_at"].items())
        click.echo(
            f"{name}: mAP {scores['mean_ap']:.4f} {recalls} ({scores['queries']} queries, {scores['database']} images)"
        )
