"""What a soak has shown, as checks with goals and a log in Markdown."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from soak_faults import Note
from soak_parts import Visitor
from soak_watch import Line, Sample, Watched

MIB = 1024 * 1024 / 1e6
GOAL_GROWTH = 5.0
GOAL_AGE, SLACK_AGE = 1.25, 5.0
"""The last third's 99th percentile may be so many times the first's, and so many milliseconds more."""

GOAL_SILENCE = 5.0
GOAL_RECOVERY = 35.0
"""The longest delay between tries is 30 seconds."""

GOAL_FAREWELL = 10.0
NOTICED = 12.0
"""Seconds until a stalled camera counts as lost: frames that were on their way may still come."""

ORDER = ("frame", "seen_at")


@dataclass(frozen=True, slots=True)
class Check:
    """A fact and whether it is as it should be."""

    name: str
    found: str
    goal: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Soaked:
    """Everything that was seen."""

    run: Watched
    notes: Sequence[Note]
    posted: Sequence[dict[str, Any]]
    visitor: Visitor | None
    inbox: Path | None
    inbox_mb: float
    warm_up: float
    exit_code: int | None
    farewell: float


def checks(soaked: Soaked) -> Iterator[Check]:
    """One after the other."""
    run, notes = soaked.run, soaked.notes
    yield Check(
        "exit after SIGTERM",
        f"code {soaked.exit_code} after {soaked.farewell:.1f} s",
        f"0 within {GOAL_FAREWELL:g} s",
        soaked.exit_code == 0 and soaked.farewell <= GOAL_FAREWELL,
    )
    warm = [one for one in run.samples if one.at >= run.began + soaked.warm_up]
    yield from _of_process(warm)
    yield _lost_results([one.record for one in run.results], soaked.posted)
    numbers = [one.record["frame"] for one in run.results]
    wrong = sum(after <= before for before, after in itertools.pairwise(numbers))
    yield Check("frame numbers", f"{wrong} not above the one before", "0", wrong == 0)
    invented = sum(_invented(one.record, note) for note in notes for one in run.results)
    yield Check("answers on frames from outages", str(invented), "0", invented == 0)
    yield from _of_outages(run.events, notes)
    yield _ages(run.results)
    silence = max((one.health_age for one in run.samples), default=np.inf)
    yield Check("oldest health file", f"{silence:.1f} s", f"under {GOAL_SILENCE:g} s", silence < GOAL_SILENCE)
    bad = [f"{note.fault}: {note.told}" for note in notes if not note.well]
    yield Check("faults that were not got over", "; ".join(bad) or "0", "0", not bad)
    final = run.health().get("results")
    yield Check("answers in the last health file", str(final), str(len(run.results)), final == len(run.results))
    if soaked.visitor is not None:
        failures = soaked.visitor.failures
        found = f"{soaked.visitor.answered} answered, {len(failures)} failed" + (f": {failures[0]}" if failures else "")
        yield Check("live page", found, "0 failed", not failures and soaked.visitor.answered > 0)
    if soaked.inbox is not None:
        files = [path.stat().st_size for path in soaked.inbox.rglob("*") if path.is_file()]
        size = sum(files) / 1e6
        yield Check(
            "inbox", f"{len(files)} files, {size:.1f} MB", f"<= {soaked.inbox_mb:g} MB", size <= soaked.inbox_mb
        )


def write_report(soaked: Soaked, found: Sequence[Check], heading: str) -> str:
    """The log."""
    run = soaked.run
    minutes = (run.samples[-1].at - run.began) / 60 if run.samples else 0.0
    lines = [heading, "", f"{len(run.results)} answers in {minutes:.1f} minutes.", "", "| check | found | goal | |"]
    lines.append("| --- | --- | --- | --- |")
    lines += [f"| {one.name} | {one.found} | {one.goal} | {'met' if one.met else '**missed**'} |" for one in found]
    lines += ["", "| at | fault | what came of it |", "| ---: | --- | --- |"]
    for note in soaked.notes:
        lines.append(f"| {_clock(note.at - run.began)} | {note.fault} | {note.told}{'' if note.well else ' **!**'} |")
    lines += ["", "| minute | memory, MiB | threads | open files | answers | p50 of age, ms | p99 of age, ms |"]
    lines.append("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    lines += [_minute(run, minute) for minute in range(int(minutes) + 1)]
    return "\n".join(line for line in lines if line is not None) + "\n"


def _of_process(warm: Sequence[Sample]) -> Iterator[Check]:
    if len(warm) < 10:
        yield Check("memory", "too short to say", f"under {GOAL_GROWTH:g} MB more", met=False)
        return
    at = np.array([one.at for one in warm])
    memory = MIB * np.array([one.memory for one in warm])
    slope = float(np.polyfit(at - at[0], memory, 1)[0])
    fitted = slope * (at[-1] - at[0])
    fifth = max(1, len(warm) // 5)
    grown = float(np.median(memory[-fifth:]) - np.median(memory[:fifth]))
    yield Check(
        "memory after warm-up",
        f"{np.median(memory[:fifth]):.1f} MB, {grown:+.1f} MB from first fifth to last, fitted line {fitted:+.1f} MB",
        f"under +{GOAL_GROWTH:g} MB",
        max(grown, fitted) < GOAL_GROWTH,
    )
    for name, values in (
        ("threads", [one.threads for one in warm]),
        ("open files", [one.files for one in warm]),
    ):
        first, last = np.median(values[:fifth]), np.median(values[-fifth:])
        yield Check(
            name, f"{first:g} in the first fifth, {last:g} in the last", "no more than 2 more", last <= first + 2
        )


def _lost_results(printed: Sequence[dict[str, Any]], posted: Sequence[dict[str, Any]]) -> Check:
    """Each printed answer is posted once, the same, in order."""
    ours, theirs = ([tuple(one[key] for key in ORDER) for one in side] for side in (printed, posted))
    missing, more = len(set(ours) - set(theirs)), len(theirs) - len(set(theirs))
    same = list(printed) == list(posted)
    found = f"{len(posted)} of {len(printed)} posted, {missing} missing, {more} twice"
    return Check(
        "lost results", f"{found}, {'all the same and in order' if same else 'not the same'}", "0 missing", same
    )


def _invented(record: dict[str, Any], note: Note) -> bool:
    if note.outage is None:
        return False
    away, back = note.outage
    return min(away + NOTICED, back) < record["seen_at"] < back


def _of_outages(events: Sequence[Line], notes: Sequence[Note]) -> Iterator[Check]:
    injected = [note for note in notes if note.outage is not None]
    lost = sum(one.record["status"] == "lost" for one in events)
    live = sum(one.record["status"] == "live" for one in events)
    yield Check(
        "outages", f"{lost} lost, {live} live again", f"{len(injected)} injected", lost == live == len(injected)
    )
    times = [note.recovered for note in injected if note.recovered is not None]
    slowest = max(times, default=np.inf)
    yield Check(
        "slowest recovery after the camera was back",
        f"{slowest:.1f} s (median {np.median(times) if times else np.inf:.1f} s)",
        f"under {GOAL_RECOVERY:g} s",
        len(times) == len(injected) and slowest < GOAL_RECOVERY,
    )


def _ages(results: Sequence[Line]) -> Check:
    ages = np.array([one.record["age_ms"] for one in results])
    if len(ages) < 30:
        return Check("p99 of age", "too few answers", "stable", met=False)
    thirds = [float(np.percentile(part, 99)) for part in np.array_split(ages, 3)]
    met = thirds[-1] <= max(GOAL_AGE * thirds[0], thirds[0] + SLACK_AGE)
    found = ", ".join(f"{one:.1f}" for one in thirds) + f" ms in the thirds; p50 {np.median(ages):.1f} ms"
    return Check("p99 of age", found, f"last <= {GOAL_AGE:g} x first or {SLACK_AGE:g} ms more", met)


def _minute(run: Watched, minute: int) -> str:
    begin = run.began + 60 * minute
    samples = [one for one in run.samples if begin <= one.at < begin + 60]
    ages = [one.record["age_ms"] for one in run.results if begin <= one.at < begin + 60]
    facts = (
        [f"{np.median([getattr(one, name) for one in samples]):.0f}" for name in ("threads", "files")]
        if samples
        else "--"
    )
    memory = f"{np.median([one.memory for one in samples]):.1f}" if samples else "-"
    p50, p99 = (f"{np.percentile(ages, share):.1f}" if ages else "-" for share in (50, 99))
    return f"| {minute} | {memory} | {facts[0]} | {facts[1]} | {len(ages)} | {p50} | {p99} |"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
