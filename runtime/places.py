"""Where a robot is on a map: one query after another in, a place out when a sequence of them agrees on it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from deepir.errors import OptionError
from deepir.image import Image
from deepir.runtime.place_hits import PlaceHit, SamePlace, Search, search_places
from deepir.runtime.place_sequence import SequenceCheck, SequenceRule, Support
from deepir.runtime.pose import Spot
from deepir.runtime.recent_past import RecentPast

TOP = 2
"""Candidates of each query; with many of them chance finds a line through some (benchmarks/index_places.py)."""

Verify = Callable[[Image, PlaceHit], bool]
"""Takes the query and a hit, says whether they show the same place: by local features, for example. Only places that
passed everything else are asked for, the likeliest first, until one is verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """How places are recognised; checked when it is made.

    Attributes:
        top: Distinct places of each query that are candidates.
        same: When two stored views show the same place.
        sequence: How many queries must agree.
        exclude: What has just been seen; None searches the whole map (a robot that was carried away).
    """

    top: int = TOP
    same: SamePlace = field(default_factory=SamePlace)
    sequence: SequenceRule = field(default_factory=SequenceRule)
    exclude: RecentPast | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            message = f"a query needs candidates, got top {self.top}: ask for 1 or more"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a query was taken.

    Attributes:
        number: Counts the queries of a walk.
        time: Seconds, on the clock of the items' times; needed to exclude seconds.
        newest_key: The largest key of the map; needed to exclude a number of keys.
    """

    number: int
    time: float | None = None
    newest_key: int | None = None


@dataclass(frozen=True, slots=True)
class PlaceDecision:
    """Where the camera is.

    Attributes:
        status: `match` when a place was similar enough in enough of the last queries.
        hit: The stored view of that place; None when unknown.
        similarity: Mean over the queries that agree, as in `Support`, of this place or else of the most similar
            candidate; 0 when there is none.
        support: How many of the last queries agree with it.
        queries: How many were looked at: fewer than asked for after the start or a reset.
        candidates: The first distinct places of this query alone, best first.
    """

    status: Literal["match", "unknown"]
    hit: PlaceHit | None
    similarity: float
    support: int
    queries: int
    candidates: tuple[PlaceHit, ...]


class PlaceTracker:
    """Takes one query after another; not from two threads at once.

    Sequences only help when their pictures differ: a camera that stands still sees the same wrong place five times.
    Leave out queries that hardly differ from the last one (see `Keyframes`).
    """

    def __init__(
        self, options: PlaceOptions | None = None, *, threshold: float | None = None, verify: Verify | None = None
    ) -> None:
        self.options = options or PlaceOptions()
        self.threshold = threshold
        self.verify = verify
        self._check = SequenceCheck(self.options.sequence, self.options.same)

    def update(self, search: Search, moment: Moment, query: Image | None = None) -> PlaceDecision:
        """Decide with this query as the newest.

        Args:
            search: Gives the hits of the query: `lambda count: index.search(query_1d, count)`.
            moment: When it was taken.
            query: The picture, for `verify`.

        Raises:
            OptionError: A number that does not rise, no time or newest key to exclude by, or nothing to verify.
            ShapeError: A pose or a time that is none, or poses of two kinds.
        """
        candidates = search_places(
            search, self.options.top, self.options.same, lambda spot: self._is_recent(spot, moment)
        )
        queries = self._check.queries
        supports = sorted(self._check.add(candidates, moment.number), key=lambda one: one.similarity, reverse=True)
        accepted = next((support for support in supports if self._accepts(support, query)), None)
        shown = accepted or (supports[0] if supports else None)
        return PlaceDecision(
            status="unknown" if accepted is None else "match",
            hit=None if accepted is None else accepted.candidate.hit,
            similarity=0.0 if shown is None else shown.similarity,
            support=0 if shown is None else shown.count,
            queries=queries,
            candidates=tuple(candidate.hit for candidate in candidates),
        )

    def reset(self) -> None:
        """Forget the queries so far: after a gap the camera may be somewhere else."""
        self._check.reset()

    def _is_recent(self, spot: Spot, moment: Moment) -> bool:
        exclude = self.options.exclude
        return exclude is not None and exclude.holds(spot, now=moment.time, newest_key=moment.newest_key)

    def _accepts(self, support: Support, query: Image | None) -> bool:
        similar = self.threshold is None or support.similarity >= self.threshold
        backed = support.count >= self.options.sequence.needed
        return similar and backed and self._is_verified(support.candidate.hit, query)

    def _is_verified(self, hit: PlaceHit, query: Image | None) -> bool:
        if self.verify is None:
            return True
        if query is None:
            message = "a tracker that verifies needs the picture of each query: pass it to update"
            raise OptionError(message)
        return self.verify(query, hit)
