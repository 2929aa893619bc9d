"""Pictures that nobody could name, kept in a folder for `deepir-index review`: few, all different, never too many."""

import contextlib
import queue
import re
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.errors import DeepIRError, InputError
from deepir.files import replacing
from deepir.image import Image
from deepir.optional import need
from deepir.runtime.inbox_memory import InboxMemory
from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState

INBOX_MB = 500
"""Megabytes; then the oldest pictures make way."""

_APART = 1.0
"""Seconds between two pictures."""

_WAITING = 8
_FAREWELL = 5.0
_SLACK = 0.05
"""A share of the room that is made besides what is needed, so that the folder is not listed for each picture."""

_QUALITY = 90
_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z_(unknown|ambiguous)_.*\.jpg")


_Picture = tuple[str, Image, NDArray[np.float32]]
"""Its file's name, its pixels, its descriptor."""


class InboxWriter:
    """Keeps what is unknown or ambiguous; a `Sink`.

    Args:
        folder: Is made where it is missing.
        megabytes: The most that its own pictures may take; others in the folder are left alone.

    Raises:
        InputError: The folder cannot be made.
        MissingDependency: OpenCV is not installed.
    """

    name = "inbox"

    def __init__(self, folder: Path, megabytes: float = INBOX_MB) -> None:
        need("cv2")
        self._folder = folder
        self._most = int(1e6 * megabytes)
        self._memory = InboxMemory()
        self._next = 0.0
        self._changed = threading.Lock()
        self._state = SinkState()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._own = _own_pictures(folder)
        except OSError as error:
            message = f"cannot keep pictures in {folder}: {error.strerror}"
            raise InputError(message) from error
        self._waiting: queue.Queue[_Picture | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="deepir inbox", daemon=True)
        self._thread.start()

    def take(self, result: Result) -> None:
        """Keep the picture, or its part, if it shows something new that has no name."""
        query_1d, captured = result.query_1d, result.frame.captured
        if result.shown.status == "match" or query_1d is None or captured < self._next:
            return
        if self._memory.knows(query_1d):
            return
        moment = datetime.fromtimestamp(result.frame.seen_at, tz=timezone.utc)
        stamp = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z"
        name = f"{stamp}_{result.shown.status}_{result.recognition.similarity:.2f}_{result.frame.number}.jpg"
        # before it is written: one like it may come meanwhile
        self._memory.add(query_1d)
        try:
            # the frame's memory may be used again before the thread comes to it
            self._waiting.put_nowait((name, _part(result).copy(), query_1d.copy()))
        except queue.Full:
            self._memory.forget(query_1d)
            self._count(f"pictures come faster than {self._folder} takes them")
            return
        self._next = captured + _APART

    @property
    def state(self) -> SinkState:
        """How it is doing; `dropped` are those that could not be written."""
        with self._changed:
            return replace(self._state, waiting=self._waiting.qsize())

    def close(self) -> None:
        """Write what waits, for five seconds at most."""
        # a disk that hangs must not keep the program from its end
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_FAREWELL)
        self._thread.join(_FAREWELL)

    def _write_all(self) -> None:
        while (picture := self._waiting.get()) is not None:
            trouble = ""
            name, image, query_1d = picture
            try:
                self._write(name, image)
            except OSError as error:
                trouble = f"cannot keep a picture in {self._folder}: {error.strerror or error}"
            except DeepIRError as error:
                trouble = f"cannot keep a picture in {self._folder}: {error}"
            if trouble:
                # the disk may be well again when the thing is seen again
                self._memory.forget(query_1d)
            self._count(trouble)

    def _count(self, trouble: str) -> None:
        with self._changed:
            sent, dropped = self._state.sent + (not trouble), self._state.dropped + bool(trouble)
            self._state = SinkState(sent=sent, dropped=dropped, trouble=trouble)

    def _write(self, name: str, image: Image) -> None:
        content = _encoded(image)
        self._make_room(len(content))
        path, number = self._folder / name, 1
        while path.exists():
            number += 1
            path = self._folder / f"{name.removesuffix('.jpg')}-{number}.jpg"
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        self._own.append((path, len(content)))

    def _make_room(self, needed: int) -> None:
        if needed > self._most:
            message = f"one of {needed} bytes does not fit into {self._most}: give it more room with --inbox-mb"
            raise InputError(message)
        if _size(self._own) + needed <= self._most:
            return
        # those that were reviewed meanwhile need no room any more
        self._own = _own_pictures(self._folder)
        room = self._most - needed
        if _size(self._own) > room:
            while self._own and _size(self._own) > room - _SLACK * self._most:
                self._own.popleft()[0].unlink(missing_ok=True)


def _part(result: Result) -> Image:
    """The picture, or its part; with no pixels for a box beside it."""
    image = result.frame.image
    if result.part is None:
        return image
    left, top, right, bottom = (max(0, round(side)) for side in result.part.box)
    return image[top:bottom, left:right]


def _encoded(image: Image) -> bytes:
    cv2 = need("cv2")
    try:
        done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    except cv2.error:
        done = False
    if not done:
        message = f"a picture of shape {image.shape} cannot be a JPEG"
        raise InputError(message)
    content: bytes = encoded.tobytes()
    return content


def _size(pictures: Iterable[tuple[Path, int]]) -> int:
    return sum(size for _, size in pictures)


def _own_pictures(folder: Path) -> deque[tuple[Path, int]]:
    """What this run or an earlier one kept there, the oldest first; others' pictures do not count."""
    found: deque[tuple[Path, int]] = deque()
    for path in sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)):
        # whoever reviews them takes some away at the same time
        with contextlib.suppress(FileNotFoundError):
            found.append((path, path.stat().st_size))
    return found
