"""Places among the hits of a map: when two views show the same one, and the best view of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deepir.errors import OptionError
from deepir.runtime.pose import Spot, distance

RADIUS = 5.0
"""Metres; it must be more than the camera moves during a sequence."""

WINDOW = 1
"""Keys; chosen in one building and tried in another (benchmarks/index_places.py)."""

_WIDER = 4
"""A search that leaves too few hits is repeated for so many times as many."""


class PlaceHit(Protocol):
    """A stored view that resembles the query, such as `Hit`."""

    @property
    def key(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def view(self) -> str: ...
    @property
    def similarity(self) -> float: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


Search = Callable[[int], Sequence[PlaceHit]]
"""Takes how many hits are wanted; gives them best first, fewer only when there are no more."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit and its spot."""

    hit: PlaceHit
    spot: Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class SamePlace:
    """When two stored views show the same place: by pose, else by time, else by key.

    Attributes:
        radius: Metres between their poses, where both have one.
        seconds: Between their times, where both have one; None never compares times.
        window: Difference of their keys otherwise: a map is filled along the way.

    Raises:
        OptionError: A value below zero, or none.
    """

    radius: float = RADIUS
    seconds: float | None = None
    window: int = WINDOW

    def __post_init__(self) -> None:
        if not (self.radius >= 0 and self.window >= 0 and (self.seconds is None or self.seconds >= 0)):
            message = f"a place cannot be smaller than a point, got {self}: give 0 or more"
            raise OptionError(message)

    def holds(self, one: Spot, other: Spot) -> bool:
        """Whether they show the same place.

        Raises:
            ShapeError: One pose is on a plane and one on the earth.
        """
        if one.pose is not None and other.pose is not None:
            return distance(one.pose, other.pose) <= self.radius
        if self.seconds is not None and one.time is not None and other.time is not None:
            return abs(one.time - other.time) <= self.seconds
        return abs(one.key - other.key) <= self.window


def distinct(candidates: Iterable[Candidate], count: int, same: SamePlace) -> list[Candidate]:
    """The first `count` of different places; given best first, each place keeps its best one."""
    kept: list[Candidate] = []
    for candidate in candidates:
        if len(kept) == count:
            break
        if not any(same.holds(candidate.spot, better.spot) for better in kept):
            kept.append(candidate)
    return kept


def search_places(search: Search, count: int, same: SamePlace, is_left_out: Callable[[Spot], bool]) -> list[Candidate]:
    """The best `count` distinct places among what is not left out; searches wider until there are so many.

    Raises:
        ShapeError: A hit's pose or time is none.
    """
    wanted = _WIDER * count
    while True:
        hits = search(wanted)
        candidates = [Candidate(hit, Spot.read(hit.key, hit.metadata)) for hit in hits]
        candidates = [candidate for candidate in candidates if not is_left_out(candidate.spot)]
        places = distinct(candidates, count, same)
        if len(places) == count or len(hits) < wanted:
            return places
        wanted *= _WIDER
