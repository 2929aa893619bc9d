"""Pictures from a pipe: JPEG files one after another, as ffmpeg -f image2pipe and many cameras write them."""

import os
import re
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, cast

from deepir.errors import InputError
from deepir.image import decode_image
from deepir.runtime.frame import Frame

_FF, _START, _SCAN, _END = 0xFF, 0xD8, 0xDA, 0xD9
_PART = 1 << 16
_MOST = 64 << 20
"""A picture of more bytes is none: its end was lost."""

_PADDING = b"\0\r\n"
"""Between two pictures: USB cameras fill their buffers up with zeros, and programs end lines."""

_MARKER = re.compile(rb"\xff+([^\xff\x00\xd0-\xd7])", re.DOTALL)
"""In compressed data 0xFF is followed by 0, or by a number for the next restart."""


class Pipe(Protocol):
    """What is read of a stream of bytes."""

    def read1(self, size: int, /) -> bytes:
        """What is there, up to so many bytes; waits for the first one, and is empty at the end."""


class DescriptorPipe:
    """A file descriptor as such a stream.

    sys.stdin.buffer holds a lock while it waits, and Python dies when it ends while a thread holds that.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read1(self, size: int, /) -> bytes:
        return os.read(self._descriptor, size)


def standard_input() -> Pipe:
    """What is piped into this program."""
    try:
        return DescriptorPipe(sys.stdin.buffer.fileno())
    except (OSError, ValueError):
        # of a program that put something else in its place
        return cast("Pipe", sys.stdin.buffer)


class JpegPipe:
    """Every picture of concatenated JPEG files, as it comes.

    Raises:
        InputError: While iterating: no JPEG, a damaged one, or the last one is cut short.
    """

    live = False
    size: tuple[int, int] | None = None
    fps: float | None = None

    def __init__(self, pipe: Pipe, name: str) -> None:
        self.name = name
        self._pipe = pipe

    def __iter__(self) -> Iterator[Frame]:
        for number, encoded in enumerate(split_jpegs(self._pipe, self.name)):
            captured, seen_at = time.monotonic(), time.time()
            image = decode_image(encoded, f"picture {number} of {self.name}")
            yield Frame(number, image, captured, None, self.name, seen_at)

    def close(self) -> None:
        """The pipe is not ours to close."""

    def __enter__(self) -> "JpegPipe":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def split_jpegs(pipe: Pipe, name: str) -> Iterator[bytes]:
    """Each JPEG file of a stream of bytes, as soon as its last byte is there.

    Raises:
        InputError: Not a JPEG, one that is cut short, or none.
    """
    held, number = b"", 0
    walk = _Walk()
    while part := pipe.read1(_PART):
        held = held + part if held else part.lstrip(_PADDING)
        while (end := walk.end_of(held, f"picture {number} of {name}")) is not None:
            yield held[:end]
            held, walk, number = held[end:].lstrip(_PADDING), _Walk(), number + 1
        if len(held) > _MOST:
            message = f"picture {number} of {name} has no end after {len(held)} bytes: is it a JPEG?"
            raise InputError(message)
    if held or number == 0:
        message = (
            f"picture {number} of {name} is cut short after {len(held)} bytes: did the program that writes it fail?"
        )
        raise InputError(message)


class _Walk:
    """Where in a picture we are; goes on when more bytes are there, and starts again for none of them.

    Segments are passed over by their length, because a thumbnail in one of them has an end of its own.
    """

    def __init__(self) -> None:
        self._at = 0
        self._in_scan = False

    def end_of(self, held: bytes, name: str) -> int | None:
        """The number of bytes of the picture at the start; None while they are not all there."""
        if self._at == 0:
            if len(held) < 2:
                return None
            if held[:2] != bytes((_FF, _START)):
                message = f"{name} does not begin like a JPEG ({held[:4].hex(' ')}): give JPEG files one after another"
                raise InputError(message)
            self._at = 2
        while (marker := self._pass_segment(held, name)) is not None:
            if marker == _END:
                return self._at
        return None

    def _pass_segment(self, held: bytes, name: str) -> int | None:
        """The marker of the segment here, which is passed over; None while more bytes are needed."""
        if self._in_scan:
            found = _MARKER.search(held, self._at)
            # the 0xFF of a marker may be the last byte so far
            self._at = max(self._at, len(held) - 1) if found is None else found.end() - 2
            self._in_scan = found is None
        head = held[self._at : self._at + 4]
        if self._in_scan or len(head) < 2:
            return None
        if head[0] != _FF:
            message = f"{name} is damaged at byte {self._at}: did the program that writes it fail?"
            raise InputError(message)
        marker = head[1]
        if marker in {_END, _FF}:
            # 0xFF may be repeated before a marker
            self._at += 2 if marker == _END else 1
            return marker
        if len(head) < 4:
            return None
        self._in_scan = marker == _SCAN
        self._at += 2 + int.from_bytes(head[2:], "big")
        return marker
