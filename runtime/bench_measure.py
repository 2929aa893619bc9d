"""One program measured with one model: how fast each stage is, and the descriptors of some pictures.

The process is this module: python -m deepir.runtime.bench_measure '{"model": ...}'
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deepir.errors import InputError, OptionError
from deepir.image import Image
from deepir.inputs import model_inputs
from deepir.runtime.backend import Backend, BackendName, BackendOptions, Device, open_backend
from deepir.runtime.child import ask_child, tell
from deepir.runtime.index import Index
from deepir.runtime.self_check import PROOF_PICTURES, Arrays, made_up_pictures
from deepir.runtime.source import open_source
from deepir.spec import ModelSpec

COMPARED = 64
"""The first pictures of a source, at most, whose descriptors are compared with the reference's."""

TOTAL = "total"
"""The stage that is all of them, one after the other."""

PERCENTILES = ("p50", "p90", "p99")

FEWEST = 10
"""So often at least everything is measured, however short the time."""

_IN_MEMORY = 8
_START_SECONDS = 1800.0
_CANDIDATES = 5
_STATUS = Path("/proc/self/status")
_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a child measures.

    Attributes:
        model, backend, device, threads: As in `BackendOptions`.
        source: A word for `open_source`; None for made-up pictures.
        index: The index to search; None for none.
        secs: For each of the two measurements; 0 only describes.
        descriptors: Where to write those of the first pictures, (N, D) as .npy.
        folder: What relative paths start from.
    """

    model: str
    backend: BackendName
    descriptors: str
    device: Device = "auto"
    threads: int = 0
    source: str | None = None
    index: str | None = None
    secs: float = 0.0
    folder: str = "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a child found.

    Attributes:
        program, why: What ran the model.
        fingerprint, numerics: Of the model.
        load_ms: From nothing to a model that can run, its library's import included.
        warm_up: Pictures described before anything was measured.
        pictures: How many went the whole way.
        stages: "read", "prepare", "describe", "search" and "total", those that there are; of each p50, p90 and p99 in
            milliseconds for a picture.
        rate: Pictures a second, all stages one after the other.
        engine_rate: Pictures a second of the model alone, on prepared pictures.
        peak_bytes: The most memory of the process; None where the system does not say.
    """

    program: str
    why: str
    fingerprint: str
    numerics: str
    load_ms: float
    warm_up: int
    pictures: int
    stages: dict[str, dict[str, float]]
    rate: float | None
    engine_rate: float | None
    peak_bytes: int | None


def measure(job: Job) -> Measured:
    """Measure in a process of its own.

    Raises:
        DeepIRError: What kept it from being measured.
    """
    return Measured(**ask_child(__name__, [json.dumps(asdict(job))], _START_SECONDS + 10 * job.secs))


def measure_here(job: Job) -> Measured:
    """Measure in this process.

    Raises:
        DeepIRError: What kept it from being measured.
    """
    options = BackendOptions(device=job.device, backend=job.backend, threads=job.threads, rebuild="never")
    started = time.perf_counter()
    opened = open_backend(Path(job.model), options)
    load_ms = 1000 * (time.perf_counter() - started)
    with opened.backend as backend:
        index = None if job.index is None else Index.open(job.index)
        if index is not None:
            index.check_model(backend.card)
        pictures = _first_pictures(job.source, backend.card.spec)
        np.save(job.descriptors, _warm_up(backend, pictures))
        rate, times = (None, {}) if not job.secs else _whole_way(job, backend, index, pictures)
        engine_rate = None if not job.secs else _engine_alone(job, backend, pictures)
        return Measured(
            program=backend.name,
            why=opened.why,
            fingerprint=backend.card.spec.fingerprint,
            numerics=backend.card.numerics.value,
            load_ms=load_ms,
            warm_up=max(len(pictures), FEWEST),
            pictures=len(times.get(TOTAL, ())),
            stages={stage: _percentiles(milliseconds) for stage, milliseconds in times.items()},
            rate=rate,
            engine_rate=engine_rate,
            peak_bytes=_peak_bytes(),
        )


def _first_pictures(source: str | None, spec: ModelSpec) -> list[Image]:
    if source is None:
        return made_up_pictures(spec, PROOF_PICTURES)
    pictures = list(islice(_once(source), COMPARED))
    if not pictures:
        message = f"{source} gives no picture: name a video, a picture or a folder of pictures"
        raise InputError(message)
    return pictures


def _once(source: str) -> Iterator[Image]:
    with open_source(source) as opened:
        if opened.live:
            message = (
                f"--source {opened.name} gives other pictures to each program: record it first with "
                "deepir-calib record, and give the folder"
            )
            raise OptionError(message)
        for frame in opened:
            yield frame.image


def _again_and_again(source: str | None, pictures: Sequence[Image]) -> Iterator[Image]:
    while True:
        yield from pictures if source is None else _once(source)


def _warm_up(backend: Backend, pictures: Sequence[Image]) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = [backend.run(*_arrays(backend, picture))[0] for picture in pictures]
    for _ in range(len(pictures), FEWEST):
        backend.run(*_arrays(backend, pictures[0]))
    return np.stack(rows)


def _whole_way(
    job: Job, backend: Backend, index: Index | None, pictures: Sequence[Image]
) -> tuple[float, dict[str, list[float]]]:
    """Pictures a second with everything, and the milliseconds of each stage."""
    names = [*(["read"] if job.source else []), "prepare", "describe", *([] if index is None else ["search"])]
    stages: dict[str, list[float]] = {name: [] for name in (*names, TOTAL)}
    images = _again_and_again(job.source, pictures)
    count, began = 0, time.perf_counter()
    while count < FEWEST or time.perf_counter() - began < job.secs:
        moments = [time.perf_counter()]
        image = next(images)
        if job.source:
            moments.append(time.perf_counter())
        arrays = _arrays(backend, image)
        moments.append(time.perf_counter())
        query_1d = backend.run(*arrays)[0]
        moments.append(time.perf_counter())
        if index is not None:
            index.search_labels(query_1d, _CANDIDATES)
            moments.append(time.perf_counter())
        for name, seconds in zip(names, np.diff(moments).tolist(), strict=True):
            stages[name].append(1000 * seconds)
        stages[TOTAL].append(1000 * (moments[-1] - moments[0]))
        count += 1
    return count / (time.perf_counter() - began), stages


def _engine_alone(job: Job, backend: Backend, pictures: Sequence[Image]) -> float:
    prepared = [_arrays(backend, picture) for picture in pictures[:_IN_MEMORY]]
    count, began = 0, time.perf_counter()
    while count < FEWEST or time.perf_counter() - began < job.secs:
        backend.run(*prepared[count % len(prepared)])
        count += 1
    return count / (time.perf_counter() - began)


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    found = np.percentile(times, [float(name[1:]) for name in PERCENTILES])
    return {name: round(float(value), 4) for name, value in zip(PERCENTILES, found, strict=True)}


def _arrays(backend: Backend, image: Image) -> Arrays:
    return model_inputs([image], backend.card)[0].arrays


def _peak_bytes() -> int | None:
    # getrusage counts what the parent had when it made this process, so it is only asked where nobody else says
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    except OSError:
        peak = None
    return _KIB * (int(peak[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _measure_as_child(text: str) -> dict[str, Any]:
    job = Job(**json.loads(text))
    os.chdir(job.folder)
    return asdict(measure_here(job))


if __name__ == "__main__":
    tell(lambda: _measure_as_child(sys.argv[1]))
