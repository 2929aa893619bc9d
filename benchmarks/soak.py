"""deepir-run for many minutes on a camera that dies, stalls and comes back, while everything around it changes.

    python benchmarks/soak.py --minutes 20 --model student.int8.onnx --index shop.usearch --video clip.mp4 \
        --picture oat-milk.jpg --out soak.md

The camera is an RTSP server on loopback (tests/runtime/stream_server.py, H.264 of the clip). Answers go to stdout, all
of them to a web address of the benchmark's own, pictures of unknown things to an inbox; the health file is read and
the live page visited once a second. In turn: the server is killed for 3 to 20 seconds, loses packets, stalls; the web
address is away for 20 seconds; deepir-index adds and removes a label; the model's file is replaced; SIGHUP. At the end
SIGTERM. The exit code is 1 when a check misses its goal.
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from pipeline_run import deepir_run
from soak_faults import FAULTS, Note, Scene
from soak_parts import Address, CameraProgram, Visitor, encode, free_port
from soak_report import Soaked, checks, write_report
from soak_watch import Watched

from deepir.errors import InputError, reports_errors
from deepir.files import write_text
from deepir.runtime.cache import machine_name

INBOX_MB = 2.0
REST = 10.0
FIRST_ANSWER = 60.0
PAGES = ("/", "/metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was asked for."""

    minutes: float
    warm_up: float
    model: Path
    index: Path
    video: Path
    picture: Path
    fps: float


def soak(settings: Settings, folder: Path) -> Soaked:
    """Run it, break things, stop it.

    Raises:
        InputError: deepir-run gives no answer at all.
    """
    index, model = folder / "soak.usearch", folder / f"model{settings.model.suffix}"
    shutil.copyfile(settings.index, index)
    shutil.copyfile(settings.model, model)
    encode(settings.video, folder / "clip.h264", settings.fps)
    camera, address = CameraProgram(folder / "clip.h264", settings.fps), Address()
    words, visitor, inbox = _command(folder, camera.address, address.port, index, model)
    camera.start()
    address.up()
    run = Watched(words, folder / "health.json", folder / "stderr.txt")
    scene = Scene(camera=camera, address=address, run=run, index=index, model=model, picture=settings.picture)
    try:
        if not run.wait_until(lambda: bool(run.results), FIRST_ANSWER):
            message = f"deepir-run gave no answer: {run.said[-1000:]}"
            raise InputError(message)
        if visitor is not None:
            visitor.start()
        _break_things(scene, settings)
        if visitor is not None:
            visitor.end()
        code, seconds = run.stop()
    finally:
        if run.process.poll() is None:
            run.process.kill()
        camera.kill()
        address.down()
    return Soaked(
        run=run,
        notes=scene.notes,
        posted=address.records,
        visitor=visitor,
        inbox=inbox,
        inbox_mb=INBOX_MB,
        warm_up=settings.warm_up * 60,
        exit_code=code,
        farewell=seconds,
    )


def _break_things(scene: Scene, settings: Settings) -> None:
    until = scene.run.began + 60 * settings.minutes
    rest = min(REST, 60 * settings.minutes / 20)
    for fault in itertools.cycle(FAULTS):
        time.sleep(max(0.0, min(rest, until - time.time())))
        if time.time() >= until or scene.run.process.poll() is not None:
            return
        note: Note = fault(scene)
        scene.notes.append(note)
        click.echo(f"{note.at - scene.run.began:6.0f} s  {note.fault}: {note.told}", err=True)


def _command(
    folder: Path, camera: str, port: int, index: Path, model: Path
) -> tuple[list[str], Visitor | None, Path | None]:
    """The command line, with what this version of deepir-run knows."""
    known = subprocess.run([deepir_run(), "--help"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    words = [deepir_run(), camera, "--index", str(index), "--model", str(model), "--on-lost", "wait", "--events"]
    words += ["--webhook", f"http://127.0.0.1:{port}/answers", "--send", "all"]
    words += ["--health-file", str(folder / "health.json")]
    visitor = inbox = None
    if "--inbox " in known:
        inbox = folder / "inbox"
        words += ["--inbox", str(inbox), "--inbox-mb", f"{INBOX_MB:g}"]
    if "--page " in known:
        page = free_port()
        words += ["--page", str(page)]
        visitor = Visitor([f"http://127.0.0.1:{page}{path}" for path in PAGES])
    return words, visitor, inbox


_FILE = click.Path(path_type=Path, exists=True)


@click.command(context_settings={"show_default": True})
@click.option("--minutes", type=float, default=20.0, help="How long.")
@click.option("--warm-up", type=float, help="Minutes until memory counts.  [default: a quarter, at most 5]")
@click.option("--model", type=_FILE, required=True, help="An .onnx file.")
@click.option("--index", type=_FILE, required=True, help="Of this model; a copy of it is changed.")
@click.option("--video", type=_FILE, required=True, help="What the camera sees.")
@click.option("--picture", type=_FILE, required=True, help="Is added to the index and removed again.")
@click.option("--fps", type=float, default=10.0, help="Of the camera.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for what deepir-run wrote.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the log to this file, too.")
@reports_errors
def main(  # noqa: PLR0913 one for each option
    *,
    minutes: float,
    warm_up: float | None,
    model: Path,
    index: Path,
    video: Path,
    picture: Path,
    fps: float,
    keep: Path | None,
    out: Path | None,
) -> None:
    """Soak deepir-run and print a log."""
    settings = Settings(
        minutes=minutes,
        warm_up=min(5.0, minutes / 4) if warm_up is None else warm_up,
        model=model,
        index=index,
        video=video,
        picture=picture,
        fps=fps,
    )
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        folder = keep or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        soaked = soak(settings, folder)
        found = list(checks(soaked))
    heading = (
        f"{machine_name()}; {minutes:g} minutes, memory counted after {settings.warm_up:g}; {model.name}, {video.name} "
        f"as RTSP at {fps:g} frames a second; the machine's load was {load:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    text = write_report(soaked, found, heading)
    click.echo(text)
    if out is not None:
        write_text(out, text)
    sys.exit(0 if all(one.met for one in found) else 1)


if __name__ == "__main__":
    main()
