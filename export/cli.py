"""deepir-export: a checkpoint as ONNX in FP32, FP16 or INT8, and as an engine, each proven."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from deepir.calib.keep import parse_keep
from deepir.card import PIXEL_TYPES
from deepir.command_line import introduces_itself
from deepir.errors import OptionError, reports_errors
from deepir.export.engine_config import POOLS
from deepir.export.options import TARGETS, ExportOptions, parse_batch, parse_sizes
from deepir.gate import GateLimits
from deepir.runtime.sidecar import PORTABLE
from deepir.spec import Numerics

_FILE = click.Path(path_type=Path)
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(ExportOptions)}


@introduces_itself
@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_EXPORT", "show_default": True})
@click.argument("model", type=_FILE)
@click.option("--fp32", is_flag=True, help="Single precision (what a checkpoint becomes without a flag).")
@click.option("--fp16", is_flag=True, help="Half precision, head in single.")
@click.option("--int8", is_flag=True, help="Q/DQ nodes around every convolution, head in single; needs --calib.")
@click.option(
    "--size",
    multiple=True,
    metavar="SIZE",
    help="Side, HEIGHTxWIDTH, or free. Several sizes are alternatives: a picture takes the nearest in aspect.",
)
@click.option(
    "--input", "pixels", type=click.Choice(PIXEL_TYPES), default=_DEFAULTS["pixels"], help="What the file takes."
)
@click.option(
    "--calib", type=_FILE, multiple=True, help="Pictures to calibrate with (folder, .txt, .csv), or a .calib.json."
)
@click.option("--images", type=_FILE, multiple=True, help="Folder of pictures to prove with; repeatable.")
@click.option("--method", default=_DEFAULTS["method"], help="How INT8 ranges are chosen, see deepir-calib --help.")
@click.option(
    "--keep-fp16",
    "keep",
    default="auto",
    metavar="auto|N|NAMES",
    help="What of INT8 stays FP16, see deepir-calib --help.",
)
@click.option("--gate", type=float, help=f"Least mean cosine with FP32.  [default: {GateLimits().cosine_mean}]")
@click.option("--strict", is_flag=True, help="Write no INT8 file and exit 6 when its gate fails.")
@click.option(
    "--backend",
    "target",
    type=click.Choice(TARGETS),
    default="auto",
    help="What to build for, or to prove in.",
)
@click.option(
    "--batch",
    default=":".join(map(str, _DEFAULTS["batch"])),
    help="Largest number of pictures, or smallest:usual:largest.",
)
@click.option(
    "--pool", type=click.Choice(POOLS), default=_DEFAULTS["pool"], help="How the engine pools: plugin or operators."
)
@click.option(
    "--portable", type=click.Choice(PORTABLE), default=_DEFAULTS["portable"], help="Newer TensorRT, other GPUs, both."
)
@click.option(
    "--capability", "capabilities", multiple=True, help="Compute capability for rtx, such as 8.9; repeatable."
)
@click.option("--workspace", "workspace_mib", type=int, help="MiB for the builder.  [default: by the free memory]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the files and verdicts as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@click.option("-o", "--out", type=_FILE, help="Folder to write to.  [default: the model's folder]")
@reports_errors
def main(model: Path, out: Path | None, *, as_json: bool, quiet: bool, **given: Any) -> None:
    """Export MODEL (.safetensors checkpoint, or .onnx of deepir) and prove that it is the same function.

    Where TensorRT and a GPU are, an engine is built too; elsewhere the command for the device is printed.

    \b
    Example:
      deepir-export student --int8 --calib photos/
      deepir-export student.int8.onnx --backend tensorrt --images photos/
      deepir-export teacher.safetensors --size 480x640 --size 640x480 --input uint8
    """  # noqa: D301 click needs the character
    options = _options(model.parent if out is None else out, given)
    from deepir.export.commands import export, find_source, plan, summary

    source = find_source(model)
    if options.dry_run:
        for line in plan(source, options):
            click.echo(line)
        return
    report = (lambda _: None) if quiet else (lambda line: click.echo(line, err=True))
    exported = export(source, options, report, tuple(sys.argv))
    if as_json:
        click.echo(summary(exported))


def _options(out: Path, given: dict[str, Any]) -> ExportOptions:
    chosen = [numerics for numerics in Numerics if given.pop(numerics.value)]
    if len(chosen) > 1:
        message = f"choose one precision, got {' and '.join('--' + numerics.value for numerics in chosen)}"
        raise OptionError(message)
    gate, (sizes, free) = given.pop("gate"), parse_sizes(given.pop("size"))
    return ExportOptions(
        out=out,
        numerics=chosen[0] if chosen else None,
        sizes=sizes,
        free=free,
        batch=parse_batch(given.pop("batch")),
        limits=GateLimits() if gate is None else GateLimits.around(gate),
        keep=parse_keep(given.pop("keep")),
        **given,
    )


if __name__ == "__main__":
    main()
