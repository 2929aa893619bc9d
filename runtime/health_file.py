"""A file that says once a second how a running loop is doing, and whether that is well: for containers and watchdogs.

    python -m deepir.runtime.health_file /run/deepir.json

ends with 0 while all is well, with 1 and a sentence when not: what Docker's HEALTHCHECK wants.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from deepir.errors import DeepIRError, InputError, reports_errors
from deepir.runtime.vitals import Vitals

_EVERY = 1.0
OLDEST = 10.0
"""Seconds after which a file that was not written again tells of a program that hangs."""

MOST_STUCK = 30.0
"""Seconds for the same pictures in the model after which it hangs: a driver gives no error, and the largest teachers on
the smallest boards need a third of that."""

_WELL = frozenset({"starting", "running"})
_STOPPED = "stopped"


class HealthFile:
    """Written by the loop itself, so that a loop that hangs makes the file old.

    Args:
        path: Replaced once a second.
        clock: For tests.

    Raises:
        InputError: The folder is missing or cannot be written; later troubles only make the file old.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next = -1.0
        try:
            self._write({"status": "starting", "pid": os.getpid(), "written": time.time()})
        except OSError as error:
            message = f"cannot write {path}: {error.strerror}"
            raise InputError(message) from error

    def beat(self, vitals: Vitals) -> None:
        """Write the file if it is time for it."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY
            self._tell(vitals, status_of(vitals.report()))

    def end(self, vitals: Vitals) -> None:
        """Say that the program ended on purpose."""
        self._tell(vitals, _STOPPED)

    def _tell(self, vitals: Vitals, status: str) -> None:
        # a full disk must not end the loop, and whoever watches sees an old file
        with contextlib.suppress(OSError):
            self._write({"status": status, "written": time.time(), **vitals.report()})

    def _write(self, facts: dict[str, Any]) -> None:
        # not flushed to the disk: after a loss of power nobody asks how the program was
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def status_of(report: dict[str, Any]) -> str:
    """In one word: `hanging` when the loop has not gone round for ten seconds, or the model has had the same pictures
    for thirty; `starting` before the first answer, `waiting` while a camera gives no frames, else `running`.
    """
    if report["loop_s"] > OLDEST or report["stuck_s"] > MOST_STUCK:
        return "hanging"
    if report["source"].get("status", "live") not in {"live", "ended"}:
        return "waiting" if report["results"] or report["source"]["outages"] else "starting"
    return "running" if report["results"] else "starting"


def check_health(path: Path, oldest: float = OLDEST) -> str:
    """The status in a health file that is well.

    Raises:
        InputError: No such file, or no health file.
        DeepIRError: It is too old, or the status is not one that is well.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        status, written = str(facts["status"]), float(facts["written"])
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}: is deepir-run started with --health-file {path}?"
        raise InputError(message) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is not a health file of deepir-run"
        raise InputError(message) from error
    # who was stopped writes no more, and that is no sign of trouble
    age = 0.0 if status == _STOPPED else time.time() - written
    if age < -oldest:
        # a clock that was set back: who is well writes again within a second
        message = f"{path} was written {-age:.0f} seconds in the future and not again: the program hangs or was killed"
        raise DeepIRError(message)
    if age > oldest:
        message = f"{path} was written {age:.0f} seconds ago: the program hangs or was killed"
        raise DeepIRError(message)
    if status not in _WELL:
        trouble = (facts.get("source") or {}).get("trouble")
        message = f"deepir-run is {status}{'' if not trouble else ': ' + str(trouble['sentence'])}"
        raise DeepIRError(message)
    return status


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--older-than", type=float, default=OLDEST, show_default=True, help="Seconds that are too many.")
@reports_errors
def main(path: Path, older_than: float) -> None:
    """Say whether the deepir-run that writes this health file is well."""
    click.echo(check_health(path, older_than))


if __name__ == "__main__":
    main()
