"""deepir-distill reduce: fewer values, without labels."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from deepir.distill.choices import REDUCTIONS
from deepir.distill.cli_options import reporter
from deepir.errors import reports_errors

_FILE = click.Path(path_type=Path)


@click.command("reduce")
@click.argument("model", type=_FILE)
@click.option("--images", type=_FILE, multiple=True, required=True, help="Pictures to learn from; labels are not used.")
@click.option("--dim", "dims", default="512,256", help="Values after each stage, falling.")
@click.option("--form", type=click.Choice(REDUCTIONS), default="serial", help="After the descriptor, or in its place.")
@click.option("--log-sum", is_flag=True, help="Weigh the worst pairs most.")
@click.option("--views", type=int, default=2, help="Crops of each picture.")
@click.option("--epochs", type=int, default=20, help="Of each stage.")
@click.option("--seed", type=int, default=0)
@click.option("--cache", type=_FILE, help="Folder of what the model said of the pictures.  [default: OUT.teacher]")
@click.option("--resume", is_flag=True, help="Go on where the last run with this output stopped.")
@click.option("-o", "--out", type=_FILE, required=True, help="The checkpoint to write (.safetensors).")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@reports_errors
def reduce_command(model: Path, images: tuple[Path, ...], *, quiet: bool, **options: Any) -> None:
    """Reduce the descriptor of MODEL to fewer values that keep the distances between pictures.

    \b
    Example:
      deepir-distill reduce student.safetensors --images photos/ --dim 128,64 -o small.safetensors
    """  # noqa: D301 click needs the character
    from deepir.distill.commands import reduce_student

    words = [word for word in sys.argv[1:] if word != "--resume"]
    reduce_student(model, images, options, reporter(quiet=quiet), shlex.join(["deepir-distill", *words, "--resume"]))
