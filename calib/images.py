"""Calibration pictures: which to measure ranges on, and which to judge the result with."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepir.calib.coverage import distinct_rows, k_centre
from deepir.calib.sources import Labels, read_sources
from deepir.descriptors import Descriptors
from deepir.errors import InputError, ModelError, OptionError
from deepir.look import Look, look_at_files
from deepir.runtime.progress import Report
from deepir.spec import ModelSpec

FEWEST = 32
"""With fewer pictures the ranges are guesswork (field.md 3.2)."""

RECOMMENDED = 128

_POOL = 4
"""Of more pictures than so many times what is needed a part is drawn: describing one takes as long as measuring it."""

_MOST_UNREADABLE = 0.05
_JUDGE_SHARE = 0.25
_FEWEST_JUDGES = 16
_FAR_SMALLER = 0.5
_NAMED = 3

Describe = Callable[[Sequence[Path]], Descriptors]
"""Descriptors (N, D) of picture files by the FP32 model, in order."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Pictures that fix the ranges, and others, unseen by them, that judge the result.

    Attributes:
        measure: From `choose_images` the most different come first, so that any first part covers what there is.
        judge: A random part, so that they are what the model will meet.
        labels: What the pictures that judge show, where it is known.
        counts: How the pictures came about: `found` in the sources, `drawn` of these at random, and of the drawn
            `unreadable`, `blank`, and near-`duplicates`, which are left out; `small` are far smaller than the input.
    """

    measure: tuple[Path, ...]
    judge: tuple[Path, ...]
    labels: Mapping[Path, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ChosenImages:
    """A calibration set, and the FP32 descriptors (N, D) of its `judge`, in order."""

    images: CalibrationSet
    judge_nd: Descriptors


def choose_images(
    sources: Sequence[Path],
    describe: Describe,
    *,
    spec: ModelSpec,
    most: int = 500,
    seed: int = 0,
    report: Report = lambda _line: None,
) -> ChosenImages:
    """Choose at most `most` different pictures: a quarter at random to judge, a diverse part of the rest to measure.

    Every picture is read once to see what is readable, blank or small, and once by `describe`, which is asked once.
    The same files, descriptors and seed give the same choice.

    Args:
        sources: As `deepir.calib.sources.read_sources` takes them.
        describe: Describes files by the FP32 model; rows of length 1.
        spec: Of the model: its size says which pictures are small.
        most: FEWEST or more.
        seed: Which pictures are drawn.
        report: Gets what was left out, and warnings.

    Raises:
        InputError: A source that is missing or empty, more than 5 % of the pictures unreadable, or fewer than FEWEST
            left without blank ones and near-duplicates.
        ModelError: `describe` gives NaN, or not a row for each picture.
        OptionError: `most` is below FEWEST.
    """
    if most < FEWEST:
        message = f"calibration needs at least {FEWEST} pictures, got a limit of {most}: give --num {FEWEST} or more"
        raise OptionError(message)
    labels = read_sources(sources)
    rng = random.Random(seed)  # noqa: S311 a sample, not a secret
    counts = {"found": len(labels)}
    looks = _readable(_draw(labels, most, rng, counts, report), sources, counts, report)
    paths = list(looks)
    descriptors_nd = _described(paths, describe)
    rows = distinct_rows(descriptors_nd, np.stack([look.thumbnail_1d for look in looks.values()]))
    counts["duplicates"] = len(paths) - len(rows)
    if counts["blank"] or counts["duplicates"]:
        report(f"left out: {counts['duplicates']} near-duplicates and {counts['blank']} blank pictures")
    _refuse_few(len(rows), sources, counts)
    judges = _draw_judges([labels[paths[row]] for row in rows], min(most, len(rows)), rng)
    judged = [rows[judge] for judge in judges]
    rest = sorted(set(rows) - set(judged))
    measured = [rest[place] for place in k_centre(descriptors_nd[rest], most - len(judged))]
    counts["small"] = _count_small((looks[paths[row]] for row in (*measured, *judged)), spec)
    _warn(len(measured) + len(judged), spec, counts, report)
    images = CalibrationSet(
        measure=tuple(paths[row] for row in measured),
        judge=tuple(paths[row] for row in judged),
        labels={paths[row]: label for row in judged if (label := labels[paths[row]]) is not None},
        counts=counts,
    )
    return ChosenImages(images, descriptors_nd[judged])


def _draw(labels: Labels, most: int, rng: random.Random, counts: dict[str, int], report: Report) -> list[Path]:
    paths = list(labels)
    if len(paths) > _POOL * most:
        # in the order of the sources again, so that of duplicates the first stays
        paths = [paths[place] for place in sorted(rng.sample(range(len(paths)), _POOL * most))]
        report(f"found {len(labels)} pictures: {len(paths)} of them, drawn at random, are considered")
    counts["drawn"] = len(paths)
    return paths


def _readable(
    paths: Sequence[Path], sources: Sequence[Path], counts: dict[str, int], report: Report
) -> dict[Path, Look]:
    looks = dict(zip(paths, look_at_files(paths), strict=True))
    unreadable = [path for path, look in looks.items() if look is None]
    counts["unreadable"] = len(unreadable)
    if unreadable:
        named = ", ".join(map(str, unreadable[:_NAMED])) + (", ..." if len(unreadable) > _NAMED else "")
        sentence = f"{len(unreadable)} of {len(paths)} pictures cannot be decoded ({named})"
        if len(unreadable) > _MOST_UNREADABLE * len(paths):
            message = f"{sentence}, more than {_MOST_UNREADABLE:.0%}: remove or replace them, and look at the others"
            raise InputError(message)
        report(f"warning: {sentence}: they are left out")
    usable = {path: look for path, look in looks.items() if look is not None and not look.blank}
    counts["blank"] = len(paths) - len(unreadable) - len(usable)
    # here already, because to describe pictures takes minutes
    _refuse_few(len(usable), sources, counts)
    return usable


def _refuse_few(left: int, sources: Sequence[Path], counts: Mapping[str, int]) -> None:
    if left >= FEWEST:
        return
    reasons = {"unreadable": "unreadable", "blank": "blank", "duplicates": "near-duplicates of others"}
    lost = [f"{counts[name]} {words}" for name, words in reasons.items() if counts.get(name)]
    without = f" ({', '.join(lost)})" if lost else ""
    message = (
        f"calibration needs at least {FEWEST} pictures that differ, {RECOMMENDED} or more are better; "
        f"got {left} of {counts['found']} in {', '.join(map(str, sources))}{without}: "
        "add photographs of what the camera sees, or take them with deepir-calib record"
    )
    raise InputError(message)


def _described(paths: Sequence[Path], describe: Describe) -> Descriptors:
    descriptors_nd = describe(paths)
    if descriptors_nd.ndim != 2 or len(descriptors_nd) != len(paths) or not np.isfinite(descriptors_nd).all():
        message = (
            f"the model describes {len(paths)} pictures by an array {descriptors_nd.shape}, or gives values that are "
            "not finite: its weights are damaged, export it again"
        )
        raise ModelError(message)
    return descriptors_nd


def _draw_judges(labels: Sequence[str | None], most: int, rng: random.Random) -> list[int]:
    """A random quarter of `most`; of a label that is known two at least, so that each can be searched with another."""
    count = max(_FEWEST_JUDGES, round(most * _JUDGE_SHARE))
    order = rng.sample(range(len(labels)), len(labels))
    drawn: dict[int, None] = {}
    for row in order:
        if len(drawn) >= count:
            break
        if row in drawn:
            continue
        drawn[row] = None
        mate = next((other for other in order if labels[other] == labels[row] and other not in drawn), row)
        drawn[mate] = None
    return list(drawn)[:count]


def _count_small(looks: Iterable[Look], spec: ModelSpec) -> int:
    # what decides how far a picture is enlarged: the longest side, or else the side that is short
    side = max if spec.resize == "longest" else min
    return sum(side(look.size) < _FAR_SMALLER * side(spec.size) for look in looks)


def _warn(chosen: int, spec: ModelSpec, counts: Mapping[str, int], report: Report) -> None:
    if counts["small"]:
        height, width = spec.size
        report(
            f"warning: {counts['small']} of {chosen} pictures are less than half as large as the model's input "
            f"({height} x {width}): enlarged pictures are softer than those of a camera"
        )
    if chosen < RECOMMENDED:
        report(f"warning: {chosen} pictures; fewer than {RECOMMENDED} make ranges and verdict uncertain")
