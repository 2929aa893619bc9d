"""What a stream shows: each frame alone, several frames by vote, or a place that a sequence of frames agrees on."""

import time
from dataclasses import dataclass, field
from typing import Literal

from deepir.errors import OptionError
from deepir.runtime.frame import Frame
from deepir.runtime.label_search import Hit
from deepir.runtime.places import Moment, PlaceOptions, PlaceTracker
from deepir.runtime.recogniser import Recogniser, Recognition, Status
from deepir.runtime.vote import Vote, Votes

Mode = Literal["item", "place"]


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
        votes: How many frames agree.
        of: How many were looked at.
    """

    status: Status
    label: str | None
    votes: int
    of: int


class Decider:
    """Takes the frames of a source one after another; not from two threads at once."""

    def __init__(self, recogniser: Recogniser, deciding: Deciding) -> None:
        self._recogniser = recogniser
        self._votes = None if deciding.vote is None else Votes(deciding.vote)
        self._places = PlaceTracker(deciding.places) if deciding.mode == "place" else None

    def __call__(self, frame: Frame) -> tuple[Recognition, Decision | None]:
        """What the frame shows, and what it decides together with those before it; None where it decides alone."""
        if self._places is not None:
            return self._place(frame, self._places)
        recognition = self._recogniser(frame.image)
        if self._votes is None:
            return recognition, None
        result = self._votes.add(recognition.status, recognition.label, recognition.similarity)
        return recognition, Decision(result.status, result.label, result.votes, result.frames)

    def _place(self, frame: Frame, places: PlaceTracker) -> tuple[Recognition, Decision]:
        recogniser = self._recogniser
        described = recogniser.describe(frame.image)
        query_1d, index = described.query_1d, recogniser.index
        places.threshold = recogniser.threshold
        # items carry the time at which they were seen: of a file its own seconds, else the time of day
        seen_at = frame.time if frame.time is not None else time.time()
        moment = Moment(frame.number, seen_at, index.newest_key)
        started = time.perf_counter()
        result = places.update(
            lambda count: [] if query_1d is None else index.search(query_1d, count), moment, frame.image
        )
        milliseconds = {**described.milliseconds, "search": 1000 * (time.perf_counter() - started)}
        # several places may have one label, which is no doubt about the label
        best: dict[str, Hit] = {}
        for hit in result.candidates:
            best.setdefault(hit.label, Hit(hit.key, hit.label, hit.view, hit.similarity, hit.metadata))
        recognition = recogniser.judgement.judge(list(best.values()), index, milliseconds)
        label = None if result.hit is None else result.hit.label
        return recognition, Decision(result.status, label, result.support, result.queries)
