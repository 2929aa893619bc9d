"""The annotated video, drawn and encoded in a thread of its own, as long as what it shows."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from deepir.image import Image
from deepir.runtime.annotate import VideoWriter, annotate, annotate_boxes
from deepir.runtime.frame import Frame
from deepir.runtime.handover import Handover
from deepir.runtime.result import Result

_WAITING = 4
"""Frames that wait to be encoded; then the loop waits too."""

_LONGEST_GAP = 2.0
"""Seconds for which the last frame of a camera stands; what it did not see for longer is cut out."""


class Pace:
    """How often each frame of a camera is written: answers come as fast as the model, a video's frames evenly.

    Args:
        fps: Frames a second of the video.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._began: float | None = None
        self._written = 0

    def times(self, captured: float) -> int:
        """How often the frame of this moment is written; 0 where the one before stands for it.

        Args:
            captured: Seconds; rising.
        """
        if self._began is None:
            self._began = captured
        times = round((captured - self._began) * self._fps) + 1 - self._written
        most = max(1, round(_LONGEST_GAP * self._fps))
        self._began += max(0, times - most) / self._fps
        times = min(max(0, times), most)
        self._written += times
        return times


class VideoSink:
    """Writes each frame of a file with its answers; of a camera so many that the video takes as long as it did.

    Args:
        path: As of `VideoWriter`.
        fps: Frames a second of the source, as far as they are looked at; None where that is not known.
        live: Whether it is a camera.

    Raises:
        As of `VideoWriter`; what goes wrong while writing is raised by the next `write` or by `close`.
    """

    def __init__(self, path: Path, fps: float | None, *, live: bool = False) -> None:
        self._writer = VideoWriter(path, fps)
        self._pace = Pace(self._writer.fps) if live else None
        self._waiting: Handover[tuple[Frame, Sequence[Result]]] = Handover(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name=f"deepir {path.name}", daemon=True)
        self._thread.start()

    @property
    def saved(self) -> bool:
        """Whether the video stands under its name."""
        return self._writer.saved

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """Append a frame; waits while several are not encoded yet."""
        if not self._waiting.put((frame, results)):
            self._raise()

    def close(self) -> None:
        """Encode what waits, and finish the file."""
        self._waiting.end()
        self._thread.join()
        self._raise()

    def __enter__(self) -> "VideoSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_all(self) -> None:
        try:
            with self._writer:
                for frame, results in self._waiting:
                    times = 1 if self._pace is None else self._pace.times(frame.captured)
                    if times:
                        self._writer.write(_drawn(frame, results), times)
        except BaseException as error:  # raised in the loop's thread
            self._error = error
            self._waiting.close()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _drawn(frame: Frame, results: Sequence[Result]) -> Image:
    if len(results) == 1 and results[0].part is None:
        return annotate(frame.image, results[0].shown)
    return annotate_boxes(frame.image, [(result.part.box, result.shown) for result in results if result.part])
