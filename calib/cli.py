"""deepir-calib: an INT8 model from an FP32 one and pictures; its report; pictures from a live source."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deepir.calib.calibrate import QUANTISERS, CalibrationConfig, calibrate_file
from deepir.calib.keep import parse_keep
from deepir.calib.ranges import METHODS
from deepir.calib.record_cli import record_command
from deepir.calib.report_cli import report_command
from deepir.command_line import introduces_itself
from deepir.errors import reports_errors
from deepir.gate import GateLimits

_FILE = click.Path(path_type=Path)


class _ModelByDefault(click.Group):
    """A group in which `deepir-calib MODEL ...` means `deepir-calib model MODEL ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names, "--version"}:
            args = ["model", *args]
        return super().parse_args(ctx, args)


@introduces_itself
@click.group(cls=_ModelByDefault, context_settings={"auto_envvar_prefix": "DEEPIR_CALIB", "show_default": True})
def main() -> None:
    """Calibrate models to INT8.

    \b
    Example:
      deepir-calib record camera0 --num 300 -o photos/
      deepir-calib student.onnx --images photos/
      deepir-calib report student.int8.onnx
    """  # noqa: D301 click needs the character


main.add_command(record_command)
main.add_command(report_command)


@main.command("model")
@click.argument("model", type=_FILE)
@click.option(
    "--images",
    "sources",
    type=_FILE,
    multiple=True,
    required=True,
    help="Folder of pictures, list (.txt), labels (.csv) or benchmark.json; repeatable.",
)
@click.option("--num", "most", type=int, default=500, help="Use at most so many pictures.")
@click.option("--method", type=click.Choice(["auto", *METHODS]), default="auto", help="How a range is chosen.")
@click.option(
    "--keep-fp16",
    "keep",
    default="auto",
    metavar="auto|N|NAMES",
    help="What stays FP16: as many blocks as the gate asks for, the N worst, or names (layer1.*,stem). 0 is none.",
)
@click.option("--gate", type=float, help=f"Least mean cosine with FP32.  [default: {GateLimits().cosine_mean}]")
@click.option(
    "--gate-images", type=_FILE, multiple=True, help="Judge on these pictures, not on a quarter of the others."
)
@click.option("--quantiser", type=click.Choice(QUANTISERS), default="deepir", help="Who places the Q/DQ nodes.")
@click.option("--strict", is_flag=True, help="Write nothing and exit 6 when no INT8 file passes the gate.")
@click.option("--seed", type=int, default=0, help="Which pictures are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@click.option("-o", "--out", type=_FILE, help="INT8 file to write.  [default: MODEL.int8.onnx]")
@reports_errors
def model_command(
    model: Path, sources: tuple[Path, ...], out: Path | None, *, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Calibrate MODEL (FP32 .onnx) to INT8 on pictures, and judge the result on pictures it did not see.

    \b
    Example:
      deepir-calib student.onnx --images photos/
    """  # noqa: D301 click needs the character
    gate, keep = options.pop("gate"), parse_keep(options.pop("keep"))
    config = CalibrationConfig(keep=keep, limits=GateLimits() if gate is None else GateLimits.around(gate), **options)
    report = (lambda _: None) if quiet else (lambda line: click.echo(line, err=True))
    path, result = calibrate_file(model, sources, out or model.with_name(model.stem + ".int8.onnx"), config, report)
    if as_json:
        fields = {
            "out": str(path),
            "numerics": result.numerics.value,
            "method": result.recipe.method,
            "kept_fp16": result.recipe.kept,
            "verdicts": [asdict(verdict) for verdict in result.verdicts],
        }
        click.echo(json.dumps(fields))
    elif not quiet:
        click.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
        click.echo(f"next: deepir-index build things.usearch {sources[0]} --model {path}")
