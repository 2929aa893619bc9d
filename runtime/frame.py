"""One picture of a source, and what every source offers."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from deepir.image import Image


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        number: Counts from 0; of a camera, gaps are frames that were too old when somebody asked.
        image: (H, W, 3) RGB.
        captured: When it arrived, in seconds of time.monotonic().
        time: Seconds from the start of the video; None for cameras and images.
        name: The file, or the source, it came from.
    """

    number: int
    image: Image
    captured: float
    time: float | None
    name: str


class Source(Protocol):
    """Where pictures come from; iterate it once, then close it.

    Attributes:
        name: As a person would call it; holds no password.
        live: True: only the newest frame counts and the end is a loss; False: every frame, the end is normal.
        size: (height, width) in pixels; None when pictures differ.
        fps: Frames per second; None when there is no such thing.
    """

    name: str
    live: bool
    size: tuple[int, int] | None
    fps: float | None

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Give the device or file back."""

    def __enter__(self) -> "Source": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
