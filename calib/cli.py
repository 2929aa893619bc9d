"""deepir-calib: an INT8 model from an FP32 one and pictures."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from deepir.calib.calibrate import CalibrationConfig, calibrate, calibration_record, read_fp32, verdict_text
from deepir.calib.images import RECOMMENDED, choose_images
from deepir.calib.onnx_file import write_onnx
from deepir.calib.quantise import int8_share
from deepir.calib.ranges import METHODS
from deepir.errors import GateError, reports_errors
from deepir.files import write_text

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_CALIB", "show_default": True})
@click.argument("model", type=_FILE)
@click.option("--images", "folders", type=_FILE, multiple=True, required=True, help="Folder of pictures; repeatable.")
@click.option("--num", type=int, default=500, help="Use at most so many pictures.")
@click.option("--method", type=click.Choice(["auto", *METHODS]), default="auto", help="How a range is chosen.")
@click.option("--strict", is_flag=True, help="Write nothing and exit 6 when the gate fails.")
@click.option("--seed", type=int, default=0, help="Which pictures are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option("-o", "--out", type=_FILE, help="INT8 file to write.  [default: MODEL.int8.onnx]")
@reports_errors
def main(
    model: Path,
    folders: tuple[Path, ...],
    num: int,
    method: str,
    seed: int,
    out: Path | None,
    *,
    strict: bool,
    as_json: bool,
) -> None:
    r"""Calibrate MODEL (FP32 .onnx) to INT8 on pictures, and judge the result on pictures it did not see.

    \b
    Example:
      deepir-calib student.onnx --images photos/
    """
    out = out or model.with_name(model.stem + ".int8.onnx")
    proto, card = read_fp32(model)
    images = choose_images(folders, most=num, seed=seed)
    if len(images.measure) + len(images.judge) < RECOMMENDED:
        click.echo(f"warning: fewer than {RECOMMENDED} pictures", err=True)
    result = calibrate(proto, card, images, CalibrationConfig(method=method), lambda line: click.echo(line, err=True))
    if not result.verdict.passed:
        sentence = f"INT8 changes the descriptors too much: {verdict_text(result.verdict)}; try more varied pictures"
        if strict:
            raise GateError(sentence)
        click.echo(f"warning: {sentence}", err=True)
    write_onnx(result.proto, out)
    write_text(out.with_suffix(".calib.json"), calibration_record(result, images, model))
    share = int8_share(result.proto)
    if as_json:
        click.echo(
            json.dumps({"out": str(out), "method": result.method, "int8_share": share, **asdict(result.verdict)})
        )
    else:
        click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB, {share:.0%} of the convolutions INT8)")
        click.echo(f"next: deepir-index build things.usearch {folders[0]} --model {out}")
