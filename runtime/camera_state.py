"""How a camera is doing, why it is not well, and how patient we are with it."""

import math
from dataclasses import dataclass
from typing import Literal

from deepir.errors import OptionError

Status = Literal["connecting", "live", "stale", "lost", "ended"]
Kind = Literal["not found", "refused", "auth", "timeout", "codec", "busy", "lost", "frozen", "hung"]
OnLost = Literal["wait", "exit"]
ON_LOST: tuple[OnLost, ...] = ("exit", "wait")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there are no frames.

    Attributes:
        kind: In one word, for programs.
        sentence: What happened and what to do, for people; holds no password.
    """

    kind: Kind
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a camera counts as lost, and what happens then; checked when it is made.

    Attributes:
        on_lost: `exit` raises a SourceError, also when the camera is not there at the start; `wait` tries for ever.
        stale: Seconds without a new frame after which the state is `stale`.
        silence: Seconds without a new frame, or without an answer at the start, after which the camera is lost: a
            network camera can stall for ever without an error.
        frozen: Seconds of identical pixels after which it is lost; None takes a still picture for what there is to see.

    Raises:
        OptionError: A number of seconds that is none.
    """

    on_lost: OnLost = "exit"
    stale: float = 2.0
    silence: float = 20.0
    frozen: float | None = 20.0

    def __post_init__(self) -> None:
        if self.on_lost not in ON_LOST:
            message = f"a lost camera is waited for or ends the program: wait or exit, got {self.on_lost}"
            raise OptionError(message)
        for name, seconds in (("stale", self.stale), ("silence", self.silence), ("frozen", self.frozen)):
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                message = f"{name} takes seconds above 0, got {seconds}"
                raise OptionError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraState:
    """A camera at one moment.

    Attributes:
        status: `connecting` until the first frame, then `live`; `stale` when frames stay out; `lost` until the next
            try; `ended` after a stream's own end or `close`.
        since: When the status began, in seconds of time.monotonic().
        trouble: Why it was lost the last time, None while it is live and before the first loss.
        frames: How many arrived so far.
        dropped: How many more arrived that a camera cannot have seen, and were given to nobody.
        outages: How often a try to open it failed or it was lost.
    """

    status: Status
    since: float
    trouble: Trouble | None = None
    frames: int = 0
    dropped: int = 0
    outages: int = 0
