"""One picture of a source, and what every source offers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import time as wall_clock
from types import TracebackType
from typing import Protocol

from deepir.image import Image


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        number: Counts from 0; of a camera, gaps are frames that were too old when somebody asked.
        image: (H, W, 3) RGB.
        captured: When it arrived, in seconds of time.monotonic(): ages are counted from it.
        time: Seconds from the start of the video; None for cameras and images.
        name: The file, or the source, it came from.
        seen_at: When it arrived, in seconds since 1970: for records, because this clock may jump.
    """

    number: int
    image: Image
    captured: float
    time: float | None
    name: str
    seen_at: float = field(default_factory=wall_clock)


class Source(Protocol):
    """Where pictures come from; iterate it once, then close it.

    Attributes:
        name: As a person would call it; holds no password.
        live: True: only the newest frame counts and the end is a loss; False: every frame, the end is normal.
    """

    name: str
    live: bool

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels; None when pictures differ, or nothing is known yet."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None when there is no such thing, or nothing is known yet."""

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Give the device or file back."""

    def __enter__(self) -> "Source": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
