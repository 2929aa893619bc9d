"""deepir-run as it is used, against its model alone; how soon it answers, and what it needs; Markdown tables.

    python benchmarks/pipeline.py --model student.int8.onnx --index shop.usearch --videos CLIPS --out table.md

Throughput: deepir-run reads, decodes, prepares, describes, searches and prints; the model alone is called in a loop on
frames that lie decoded and prepared in memory, once as deepir-run calls it and once as a bare session of ONNX Runtime.
The three take turns, each time in a new process, every second round backwards; figures are medians over the rounds,
and a ratio is the median of the rounds' ratios. Every answer counts as a match (--threshold -1 --margin 0). Files are
in the system's cache. DEEPIR_BACKEND=onnxruntime lets all of them run in ONNX Runtime. Give the machine nothing else
to do.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from export_turns import call_apart
from pipeline_bare import Alone, Stage
from pipeline_run import Ran, deepir_run, run, seconds_of

from deepir.errors import InputError, reports_errors
from deepir.files import write_text
from deepir.runtime.cache import machine_name

SUFFIXES = {".mp4", ".webm", ".avi", ".mkv"}
GOAL_RATIO, GOAL_FIRST, GOAL_MEMORY = 0.95, 1.5, 300
SKIPPED = 20
"""Frames at the start that are not counted: caches, threads and clocks of the processor wake up."""

CAMERA = "test://640x480@30?frames={}"
STARTER = Path(__file__).with_name("pipeline_start.py")
IMPORTS = ("numpy", "deepir.runtime", "deepir.runtime.recogniser", "deepir.runtime.run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was asked for."""

    model: Path
    index: Path
    clips: tuple[Path, ...]
    frames: int
    rounds: int


@dataclass(slots=True)
class Turns:
    """What came of a clip in all rounds."""

    runs: list[Ran] = field(default_factory=list)
    engines: list[Alone] = field(default_factory=list)
    sessions: list[Alone] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(ran.rate(SKIPPED) for ran in self.runs)

    def ratio(self, alone: Sequence[Alone]) -> float:
        """Of deepir-run to something alone, round by round."""
        return statistics.median(ran.rate(SKIPPED) / rate_of(one) for ran, one in zip(self.runs, alone, strict=True))


