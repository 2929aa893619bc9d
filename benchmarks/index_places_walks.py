"""The walks of benchmarks/index_places.py: maps, and queries on and off them, from a photo benchmark."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.retrieval_set import RetrievalSet
from deepir.runtime.index_whitening import fit_index_whitening

EVERY = 4
SECONDS = 6
THIRDS = 3

Described = Mapping[str, NDArray[np.float32]]
"""A descriptor (D,) for each name."""


@dataclass(frozen=True, slots=True)
class Query:
    """A picture of a walk; `right` are the map's pictures that answer it, `void` those that count as no answer."""

    name: str
    number: int
    right: frozenset[str] = frozenset()
    void: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trial:
    """A map, by key, walks on and off it, and the descriptors of both."""

    stored: dict[int, str]
    walks: list[list[Query]]
    described: Described = field(default_factory=dict)


def tower_trials(dataset: RetrievalSet, photos: Path, clip: Sequence[str]) -> list[Trial]:
    """Every other floor is mapped, then the others."""
    walks: dict[str, list[str]] = {}
    for name in sorted(path.relative_to(photos).as_posix() for path in dataset.database):
        walks.setdefault(re.sub(r"_frame_\d+\.jpg$", "", name), []).append(name)
    floors = sorted({_floor(walk) for walk in walks})
    return [_tower_trial(walks, set(floors[half::2]), clip) for half in (0, 1)]


def _tower_trial(walks: dict[str, list[str]], mapped: set[str], clip: Sequence[str]) -> Trial:
    on_map = {walk: names for walk, names in walks.items() if _floor(walk) in mapped}
    stored = [name for names in on_map.values() for name in names[::EVERY]]
    queries = [_unmapped(clip)] if clip else []
    for walk, names in walks.items():
        if walk not in on_map:
            queries.append(_unmapped(names))
            continue
        floor = frozenset(name for name in stored if _floor(name) == _floor(walk))
        near = [frozenset(names[max(0, at - SECONDS) : at + SECONDS + 1]) & floor for at in range(len(names))]
        between = [at for at in range(len(names)) if at % EVERY]
        queries.append([Query(names[at], at, near[at], floor - near[at]) for at in between])
    return Trial(dict(enumerate(stored, start=1)), queries)


def _floor(name: str) -> str:
    return name.partition("__")[0]


def _unmapped(names: Sequence[str]) -> list[Query]:
    return [Query(name, number) for number, name in enumerate(names)]


def corridor_trials(dataset: RetrievalSet, photos: Path) -> list[Trial]:
    """The map lacks a third of the way, each third once; queries that only a part of it would answer are left out."""
    names = [path.relative_to(photos).as_posix() for path in dataset.database]
    trials = []
    for third in range(THIRDS):
        missing = set(names[third * len(names) // THIRDS : (third + 1) * len(names) // THIRDS])
        queries = []
        for number, query in enumerate(dataset.queries):
            right = frozenset(path.relative_to(photos).as_posix() for path in query.positives)
            if right <= missing or not right & missing:
                name = query.image.relative_to(photos).as_posix()
                queries.append(Query(name, number, right - missing))
        stored = {key: name for key, name in enumerate(names, start=1) if name not in missing}
        trials.append(Trial(stored, [queries]))
    return trials


def describe_trial(trial: Trial, described: Described, power: float | None) -> Trial:
    """With the descriptors as they are, or with a whitening that the map itself gave."""
    if power is None:
        return replace(trial, described=described)
    whitening = fit_index_whitening([np.stack([described[name] for name in trial.stored.values()])], power)
    rows_nd = whitening(np.stack(list(described.values())))
    return replace(trial, described=dict(zip(described, rows_nd, strict=True)))
