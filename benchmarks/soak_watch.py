"""deepir-run as a process that is watched: its lines as they come, and once a second its memory and health."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECOND = 1.0
LOOK = 0.05
FAREWELL = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment: MiB of resident memory, threads, open files, seconds since its health file."""

    at: float
    memory: float
    threads: int
    files: int
    health_age: float


@dataclass(frozen=True, slots=True)
class Line:
    """What it printed, and when that arrived, in seconds since 1970."""

    at: float
    record: dict[str, Any]


class Watched:
    """Runs until `stop`; times are in seconds since 1970."""

    def __init__(self, words: Sequence[str], health: Path, said: Path) -> None:
        self.results: list[Line] = []
        self.events: list[Line] = []
        self.samples: list[Sample] = []
        self._health = health
        self._said = said
        self._over = threading.Event()
        self._stderr = said.open("w")
        self.began = time.time()
        # where it crashes is on stderr then
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(  # noqa: S603 our own program
            list(words), stdout=subprocess.PIPE, stderr=self._stderr, env=environment
        )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._sample)]
        for thread in self._threads:
            thread.start()

    def await_event(self, status: str, since: float, seconds: float) -> float | None:
        """When the camera was said to be lost or live after a moment; None when it was not in time."""
        found: list[float] = []

        def happened() -> bool:
            found.extend(one.at for one in list(self.events) if one.at >= since and one.record["status"] == status)
            return bool(found)

        return found[0] if self.wait_until(happened, seconds) else None

    def wait_until(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Look again and again; False when it did not happen in time, or the process ended."""
        until = time.time() + seconds
        while not happened():
            if time.time() > until or self.process.poll() is not None:
                return happened()
            time.sleep(LOOK)
        return True

    @property
    def said(self) -> str:
        """Everything on stderr so far."""
        return self._said.read_text(errors="replace")

    @property
    def reloads(self) -> int:
        """How often it said that it had read its index again."""
        return self.said.count("read again:")

    def health(self) -> dict[str, Any]:
        """Its newest health report; empty before the first."""
        try:
            report: dict[str, Any] = json.loads(self._health.read_text())
        except (OSError, ValueError):
            return {}
        return report

    def stop(self) -> tuple[int | None, float]:
        """SIGTERM; gives the exit code, None when it did not end, and the seconds that took."""
        asked = time.time()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._over.set()
        try:
            code = self.process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            code = None
            self.process.kill()
        seconds = time.time() - asked
        for thread in self._threads:
            thread.join(FAREWELL)
        self._stderr.close()
        return code, seconds

    def _read(self) -> None:
        for line in self.process.stdout or ():
            record = json.loads(line)
            (self.events if "event" in record else self.results).append(Line(time.time(), record))

    def _sample(self) -> None:
        process = Path("/proc") / str(self.process.pid)
        while not self._over.wait(SECOND):
            try:
                facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
                files = len(os.listdir(process / "fd"))
                memory, threads = int(facts["VmRSS"].split()[0]) / 1024, int(facts["Threads"])
            except (OSError, KeyError):
                return
            now = time.time()
            age = now - float(self.health().get("written", now))
            self.samples.append(Sample(now, memory, threads, files, age))
