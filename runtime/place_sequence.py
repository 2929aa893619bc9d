"""Whether the queries before agree with a place: enough of them saw it, or saw places that lead to it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from deepir.errors import OptionError
from deepir.runtime.place_hits import Candidate, SamePlace

LENGTH = 5
NEEDED = 3
SPEED = (0.0, 2.0)

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRule:
    """How many queries in a row must agree before a place is believed.

    Attributes:
        length: Queries looked at, the newest among them; 1 believes each query by itself.
        needed: Of them must agree.
        speed: Keys that the camera advances along the map from one query to the next, at least and at most; for maps
            without poses. From 0, standing, to 2 for a map as dense as the queries; a camera that drives the way
            backwards, looking the same way, needs a negative least speed.

    Raises:
        OptionError: They contradict each other.
    """

    length: int = LENGTH
    needed: int = NEEDED
    speed: tuple[float, float] = SPEED

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.length:
            message = f"a sequence of {self.length} cannot need {self.needed} queries: ask for 1 to {self.length}"
            raise OptionError(message)
        least, most = self.speed
        if not -float("inf") < least <= most < float("inf"):
            message = f"a speed in keys per query goes from a least to a most, such as 0 to 2; got {least} to {most}"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class Support:
    """How far the last queries agree with a candidate.

    Attributes:
        candidate: Of the newest query.
        count: Queries that agree, the newest among them.
        similarity: Mean over the best ones of those, as many as are needed: a whole sequence is rarely similar by
            chance, a single picture often is.
    """

    candidate: Candidate
    count: int
    similarity: float


@dataclass(frozen=True, slots=True)
class _Seen:
    number: int
    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class _Span:
    """The speeds at which the way from an earlier candidate leads to the present one."""

    low: float
    high: float
    number: int
    similarity: float

    def holds(self, speed: float) -> bool:
        return self.low - _ROUNDING <= speed <= self.high + _ROUNDING


class SequenceCheck:
    """Remembers the candidates of the last queries.

    With a pose, a candidate is backed by each earlier query that has a candidate within the radius of it. Without, by
    those whose candidates lie, give or take the window, on one line of keys over queries that ends in it, at a speed
    within the limits.
    """

    def __init__(self, rule: SequenceRule, same: SamePlace) -> None:
        self.rule = rule
        self.same = same
        self._seen: deque[_Seen] = deque(maxlen=rule.length - 1)
        self._last: int | None = None

    @property
    def queries(self) -> int:
        """How many queries the next answer will look at, itself included."""
        return len(self._seen) + 1

    def add(self, candidates: Sequence[Candidate], number: int) -> list[Support]:
        """The support of each candidate of a new query, in the order given.

        Args:
            candidates: The first hits of the query, of different places.
            number: Counts the queries; it rises, and gaps are queries that were left out.

        Raises:
            OptionError: The number does not rise.
            ShapeError: Poses of two kinds.
        """
        if self._last is not None and number <= self._last:
            message = f"query {number} cannot follow query {self._last}: count upwards, or reset before a new walk"
            raise OptionError(message)
        supports = [self._support(candidate, number) for candidate in candidates]
        self._seen.append(_Seen(number, candidates))
        self._last = number
        return supports

    def reset(self) -> None:
        """Forget the queries so far: after a gap the camera may be somewhere else."""
        self._seen.clear()
        self._last = None

    def _support(self, candidate: Candidate, number: int) -> Support:
        earlier = self._near(candidate) if candidate.spot.pose else self._on_line(candidate, number)
        similarities = sorted([candidate.hit.similarity, *earlier], reverse=True)
        best = similarities[: self.rule.needed]
        return Support(candidate, len(similarities), sum(best) / len(best))

    def _near(self, candidate: Candidate) -> list[float]:
        near_by_query = (
            [other.hit.similarity for other in seen.candidates if self._is_near(candidate, other)]
            for seen in self._seen
        )
        return [max(near) for near in near_by_query if near]

    def _is_near(self, candidate: Candidate, other: Candidate) -> bool:
        return other.spot.pose is not None and self.same.holds(candidate.spot, other.spot)

    def _on_line(self, candidate: Candidate, number: int) -> list[float]:
        spans = self._spans(candidate, number)
        lines = (_best_of_each_query(spans, speed) for speed in sorted({span.low for span in spans}))
        return max(lines, key=lambda line: (len(line), sum(line)), default=[])

    def _spans(self, candidate: Candidate, number: int) -> list[_Span]:
        spans = []
        for seen in self._seen:
            queries = number - seen.number
            for other in seen.candidates:
                advance = candidate.spot.key - other.spot.key
                low = max(self.rule.speed[0], (advance - self.same.window) / queries)
                high = min(self.rule.speed[1], (advance + self.same.window) / queries)
                if other.spot.pose is None and low <= high:
                    spans.append(_Span(low, high, seen.number, other.hit.similarity))
        return spans


def _best_of_each_query(spans: list[_Span], speed: float) -> list[float]:
    best: dict[int, float] = {}
    for span in spans:
        if span.holds(speed):
            best[span.number] = max(span.similarity, best.get(span.number, span.similarity))
    return list(best.values())
