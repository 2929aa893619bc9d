"""deepir-calib record: calibration pictures from a camera, a video or a folder."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from deepir.calib.images import FEWEST
from deepir.calib.recorded import RecordingConfig, RecordingTally, record_pictures
from deepir.errors import reports_errors
from deepir.runtime.progress import StatusLine

_DEFAULTS = {option.name: option.default for option in fields(RecordingConfig)}
_FILE = click.Path(path_type=Path)


@click.command("record", context_settings={"show_default": True})
@click.argument("source")
@click.option("-o", "--out", type=_FILE, required=True, metavar="DIR", help="Folder for the pictures.")
@click.option("--num", "most", type=int, default=_DEFAULTS["most"], help="Stop after so many pictures.")
@click.option("--every", type=float, default=_DEFAULTS["every"], help="Least seconds between two pictures.")
@click.option("--model", type=_FILE, help="Tell near-duplicates by its descriptors, not by pixels alone.")
@click.option("--append", is_flag=True, help="Add to the pictures in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr.")
@reports_errors
def record_command(source: str, *, as_json: bool, quiet: bool, **options: Any) -> None:
    """Take calibration pictures from SOURCE: sharp ones, each different from those before it.

    SOURCE is camera0 (or camera:0, 0, /dev/video0), an rtsp:// or http:// address, a video, an image, or a folder of
    images.  Move the camera as the robot will; Ctrl-C ends it and keeps what there is.

    \b
    Example:
      deepir-calib record camera0 --num 300 -o photos/
      deepir-calib record walk.mp4 -o photos/ --append --model student.onnx
    """  # noqa: D301 click needs the character
    config, tally, status = RecordingConfig(source=source, **options), RecordingTally(), StatusLine(quiet=quiet)
    try:
        record_pictures(config, tally, status.show)
    finally:
        status.end()
        if tally.looked_at:
            _conclude(config, tally, as_json=as_json, quiet=quiet)
    if not quiet:
        click.echo(f"next: deepir-calib {config.model or 'MODEL.onnx'} --images {config.out}", err=True)


def _conclude(config: RecordingConfig, tally: RecordingTally, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps({"out": str(config.out), **asdict(tally)}))
    if not quiet:
        click.echo(f"{config.out}: {tally.text()}", err=True)
    pictures = tally.earlier + tally.kept
    if pictures < FEWEST:
        click.echo(
            f"warning: {config.out} holds {pictures} pictures, calibration needs {FEWEST} or more: "
            "record other places and things with --append",
            err=True,
        )
