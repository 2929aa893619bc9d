"""What benchmarks/pipeline.py compares deepir-run with: the model alone, on frames that lie decoded and prepared."""

import itertools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.card import OUTPUT_NAME
from deepir.image import Image
from deepir.optional import need
from deepir.runtime.extractor import Extractor
from deepir.runtime.frame import Frame
from deepir.runtime.ort import DISABLED_OPTIMIZERS
from deepir.runtime.recogniser import Recogniser, described
from deepir.runtime.result import Result
from deepir.runtime.source import open_source

WARM_UPS = 3
ONLY_FATAL = 4
SETTLE = 0.3

Arrays = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Alone:
    """Milliseconds of each run, and the program that ran."""

    name: str
    milliseconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step costs on its own, in milliseconds a frame: by the clock, and of all threads' CPU time."""

    name: str
    wall: float
    cpu: float


def engine(model: Path, clip: Path, count: int) -> Alone:
    """The program that deepir-run would choose, called in a loop."""
    with Extractor.open(model) as extractor:
        prepared = _prepared(extractor, clip, count)
        return Alone(extractor.backend.name, _timed(lambda arrays: extractor.backend.run(*arrays), prepared))


def onnx_runtime(model: Path, clip: Path, count: int) -> Alone:
    """A session of ONNX Runtime on the CPU and nothing else, called in a loop."""
    runtime = need("onnxruntime")
    with Extractor.open(model) as extractor:
        prepared, names = _prepared(extractor, clip, count), extractor.card.inputs()
    options = runtime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    session: Any = runtime.InferenceSession(
        str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )
    feeds = [dict(zip(names, arrays, strict=True)) for arrays in prepared]
    return Alone(f"onnxruntime {runtime.__version__}", _timed(lambda arrays: session.run([OUTPUT_NAME], arrays), feeds))


def stages(model: Path, index: Path, clip: Path, count: int) -> list[Stage]:
    """What every step of a frame costs while nothing else runs: each step for all frames, then the next one."""
    with Recogniser.open(index, model) as recogniser, open_source(clip) as source:
        extractor, found = recogniser.extractor, []

        def step(name: str, work: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
            wall, cpu = time.perf_counter(), time.process_time()
            made = [work(thing) for thing in things]
            each = 1000 / max(len(made), 1)
            found.append(Stage(name, each * (time.perf_counter() - wall), each * (time.process_time() - cpu)))
            # threads of the model spin for a while when it has nothing to do
            time.sleep(SETTLE)
            return made

        frames = step("decode", lambda frame: frame, itertools.islice(source, count))
        prepared = step("prepare", lambda frame: extractor.prepare([frame.image]), frames)
        for groups in prepared[:WARM_UPS]:
            extractor.run(groups, 1)
        rows = step("model", lambda groups: extractor.run(groups, 1)[0], prepared)
        queries = [described(row_1d, {}) for row_1d in rows]
        recogniser.answer(queries[0])
        answers = step("search and judge", recogniser.answer, queries)
        results = [
            Result(frame, answer, 0.0, recogniser.index, query.query_1d)
            for frame, answer, query in zip(frames, answers, queries, strict=True)
        ]
        step("record and JSON", lambda result: json.dumps(result.record()), results)
    return found


def _prepared(extractor: Extractor, clip: Path, count: int) -> list[Arrays]:
    with open_source(clip) as source:
        frames: list[Frame] = list(itertools.islice(source, count))
    return [_arrays(extractor, frame.image) for frame in frames]


def _arrays(extractor: Extractor, image: Image) -> Arrays:
    (group,) = extractor.prepare([image])
    return group.arrays


def _timed(run: Callable[[Any], object], inputs: list[Any]) -> tuple[float, ...]:
    for given in inputs[:WARM_UPS]:
        run(given)
    times = []
    for given in inputs:
        started = time.perf_counter()
        run(given)
        times.append(1000 * (time.perf_counter() - started))
    return tuple(times)
