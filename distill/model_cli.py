"""deepir-distill import and inspect: published weights in, and what a weight file holds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from deepir.errors import reports_errors

_FILE = click.Path(path_type=Path)
_KINDS = ("auto", "caffe", "naver", "cirtorch", "torchvision", "timm", "safetensors")
_DIFFERENT = 1


@click.command("import")
@click.argument("file", type=_FILE)
@click.option("-o", "--out", type=_FILE, required=True, help="The checkpoint to write (.safetensors).")
@click.option("--size", help="Longest side, or HEIGHTxWIDTH.  [default: 800 caffe, 1024 naver and cirtorch, else 320]")
@click.option("--scales", help="Resolutions: pixels to add (-250,0,+250), factors (0.5,1,1.5) or sizes.")
@click.option("--levels", type=int, help="Levels of the region grid.  [default: 2, cirtorch 3]")
@click.option("--dim", type=int, help="Keep the first N values of the last trained projection.")
@click.option("--kind", type=click.Choice(_KINDS), default="auto", help="auto looks into the file.")
@click.option("--trunk", help="The network of a plain state dict: torchvision:NAME or timm:NAME.")
@click.option("--whiten", help="Which whitening of the file to use, or none.")
@click.option("--whitenp", type=float, help="naver: power of the whitening.  [default: 0.25]")
@click.option("--whitenv", type=int, help="naver: number of components.  [default: all]")
@click.option("--whitenm", type=float, help="naver: factor, which length 1 undoes.  [default: 1]")
@click.option("--relu/--no-relu", default=None, help="caffe: the ReLU of a concat-pca student.  [default: as listed]")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@reports_errors
def import_weights(file: Path, out: Path, kind: str, *, quiet: bool, **options: Any) -> None:
    """Turn published weights into a model.

    FILE is a .caffemodel of Deep Image Retrieval or its students, a checkpoint of NAVER's deep-image-retrieval or of
    cnnimageretrieval-pytorch, or a state dict of torchvision or timm.  Nothing in it is run.

    \b
    Example:
      deepir-distill import Resnet-101-AP-GeM.pt -o teacher.safetensors
      deepir-distill import model.caffemodel --scales -250,0,+250 -o teacher.safetensors
    """  # noqa: D301 click needs the character
    from deepir.distill.checkpoint import save_model
    from deepir.distill.import_plan import ImportOptions
    from deepir.distill.importing import import_model
    from deepir.errors import InputError

    if out.suffix != ".safetensors" or not out.parent.is_dir():
        message = f"cannot write {out}: give a name ending in .safetensors in a folder that exists"
        raise InputError(message)
    model, report = import_model(file, ImportOptions(**options), kind)
    save_model(model, out)
    if not quiet:
        for line in report.lines():
            click.echo(line, err=True)
        click.echo(f"wrote {out} (model {model.sealed().spec.fingerprint}, {model.spec.dim} values)", err=True)


@click.command("inspect")
@click.argument("first", metavar="A", type=_FILE)
@click.argument("second", metavar="[B]", type=_FILE, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@reports_errors
def inspect_weights(first: Path, second: Path | None, *, as_json: bool) -> None:
    """List the arrays of a weight file, or say where two differ.

    A and B are .caffemodel, .pt, .pth or .safetensors.  With B the command ends with 0 when all arrays are equal and
    with 1 when they differ; types are not compared, only names, shapes and values.

    \b
    Examples:
      deepir-distill inspect model.caffemodel
      deepir-distill inspect before.safetensors after.safetensors --json
    """  # noqa: D301 click needs the character
    from deepir.distill.inspect_files import compare_arrays, describe_arrays, read_arrays

    arrays = read_arrays(first)
    if second is None:
        entries = describe_arrays(arrays)
        if as_json:
            _echo_json({"file": str(first), "arrays": [dataclasses.asdict(entry) for entry in entries]})
            return
        for entry in entries:
            click.echo(entry.line())
        click.echo(f"{len(entries)} arrays, {sum(array.size for array in arrays.values())} values")
        return
    differences = compare_arrays(arrays, read_arrays(second))
    if as_json:
        found = [dataclasses.asdict(difference) for difference in differences]
        _echo_json({"a": str(first), "b": str(second), "equal": not found, "differences": found})
    else:
        for difference in differences:
            click.echo(difference.line())
        click.echo(f"{len(differences)} differences" if differences else f"equal: {len(arrays)} arrays")
    if differences:
        raise SystemExit(_DIFFERENT)


def _echo_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=1))
