"""deepir-calib: an INT8 model from an FP32 one and pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deepir.calib.calibrate import CalibrationConfig, calibrate_file
from deepir.calib.ranges import METHODS
from deepir.errors import reports_errors

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_CALIB", "show_default": True})
@click.argument("model", type=_FILE)
@click.option("--images", "folders", type=_FILE, multiple=True, required=True, help="Folder of pictures; repeatable.")
@click.option("--num", "most", type=int, default=500, help="Use at most so many pictures.")
@click.option("--method", type=click.Choice(["auto", *METHODS]), default="auto", help="How a range is chosen.")
@click.option("--strict", is_flag=True, help="Write nothing and exit 6 when the gate fails.")
@click.option("--seed", type=int, default=0, help="Which pictures are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option("-o", "--out", type=_FILE, help="INT8 file to write.  [default: MODEL.int8.onnx]")
@reports_errors
def main(model: Path, folders: tuple[Path, ...], out: Path | None, *, as_json: bool, **options: Any) -> None:
    """Calibrate MODEL (FP32 .onnx) to INT8 on pictures, and judge the result on pictures it did not see.

    \b
    Example:
      deepir-calib student.onnx --images photos/
    """  # noqa: D301 click needs the character
    out = out or model.with_name(model.stem + ".int8.onnx")
    result = calibrate_file(model, folders, out, CalibrationConfig(**options), lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"out": str(out), "method": result.method, **asdict(result.verdict)}))
    else:
        click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
        click.echo(f"next: deepir-index build things.usearch {folders[0]} --model {out}")
