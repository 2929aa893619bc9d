"""What a stream shows: each frame alone, several frames by vote, or a place that a sequence of frames agrees on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakKeyDictionary

from deepir.errors import OptionError
from deepir.runtime.frame import Frame
from deepir.runtime.index import Index
from deepir.runtime.label_search import Hit
from deepir.runtime.place_hits import PlaceHit
from deepir.runtime.place_threshold import fit_place_threshold
from deepir.runtime.places import Moment, PlaceOptions, PlaceTracker
from deepir.runtime.pose import Spot, check_one_kind
from deepir.runtime.recogniser import Described, Recogniser, Recognition
from deepir.runtime.threshold import BY_HAND
from deepir.runtime.vote import Status, Vote, Votes

Mode = Literal["item", "place"]

_GAP = 2.0
"""Seconds without a frame after which a camera may show something else: what the frames before said is forgotten."""

_NEIGHBOURS = 2
"""Keys on either side that show the same place where a map's threshold is learnt from the map itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """Who decides; checked when it is made.

    Attributes:
        mode: `item` looks for labels, `place` for the spot of a map.
        vote: How many of the last frames must agree on a label; None lets each frame decide.
        places: How places are recognised.

    Raises:
        OptionError: A vote on places, which have their sequence.
    """

    mode: Mode = "item"
    vote: Vote | None = None
    places: PlaceOptions = field(default_factory=PlaceOptions)

    def __post_init__(self) -> None:
        if self.mode == "place" and self.vote is not None:
            message = f"places are decided by their sequence, not by a vote: leave out --vote {self.vote}, or use --seq"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class Decision:
    """What several frames say together.

    Attributes:
        status: As of `Recognition`.
        label: Of the vote or the place; None when unknown.
        similarity: Mean of the frames that agree; None where none does.
        votes: How many frames agree.
        of: How many were looked at.
        hit: The stored view of a place; None for labels, and when unknown.
    """

    status: Status
    label: str | None
    similarity: float | None
    votes: int
    of: int
    hit: PlaceHit | None = None


class Decider:
    """Takes the frames of a source one after another; not from two threads at once.

    Raises:
        As of `learn`.
    """

    def __init__(self, recogniser: Recogniser, deciding: Deciding, *, live: bool = False) -> None:
        self._recogniser = recogniser
        self._options = deciding.places
        self._votes = None if deciding.vote is None else Votes(deciding.vote)
        self._places = PlaceTracker(deciding.places) if deciding.mode == "place" else None
        self._live = live
        self._queries = 0
        self._last: float | None = None
        self._learnt: WeakKeyDictionary[Index, float | None] = WeakKeyDictionary()
        self.learn(recogniser.index)

    def learn(self, index: Index) -> None:
        """Make ready to compare with another map; nothing to do for labels.

        Call it, from any thread, before the map takes the place of another: a large one takes seconds, for which the
        next frame would wait, and one that places cannot be looked for in would be an error there.

        Raises:
            ShapeError: A pose or a time that is none, or poses of two kinds.
            OptionError: Seconds are to be left out of a map whose items have no time.
        """
        if self._places is not None and index not in self._learnt:
            self._learnt[index] = _fitted_threshold(index, self._options)

    def __call__(self, frame: Frame, query: Described, index: Index) -> tuple[Recognition, Decision | None]:
        """What the frame shows, and what it decides together with those before it; None where it decides alone.

        Args:
            frame: The next one of the source.
            query: Its descriptor, or that of a box in it.
            index: What it is compared with.
        """
        self._forget_after_gap(frame)
        if self._places is not None:
            return self._place(frame, query, index, self._places)
        recognition = self._recogniser.answer(query, index)
        if self._votes is None:
            return recognition, None
        result = self._votes.add(recognition.status, recognition.label, recognition.similarity)
        return recognition, Decision(result.status, result.label, result.similarity, result.votes, result.frames)

    def _forget_after_gap(self, frame: Frame) -> None:
        if self._live and self._last is not None and frame.captured - self._last > _GAP:
            if self._votes is not None:
                self._votes.reset()
            if self._places is not None:
                self._places.reset()
        self._last = frame.captured

    def _place(
        self, frame: Frame, query: Described, index: Index, places: PlaceTracker
    ) -> tuple[Recognition, Decision]:
        recogniser, query_1d = self._recogniser, query.query_1d
        self.learn(index)
        places.threshold = self._threshold_of(index)
        # items carry the time at which they were seen: of a file its own seconds, else the time of day
        seen_at = frame.time if frame.time is not None else frame.seen_at
        self._queries += 1
        moment = Moment(self._queries, seen_at, index.newest_key)
        started = time.perf_counter()
        result = places.update(
            lambda count: [] if query_1d is None else index.search(query_1d, count), moment, frame.image
        )
        milliseconds = {**query.milliseconds, "search": 1000 * (time.perf_counter() - started)}
        # several places may have one label, which is no doubt about the label
        best: dict[str, Hit] = {}
        for hit in result.candidates:
            best.setdefault(hit.label, Hit(hit.key, hit.label, hit.view, hit.similarity, hit.metadata))
        recognition = recogniser.judgement.judge(list(best.values()), index, milliseconds)
        label = None if result.hit is None else result.hit.label
        similarity = result.similarity if result.candidates else None
        return recognition, Decision(result.status, label, similarity, result.support, result.queries, result.hit)

    def _threshold_of(self, index: Index) -> float | None:
        """Where a place begins to be known; asked for each query, since a person may choose another meanwhile."""
        judgement = self._recogniser.judgement
        chosen = judgement.threshold != "auto" or _is_by_hand(index)
        return judgement.threshold_of(index) if chosen else self._learnt[index]


def _fitted_threshold(index: Index, options: PlaceOptions) -> float | None:
    """What the map itself says; None where nobody will ask, or all views show one place.

    The threshold of labels takes neighbours for strangers where every view has a label of its own.
    """
    spots = [Spot.read(item.key, item.metadata) for item in index.items()]
    check_one_kind(spots)
    _check_times(options, spots)
    if _is_by_hand(index):
        return None
    same = replace(options.same, window=max(_NEIGHBOURS, options.same.window))
    fitted = fit_place_threshold(index.descriptors(), spots, same, index.footer.far)
    return None if fitted is None else fitted.value


def _is_by_hand(index: Index) -> bool:
    return index.threshold is not None and index.threshold.basis in BY_HAND


def _check_times(options: PlaceOptions, spots: Sequence[Spot]) -> None:
    exclude = options.exclude
    if exclude is not None and exclude.seconds is not None and not any(spot.time is not None for spot in spots):
        message = (
            f"no item of the map has a time, so the last {exclude} cannot be left out: store one with each item "
            '(metadata {"time": seconds}), or leave out a number of items'
        )
        raise OptionError(message)