@dataclass(frozen=True, slots=True)
class Report:
    """Lines for stdout and, when all is measured or not, for a file."""

    lines: list[str]
    path: Path | None

    def add(self, *lines: str) -> None:
        self.lines.extend(lines)
        click.echo("\n".join(lines))
        if self.path is not None:
            write_text(self.path, "\n".join(self.lines) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.add(f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}")
        self.add(*(f"| {' | '.join(row)} |" for row in rows), "")


def rate_of(alone: Alone) -> float:
    """Runs a second, after the first ones."""
    counted = alone.milliseconds[SKIPPED:]
    return 1000 * len(counted) / sum(counted)


def verdict(name: str, value: float, unit: str, goal: float, *, least: bool) -> str:
    """A line that says whether a goal is met."""
    met = value >= goal if least else value <= goal
    word, sign = ("met" if met else "missed"), ("at least" if least else "at most")
    return f"- {name}: {value:.3g}{unit}, the goal is {sign} {goal:g}{unit}: **{word}**."


def throughput(settings: Settings, report: Report) -> list[Ran]:
    """Frames a second against the model alone."""
    rows, verdicts, ran = [], [], []
    programs = ("", "")
    for clip in settings.clips:
        turns = take_turns(settings, clip)
        programs = turns.engines[0].name, turns.sessions[0].name
        engine, session = ([rate_of(one) for one in alone] for alone in (turns.engines, turns.sessions))
        slowest = statistics.median(np.percentile(one.milliseconds[SKIPPED:], 99) for one in turns.engines)
        rows.append(
            (
                clip.name,
                str(len(turns.runs[0].arrivals)),
                f"{turns.rate:.1f}",
                f"{statistics.median(engine):.1f}",
                f"{statistics.median(session):.1f}",
                f"{turns.ratio(turns.engines):.3f}",
                f"{turns.ratio(turns.sessions):.3f}",
                f"{statistics.median(one.between(SKIPPED) for one in turns.runs):.1f}",
                f"{slowest:.1f}",
                f"{statistics.median(one.age(99, SKIPPED) for one in turns.runs):.0f}",
            )
        )
        verdicts.append(
            verdict(f"{clip.name} against the model alone", turns.ratio(turns.engines), "", GOAL_RATIO, least=True)
        )
        ran += turns.runs
    report.add("## Frames a second", "", f"The model alone runs in {programs[0]}; the session is {programs[1]}.", "")
    report.table(
        (
            "clip", "frames", "deepir-run, 1/s", "model alone, 1/s", "bare session, 1/s", "times the model alone",
            "times the bare session", "p99 between answers, ms", "p99 of the model alone, ms", "p99 of age, ms",
        ),
        rows,
    )  # fmt: skip
    report.add(*verdicts, "")
    return ran


def take_turns(settings: Settings, clip: Path) -> Turns:
    """The three ways, round after round."""
    turns = Turns()
    model, frames = settings.model, settings.frames
    ways: list[Callable[[], None]] = [
        lambda: turns.engines.append(call_apart("pipeline_bare:engine", model, clip, frames)),
        lambda: turns.runs.append(run(str(clip), settings.index, model, frames)),
        lambda: turns.sessions.append(call_apart("pipeline_bare:onnx_runtime", model, clip, frames)),
    ]
    for number in range(settings.rounds):
        click.echo(f"{clip.name}: round {number + 1} of {settings.rounds}", err=True)
        for way in ways if number % 2 == 0 else reversed(ways):
            way()
    return turns


def camera(settings: Settings, report: Report) -> None:
    """How old answers are when frames come at their own pace."""
    frames = min(settings.frames, 300)
    runs = [run(CAMERA.format(frames), settings.index, settings.model, frames) for _ in range(settings.rounds)]
    report.add(f"## A camera of 30 frames a second ({CAMERA.format(frames)})", "")
    report.table(
        ("answers", "answers, 1/s", "p50 of age, ms", "p99 of age, ms"),
        [
            (
                str(len(runs[0].arrivals)),
                f"{statistics.median(one.rate(SKIPPED) for one in runs):.1f}",
                f"{statistics.median(one.age(50, SKIPPED) for one in runs):.1f}",
                f"{statistics.median(one.age(99, SKIPPED) for one in runs):.1f}",
            )
        ],
    )


def costs(settings: Settings, report: Report) -> None:
    """Each step alone, so that one sees what competes with the model for the processor."""
    columns: list[str] = []
    rows = []
    for clip in settings.clips:
        steps: list[Stage] = call_apart(
            "pipeline_bare:stages", settings.model, settings.index, clip, min(settings.frames, 200)
        )
        columns = [step.name for step in steps]
        cpu = sum(step.cpu for step in steps)
        model = next(step.wall for step in steps if step.name == "model")
        cells = [f"{step.wall:.2f} ({step.cpu:.2f})" for step in steps]
        rows.append((clip.name, *cells, f"{cpu:.2f}", f"{model * (os.cpu_count() or 1) / cpu:.2f}"))
    report.add("## What a frame costs, step by step and alone: ms (ms of CPU time)", "")
    report.table(("clip", *columns, "CPU time, ms", "bound of the ratio"), rows)
    report.add(
        f"The bound is what perfect overlap could reach on {os.cpu_count()} cores: the time of the model alone, "
        "divided by all CPU time shared evenly among the cores.",
        "",
    )


def start(settings: Settings, report: Report) -> None:
    """From the start of the process to the first match, and where that goes."""
    clip = str(settings.clips[0])
    steps: list[dict[str, float]] = []
    firsts = []
    for _ in range(max(5, settings.rounds)):
        firsts.append(run(clip, settings.index, settings.model, 5).first)
        words = [sys.executable, str(STARTER), str(time.time()), clip, str(settings.index), str(settings.model)]
        steps.append(json.loads(subprocess.run(words, capture_output=True, check=True).stdout))  # noqa: S603 our own program
    report.add(f"## From the start to the first match ({Path(clip).name})", "")
    rows = [("**deepir-run, to its first line**", *spread(1000 * np.array(firsts)))]
    rows += [(f"{name}, on its own", *spread(np.array([one[name] for one in steps]))) for name in steps[0]]
    report.table(("step", "median, ms", "fastest", "slowest"), rows)
    report.add(verdict("first match", statistics.median(firsts), " s", GOAL_FIRST, least=False), "")


def imports(settings: Settings, report: Report) -> None:
    """What importing costs, beyond starting Python."""
    ways: dict[str, list[str]] = {"python -c pass": [sys.executable, "-c", "pass"]}
    ways |= {f"import {name}": [sys.executable, "-c", f"import {name}"] for name in IMPORTS}
    ways["deepir-run --help"] = [deepir_run(), "--help"]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(7, settings.rounds)):
        for name, words in ways.items():
            times[name].append(1000 * seconds_of(words))
    bare = statistics.median(times["python -c pass"])
    report.add("## Import time", "")
    rows = [(name, *spread(np.array(found)), f"{statistics.median(found) - bare:.0f}") for name, found in times.items()]
    report.table(("process", "median, ms", "fastest", "slowest", "beyond Python itself, ms"), rows)


def memory(ran: Sequence[Ran], report: Report) -> None:
    """Resident memory over all runs on clips."""
    steady, peak = max(one.memory.steady for one in ran), max(one.memory.peak for one in ran)
    report.add(
        "## Resident memory", "", f"While it answers {steady:.0f} MiB, at most {peak:.0f} MiB (largest run).", ""
    )
    report.add(verdict("resident memory at most", peak * 1.048576, " MB", GOAL_MEMORY, least=False), "")


def spread(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[str, str, str]:
    return f"{np.median(values):.0f}", f"{values.min():.0f}", f"{values.max():.0f}"


def clips_of(folder: Path) -> tuple[Path, ...]:
    """The clips of a folder.

    Raises:
        InputError: None is there.
    """
    found = tuple(sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES))
    if not found:
        message = f"no videos in {folder}: expected {', '.join(sorted(SUFFIXES))}"
        raise InputError(message)
    return found


@click.command(context_settings={"show_default": True})
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True, help="An INT8 .onnx file.")
@click.option("--index", type=click.Path(path_type=Path, exists=True), required=True, help="Of this model.")
@click.option("--videos", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of clips.")
@click.option("--frames", type=click.IntRange(2 * SKIPPED), default=600, help="Of each clip, at most.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Turns of each way.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the tables to this file, too.")
@reports_errors
def main(*, model: Path, index: Path, videos: Path, frames: int, rounds: int, out: Path | None) -> None:
    """Time deepir-run and its model, and print tables."""
    settings = Settings(model=model, index=index, clips=clips_of(videos), frames=frames, rounds=rounds)
    report = Report([], out)
    load = os.getloadavg()[0]
    report.add(f"{machine_name()}; {model.name}; {rounds} rounds of up to {frames} frames", "")
    ran = throughput(settings, report)
    camera(settings, report)
    costs(settings, report)
    start(settings, report)
    imports(settings, report)
    memory(ran, report)
    report.add(f"The machine's load was {load:.1f} before, {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    main()
