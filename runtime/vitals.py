"""How a running loop is doing: counts, rates, latencies, camera, memory; told by the loop, asked from any thread."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deepir import __version__
from deepir.runtime.camera import Camera
from deepir.runtime.frame import Source
from deepir.runtime.recogniser import Recogniser
from deepir.runtime.result import Result
from deepir.runtime.sink import Sink

_KEPT = 512
"""Answers whose latencies are kept: enough for a 99th percentile, and half a minute of a slow camera."""

_WINDOW = 10.0
"""Seconds over which the rate is counted."""

STATUSES = ("match", "ambiguous", "unknown")


class Vitals:
    """Counts what the loop did and keeps the newest answer.

    Args:
        recogniser: That answers.
        source: That is watched.
        sinks: Where answers go.
        clock: Seconds that never jump; for tests.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        source: Source,
        sinks: Sequence[Sink] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recogniser = recogniser
        self.source = source
        self.sinks = tuple(sinks)
        self._clock = clock
        self._began = clock()
        self._started = time.time()
        self._beaten = self._began
        self._stuck = 0.0
        self._changed = threading.Lock()
        self._counts = dict.fromkeys(STATUSES, 0)
        self._results = 0
        self._frames = 0
        self._latest: tuple[Result, ...] = ()
        self._answered: deque[float] = deque(maxlen=_KEPT)
        self._ages: deque[float] = deque(maxlen=_KEPT)
        self._stages: dict[str, deque[float]] = {}

    def beat(self, stuck: float = 0.0) -> None:
        """The loop goes round, with or without an answer.

        Args:
            stuck: Seconds for which the same pictures have been prepared or in the model.
        """
        self._beaten = self._clock()
        self._stuck = stuck

    def note(self, result: Result) -> None:
        """Take one more answer into account."""
        with self._changed:
            self._counts[result.shown.status] += 1
            self._results += 1
            same = bool(self._latest) and self._latest[0].frame is result.frame
            self._frames += not same
            self._latest = (*self._latest, result) if same else (result,)
            self._answered.append(self._clock())
            self._ages.append(1000 * result.age)
            for stage, milliseconds in result.recognition.milliseconds.items():
                self._stages.setdefault(stage, deque(maxlen=_KEPT)).append(milliseconds)

    @property
    def results(self) -> int:
        """Answers so far: one for each picture or box that was looked at."""
        return self._results

    @property
    def frames(self) -> int:
        """Frames so far that had an answer."""
        return self._frames

    @property
    def counts(self) -> dict[str, int]:
        """Answers by what was shown: match, ambiguous, unknown."""
        with self._changed:
            return dict(self._counts)

    @property
    def latest(self) -> Result | None:
        """The newest answer; None before the first."""
        return self._latest[-1] if self._latest else None

    @property
    def latest_of_frame(self) -> tuple[Result, ...]:
        """The answers to the newest frame, one for each box that was looked at so far."""
        return self._latest

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._began

    @property
    def rate(self) -> float:
        """Answers per second in the last ten seconds; 0 when there were none."""
        now = self._clock()
        with self._changed:
            recent = [moment for moment in self._answered if moment > now - _WINDOW]
            full = len(recent) == self._answered.maxlen
        since = recent[0] if full else max(self._began, now - _WINDOW)
        return len(recent) / max(now - since, 1e-9)

    def report(self) -> dict[str, Any]:
        """All of it as one JSON object; see docs/running.md."""
        with self._changed:
            ages = list(self._ages)
            stages = {stage: list(values) for stage, values in self._stages.items()}
            latest, results, counts = self.latest, self._results, dict(self._counts)
        index, extractor = self.recogniser.index, self.recogniser.extractor
        source = source_report(self.source)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": round(self._started, 3),
            "uptime_s": round(self.seconds, 1),
            "loop_s": round(self._clock() - self._beaten, 1),
            "stuck_s": round(self._stuck, 1),
            "frames": self._frames,
            "results": results,
            **counts,
            "rate": round(self.rate, 2),
            "age_ms": _percentiles(ages),
            "ms": {stage: _percentiles(values) for stage, values in stages.items()},
            "last": None if latest is None else latest.record(),
            "source": source,
            "sinks": {sink.name: asdict(sink.state) for sink in self.sinks},
            "index": {
                "items": len(index),
                "labels": len(index.labels),
                "threshold": self.recogniser.threshold,
                "margin": self.recogniser.judgement.margin_of(index),
            },
            "model": {
                "backbone": extractor.card.spec.backbone,
                "numerics": extractor.card.numerics.value,
                "fingerprint": extractor.card.spec.fingerprint,
                "backend": extractor.backend.name,
            },
            "memory_bytes": resident_bytes(),
        }


def source_report(source: Source) -> dict[str, Any]:
    """A source and, where it is a camera, its state, as a JSON object."""
    facts: dict[str, Any] = {
        "name": source.name,
        "live": source.live,
        "size": source.size,
        "fps": source.fps,
    }
    if not isinstance(source, Camera):
        return facts
    state = source.state
    trouble = None if state.trouble is None else {"kind": state.trouble.kind, "sentence": state.trouble.sentence}
    return {
        **facts,
        "status": state.status,
        "status_s": round(max(0.0, time.monotonic() - state.since), 1),
        "trouble": trouble,
        "frames": state.frames,
        "dropped": state.dropped,
        "outages": state.outages,
    }


def resident_bytes() -> int | None:
    """Memory of this process that lies in RAM; None where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _percentiles(values: Sequence[float]) -> Mapping[str, float] | None:
    if not values:
        return None
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}
