"""deepir-export: a checkpoint as ONNX in FP32, FP16 or INT8."""

from pathlib import Path
from typing import Any

import click

from deepir.errors import OptionError, reports_errors
from deepir.spec import Numerics, parse_size

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_EXPORT", "show_default": True})
@click.argument("model", type=_FILE)
@click.option("--fp32", is_flag=True, help="Single precision (what you get without a flag).")
@click.option("--fp16", is_flag=True, help="Half precision, head in single.")
@click.option("--int8", is_flag=True, help="Q/DQ nodes around every convolution, head in single; needs --calib.")
@click.option("--size", help="Fixed input size for a checkpoint of several or free sizes: side, or HEIGHTxWIDTH.")
@click.option("--calib", type=_FILE, multiple=True, help="Folder of pictures to calibrate with; repeatable.")
@click.option("--images", type=_FILE, multiple=True, help="Folder of pictures to prove FP32 and FP16 with.")
@click.option("--method", default="auto", help="How INT8 ranges are chosen, see deepir-calib --help.")
@click.option("--strict", is_flag=True, help="Write no INT8 file and exit 6 when its gate fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the files written as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@click.option("-o", "--out", type=_FILE, help="Folder to write to.  [default: the model's folder]")
@reports_errors
def main(
    model: Path,
    calib: tuple[Path, ...],
    images: tuple[Path, ...],
    out: Path | None,
    **given: Any,
) -> None:
    """Export MODEL (.safetensors checkpoint, or the FP32 .onnx) and prove that it is the same function.

    \b
    Example:
      deepir-export student.safetensors --int8 --calib photos/
    """  # noqa: D301 click needs the character
    from deepir.export.commands import ExportOptions, export, summary

    chosen = [numerics for numerics in Numerics if given[numerics.value]]
    if len(chosen) > 1:
        message = f"choose one precision, got {' and '.join('--' + numerics.value for numerics in chosen)}"
        raise OptionError(message)
    options = ExportOptions(
        numerics=chosen[0] if chosen else Numerics.FP32,
        out=model.parent if out is None else out,
        calib=calib,
        images=images,
        method=given["method"],
        strict=given["strict"],
        size=parse_size(given["size"]) if given["size"] else None,
    )
    written = export(model, options, (lambda _: None) if given["quiet"] else (lambda line: click.echo(line, err=True)))
    if given["as_json"]:
        click.echo(summary(written))
