"""One decision from several frames: the label that enough of the last ones agree on."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from deepir.errors import OptionError
from deepir.label_tree import parent

Status = Literal["match", "ambiguous", "unknown"]


@dataclass(frozen=True, slots=True)
class Vote:
    """How many of the last frames must agree; more than half of them, so that two labels never win at once.

    Attributes:
        needed: Frames that must agree.
        frames: Frames that are looked at, the newest among them.

    Raises:
        OptionError: Not more than half, or more than all.
    """

    needed: int
    frames: int

    def __post_init__(self) -> None:
        if not 0 < self.needed <= self.frames:
            message = (
                f"a vote of {self.needed}/{self.frames} cannot be won or cannot be lost: "
                "ask for some of the last frames, such as 5/8"
            )
            raise OptionError(message)
        if 2 * self.needed <= self.frames:
            message = (
                f"with a vote of {self.needed}/{self.frames} two labels could win at once: "
                f"ask for {self.frames // 2 + 1}/{self.frames} or more"
            )
            raise OptionError(message)

    @classmethod
    def parse(cls, text: str) -> "Vote":
        """Read `5/8`, five of the last eight frames.

        Raises:
            OptionError: Not two whole numbers with a slash between, or such as cannot be.
        """
        needed, slash, frames = text.partition("/")
        if not (slash and all(number.strip().isdecimal() for number in (needed, frames))):
            message = f"a vote is two whole numbers such as 5/8, five of the last eight frames; got {text!r}"
            raise OptionError(message)
        return cls(int(needed), int(frames))

    def __str__(self) -> str:
        return f"{self.needed}/{self.frames}"


@dataclass(frozen=True, slots=True)
class VoteDecision:
    """What the last frames show together.

    Attributes:
        status: `match`: enough of them are a match of this label. `ambiguous`: enough of them agree on a branch of
            labels only (`brand/product`, some of them with 500g and some with 1kg), or each is ambiguous in itself.
            `unknown`: anything else.
        label: The label or the branch; None when unknown, or when ambiguous frames share no branch.
        similarity: Mean of the frames that agree; None when unknown.
        votes: How many agree; of the leading label when unknown.
        frames: How many were looked at: fewer than asked for after the start or a reset.
    """

    status: Status
    label: str | None
    similarity: float | None
    votes: int
    frames: int


@dataclass(frozen=True, slots=True)
class _Ballot:
    status: Status
    label: str | None
    similarity: float


class Votes:
    """Takes one recognition after another; the same ones in the same order give the same decisions."""

    def __init__(self, vote: Vote) -> None:
        self.vote = vote
        self._ballots: deque[_Ballot] = deque(maxlen=vote.frames)

    def add(self, status: Status, label: str | None, similarity: float) -> VoteDecision:
        """Decide with this frame as the newest.

        Args:
            status: Of this frame alone.
            label: Its label, or the branch that its candidates share when it is ambiguous.
            similarity: Of its best view.
        """
        self._ballots.append(_Ballot(status, label, similarity))
        counts = Counter(label for ballot in self._ballots for label in _lineage(ballot))
        # more than half of the frames: all winners lie on one line from the root, and the longest is the deepest
        winner = max((label for label, count in counts.items() if count >= self.vote.needed), key=len, default=None)
        if winner is not None:
            agreeing = [ballot for ballot in self._ballots if winner in _lineage(ballot)]
            exact = [ballot for ballot in agreeing if (ballot.status, ballot.label) == ("match", winner)]
            if len(exact) >= self.vote.needed:
                return self._decide("match", winner, exact)
            return self._decide("ambiguous", winner, agreeing)
        ambiguous = [ballot for ballot in self._ballots if ballot.status == "ambiguous"]
        if len(ambiguous) >= self.vote.needed:
            return self._decide("ambiguous", None, ambiguous)
        return VoteDecision("unknown", None, None, max(counts.values(), default=0), len(self._ballots))

    def reset(self) -> None:
        """Forget the frames so far: after a gap the camera may show something else."""
        self._ballots.clear()

    def _decide(self, status: Status, label: str | None, agreeing: list[_Ballot]) -> VoteDecision:
        similarity = sum(ballot.similarity for ballot in agreeing) / len(agreeing)
        return VoteDecision(status, label, similarity, len(agreeing), len(self._ballots))


def _lineage(ballot: _Ballot) -> Iterator[str]:
    """The label of a frame and every branch above it."""
    label = None if ballot.status == "unknown" else ballot.label
    while label is not None:
        yield label
        label = parent(label)
