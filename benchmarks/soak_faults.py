"""What goes wrong in benchmarks/soak.py, each fault with what it waits for afterwards."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from soak_parts import Address, CameraProgram
from soak_watch import Watched

SHORTEST, LONGEST = 3.0, 20.0
STALL = 15.0
"""Longer than a read may take."""

AWAY = 20.0
PATIENCE = 90.0
"""Two of the longest delays between tries, and then some."""


@dataclass(slots=True)
class Note:
    """What happened in one fault.

    Attributes:
        at: Seconds since 1970.
        fault: In words.
        told: What came of it.
        well: Whether that is what is wanted.
        outage: Of the camera: when the server was away and when it was back.
        recovered: Seconds from then to the first frame.
    """

    at: float
    fault: str
    told: str = ""
    well: bool = True
    outage: tuple[float, float] | None = None
    recovered: float | None = None


@dataclass(slots=True)
class Scene:
    """Everything that can be broken."""

    camera: CameraProgram
    address: Address
    run: Watched
    index: Path
    model: Path
    picture: Path
    notes: list[Note] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 the same each time


def kill_camera(scene: Scene) -> Note:
    seconds = scene.chance.uniform(SHORTEST, LONGEST)
    return _outage(scene, f"RTSP server killed for {seconds:.0f} s", seconds, scene.camera.kill, scene.camera.start)


def stall_camera(scene: Scene) -> Note:
    return _outage(scene, f"RTSP server stalls for {STALL:.0f} s", STALL, scene.camera.stall, scene.camera.go_on)


def lose_packets(scene: Scene) -> Note:
    note = Note(time.time(), "a third of the RTP packets lost for 2 s")
    scene.camera.spoil()
    before = len(scene.run.results)
    time.sleep(4)
    more = len(scene.run.results) - before
    note.told, note.well = f"{more} answers in the 4 s from then on", more > 0
    return note


def lose_address(scene: Scene) -> Note:
    note = Note(time.time(), f"web address away for {AWAY:.0f} s")
    scene.address.down()
    time.sleep(AWAY)
    scene.address.up()
    back, due = time.time(), len(scene.run.results)
    note.well = scene.run.wait_until(lambda: scene.address.count() >= due, PATIENCE)
    note.told = f"all {due} answers there {time.time() - back:.1f} s after it was back"
    return note


def add_label(scene: Scene) -> Note:
    words = ["add", str(scene.index), "soak", str(scene.picture), "--model", str(scene.model)]
    return _reload(scene, "deepir-index add", lambda: _index_command(words))


def remove_label(scene: Scene) -> Note:
    return _reload(scene, "deepir-index remove", lambda: _index_command(["remove", str(scene.index), "soak"]))


def replace_model(scene: Scene) -> Note:
    def replace() -> str:
        fresh = scene.model.with_suffix(".fresh")
        shutil.copyfile(scene.model, fresh)
        os.replace(fresh, scene.model)
        return ""

    return _reload(scene, "model file replaced by itself", replace)


def hang_up(scene: Scene) -> Note:
    def send() -> str:
        scene.run.process.send_signal(signal.SIGHUP)
        return ""

    return _reload(scene, "SIGHUP", send)


FAULTS: tuple[Callable[[Scene], Note], ...] = (
    add_label, kill_camera, lose_packets, lose_address, replace_model, stall_camera, remove_label, hang_up,
)  # fmt: skip


def _outage(scene: Scene, fault: str, seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> Note:
    note = Note(time.time(), fault)
    begin()
    lost = scene.run.await_event("lost", note.at, max(seconds, 2 * STALL))
    time.sleep(max(0.0, note.at + seconds - time.time()))
    # taken before: the first frame may come at once
    back = time.time()
    end()
    live = scene.run.await_event("live", back, PATIENCE)
    note.outage = (note.at, back)
    note.recovered = None if live is None else live - back
    note.well = lost is not None and live is not None
    noticed = "not noticed" if lost is None else f"lost after {lost - note.at:.1f} s"
    note.told = f"{noticed}, {'not live again' if live is None else f'live {live - back:.1f} s after it was back'}"
    return note


def _reload(scene: Scene, fault: str, change: Callable[[], str]) -> Note:
    note, before = Note(time.time(), fault), scene.run.reloads
    trouble = change()
    note.well = scene.run.wait_until(lambda: scene.run.reloads > before, PATIENCE) and not trouble
    note.told = trouble or f"read again {time.time() - note.at:.1f} s after the command began"
    return note


def _index_command(words: list[str]) -> str:
    """Run deepir-index; what it said when that failed."""
    command = [str(Path(sys.executable).with_name("deepir-index")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 our own program
    return "" if done.returncode == 0 else done.stderr.strip()[-200:]
