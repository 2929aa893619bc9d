"""The annotated video, drawn and encoded in a thread of its own; no frame is left out."""

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


class VideoSink:
    """Writes each frame with its answers.

    Args and Raises: as `VideoWriter`; what goes wrong while writing is raised by the next `write` or by `close`.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self._writer = VideoWriter(path, fps)
        self._waiting: Handover[tuple[Frame, Sequence[Result]]] = Handover(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name=f"deepir {path.name}", daemon=True)
        self._thread.start()

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
                    self._writer.write(_drawn(frame, results))
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
