"""deepir-run as a process: when each of its lines arrived, and how much memory it held."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE = 0.05
EVERYTHING_MATCHES = ("--threshold", "-1", "--margin", "0")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process in MiB: each sample, and the most the kernel saw."""

    samples: tuple[float, ...]
    peak: float

    @property
    def steady(self) -> float:
        """Median of the second half."""
        return float(np.median(self.samples[len(self.samples) // 2 :]))


@dataclass(frozen=True, slots=True)
class Ran:
    """One run.

    Attributes:
        first: Seconds from the start of the process to its first match.
        arrivals: Of each line, in seconds.
        ages: Milliseconds, as the lines say.
        memory: Of the process.
    """

    first: float
    arrivals: tuple[float, ...]
    ages: tuple[float, ...]
    memory: Memory

    def rate(self, skipped: int) -> float:
        """Lines a second, after the first ones."""
        return (len(self.arrivals) - skipped) / (self.arrivals[-1] - self.arrivals[skipped - 1])

    def between(self, skipped: int) -> float:
        """The 99th percentile of milliseconds between two lines, after the first ones."""
        return float(np.percentile(1000 * np.diff(self.arrivals[skipped:]), 99))

    def age(self, percent: float, skipped: int) -> float:
        """A percentile of the ages, after the first ones."""
        return float(np.percentile(self.ages[skipped:], percent))


def deepir_run() -> str:
    """The command of this Python's environment."""
    return str(Path(sys.executable).with_name("deepir-run"))


def run(source: str, index: Path, model: Path | None, frames: int) -> Ran:
    """Let it look at so many frames; every answer counts as a match.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    words = [deepir_run(), source, "--index", str(index), "--max-frames", str(frames), "--quiet", *EVERYTHING_MATCHES]
    words += [] if model is None else ["--model", str(model)]
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said) as process:  # noqa: S603 our own program
            watch = _MemoryWatch(process.pid)
            arrivals, lines = _read(process)
        if process.returncode != 0 or not lines:
            said.seek(0)
            message = f"{' '.join(words)} ended with {process.returncode}: {said.read()[-500:]}"
            raise RuntimeError(message)
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    first = next(at for at, record in zip(arrivals, records, strict=True) if record["status"] == "match")
    ages = tuple(record["age_ms"] for record in records)
    return Ran(first - began, tuple(arrivals), ages, watch.end())


def seconds_of(words: Sequence[str]) -> float:
    """How long a process takes from its start to its end.

    Raises:
        RuntimeError: It failed.
    """
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, check=False)  # noqa: S603 our own programs
    if done.returncode != 0:
        message = f"{' '.join(words)} ended with {done.returncode}: {done.stderr.decode()[-500:]}"
        raise RuntimeError(message)
    return time.perf_counter() - began


def _read(process: "subprocess.Popen[bytes]") -> tuple[list[float], list[bytes]]:
    arrivals, lines = [], []
    for line in process.stdout or ():
        arrivals.append(time.perf_counter())
        lines.append(line)
    return arrivals, lines


class _MemoryWatch:
    """Asks the kernel for the memory of a process until it is gone."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._samples: list[float] = []
        self._peak = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> Memory:
        self._over.set()
        self._thread.join()
        return Memory(tuple(self._samples), self._peak)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE):
            try:
                lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines() if ":" in line)
            except OSError:
                return
            if "VmRSS" not in lines:
                return
            self._samples.append(int(lines["VmRSS"].split()[0]) / 1024)
            self._peak = max(self._peak, int(lines["VmHWM"].split()[0]) / 1024)
