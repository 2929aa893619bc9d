"""deepir-run: name what a camera, a video or pictures show."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from deepir.command_line import introduces_itself
from deepir.errors import reports_errors
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.camera_list import list_cameras
from deepir.runtime.camera_state import ON_LOST, Patience
from deepir.runtime.decide_cli import deciding_options, read_deciding
from deepir.runtime.judgement_cli import judgement_options, read_judgement
from deepir.runtime.page_address import PageAddress
from deepir.runtime.roi import Roi
from deepir.runtime.run import RunOptions, run
from deepir.runtime.sinks_cli import read_sink_options, sink_options

_DEFAULTS = {option.name: option.default for option in fields(RunOptions)}
_PATIENCE = {option.name: option.default for option in fields(Patience)}
_FILE = click.Path(path_type=Path)


def _seconds_or_off(_context: click.Context, _option: click.Parameter, value: str) -> float | None:
    if value == "off":
        return None
    try:
        return float(value)
    except ValueError as error:
        message = f"expected seconds or off, got {value!r}"
        raise click.BadParameter(message) from error


def _list_cameras(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        found = list_cameras()
        click.echo("\n".join(camera.text() for camera in found) or "no cameras on this machine")
        context.exit()


@introduces_itself
@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_RUN", "show_default": True})
@click.argument("source")
@click.option("--index", "index_path", type=_FILE, required=True, help="Written by deepir-index build.")
@click.option("--model", type=_FILE, help="The model, if not where the index expects it, or its INT8 form.")
@judgement_options
@deciding_options
@backend_options
@click.option("--every", type=int, default=_DEFAULTS["every"], help="Take every N-th frame.")
@click.option("--fps-max", type=float, help="Of a camera, take no more frames a second.")
@click.option(
    "--roi", metavar="X,Y,W,H", help="Look at this part of each frame only: pixels, or shares such as 0.25,0,0.5,1."
)
@click.option("--boxes", type=_FILE, help="Look at these boxes of each frame: JSON lines of a detector.")
@click.option("--max-frames", type=int, help="Stop after so many frames.")
@click.option("--save", type=_FILE, help="Write the annotated video (.webm, .mp4, .avi).")
@click.option("--jsonl", type=_FILE, help="Write the JSON lines there instead of to stdout.")
@sink_options
@click.option(
    "--page", metavar="[HOST:]PORT", help="Serve a live page there; on this machine only unless HOST is wider."
)
@click.option("--health-file", type=_FILE, help="Say there once a second how it is going.")
@click.option("--events", is_flag=True, help="A JSON line, too, when the camera is lost or comes back.")
@click.option(
    "--on-lost",
    type=click.Choice(ON_LOST),
    default=_PATIENCE["on_lost"],
    help="When a camera is lost, or not there yet.",
)
@click.option(
    "--frozen",
    metavar="SECONDS|off",
    default=f"{_PATIENCE['frozen']:g}",
    callback=_seconds_or_off,
    help="A camera with the same pixels for so long is lost; off: a still picture is one.",
)
@click.option(
    "--list-cameras",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_cameras,
    help="Say which cameras there are, and end.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr.")
@reports_errors
def main(**options: Any) -> None:
    """Recognise what SOURCE shows: one JSON line for each frame on stdout, news on stderr.

    SOURCE is camera0 (or 0, /dev/video0, camera:"its name", csi://0), an rtsp:// or http:// address, a video, an image,
    a folder, pattern or list of images, - for JPEGs on stdin, or test://. Files give every frame, cameras the newest.

    \b
    Example:
      deepir-run camera0 --index shop.usearch
      deepir-run rtsp://user:secret@host/stream --index shop.usearch --on-lost wait
      deepir-run walk.mp4 --index shop.usearch --save walk.webm --jsonl walk.jsonl
    """  # noqa: D301 click needs the character
    roi, page = options.pop("roi"), options.pop("page")
    run(
        RunOptions(
            roi=None if roi is None else Roi.parse(roi),
            page=None if page is None else PageAddress.parse(page),
            patience=Patience(on_lost=options.pop("on_lost"), frozen=options.pop("frozen")),
            backend=read_backend_options(options),
            judgement=read_judgement(options),
            deciding=read_deciding(options),
            sinks=read_sink_options(options),
            **options,
        )
    )


if __name__ == "__main__":
    main()
