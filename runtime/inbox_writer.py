"""Pictures that nobody could name, kept in a folder for `deepir-index review`: few, all different, never too many."""

import re
import threading
from collections import deque
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.errors import DeepIRError, InputError
from deepir.files import replacing
from deepir.image import Image
from deepir.optional import need
from deepir.runtime.handover import Handover
from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState

INBOX_MB = 500
"""Megabytes; then the oldest pictures make way."""

_APART = 1.0
"""Seconds between two pictures."""

_REMEMBERED = 32
_ALIKE = 0.95
"""A picture whose descriptor is as near as that to one of the last ones kept shows nothing new."""

_WAITING = 8
_QUALITY = 90
_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z_(unknown|ambiguous)_.*\.jpg")


class InboxWriter:
    """Keeps what is unknown or ambiguous; a `Sink`.

    Args:
        folder: Is made where it is missing.
        megabytes: The most that its own pictures may take; others in the folder are left alone.

    Raises:
        InputError: The folder cannot be made.
    """

    name = "inbox"

    def __init__(self, folder: Path, megabytes: float = INBOX_MB) -> None:
        self._folder = folder
        self._most = int(1e6 * megabytes)
        self._kept: deque[NDArray[np.float32]] = deque(maxlen=_REMEMBERED)
        self._next = 0.0
        self._changed = threading.Lock()
        self._state = SinkState()
        self._own = _own_pictures(folder)
        self._waiting: Handover[tuple[str, Image]] = Handover(_WAITING, newest=True)
        self._thread = threading.Thread(target=self._write_all, name="deepir inbox", daemon=True)
        self._thread.start()

    def take(self, result: Result) -> None:
        """Keep the picture, or its part, if it shows something new that has no name."""
        query_1d, captured = result.query_1d, result.frame.captured
        if result.shown.status == "match" or query_1d is None or captured < self._next or self._knows(query_1d):
            return
        self._next = captured + _APART
        self._kept.append(query_1d)
        moment = datetime.fromtimestamp(result.frame.seen_at, tz=timezone.utc)
        stamp = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z"
        name = f"{stamp}_{result.shown.status}_{result.recognition.similarity:.2f}_{result.frame.number}.jpg"
        # the frame's memory may be used again before the thread comes to it
        self._waiting.put((name, _part(result).copy()))

    @property
    def state(self) -> SinkState:
        """How it is doing; `dropped` are those that could not be written."""
        with self._changed:
            return self._state

    def close(self) -> None:
        """Write what waits."""
        self._waiting.end()
        self._thread.join()

    def _knows(self, query_1d: NDArray[np.float32]) -> bool:
        return any(float(kept_1d @ query_1d) > _ALIKE for kept_1d in self._kept if kept_1d.shape == query_1d.shape)

    def _write_all(self) -> None:
        for name, image in self._waiting:
            trouble = ""
            try:
                self._write(name, image)
            except (OSError, DeepIRError) as error:
                trouble = f"cannot keep a picture in {self._folder}: {error}"
            with self._changed:
                sent, dropped = self._state.sent + (not trouble), self._state.dropped + bool(trouble)
                self._state = SinkState(sent=sent, dropped=dropped, trouble=trouble)

    def _write(self, name: str, image: Image) -> None:
        cv2 = need("cv2")
        _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        content = encoded.tobytes()
        while self._own and sum(size for _, size in self._own) + len(content) > self._most:
            oldest, _ = self._own.popleft()
            oldest.unlink(missing_ok=True)
        path = self._folder / name
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        self._own.append((path, len(content)))


def _part(result: Result) -> Image:
    image = result.frame.image
    if result.part is None:
        return image
    left, top, right, bottom = (max(0, round(side)) for side in result.part.box)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _own_pictures(folder: Path) -> deque[tuple[Path, int]]:
    """What an earlier run kept there, the oldest first; others' pictures do not count."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
        return deque((path, path.stat().st_size) for path in found)
    except OSError as error:
        message = f"cannot keep pictures in {folder}: {error.strerror}"
        raise InputError(message) from error
