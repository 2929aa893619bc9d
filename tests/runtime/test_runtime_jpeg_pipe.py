"""Concatenated JPEG files, cut where they end, however the bytes arrive."""

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import InputError
from deepir.image import Image, decode_image
from deepir.runtime.jpeg_pipe import JpegPipe, split_jpegs

RNG = np.random.default_rng(7)


def encode(side: int, *options: int) -> bytes:
    pixels = RNG.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", pixels, list(options))[1])


PROGRESSIVE = encode(64, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTING = encode(64, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
THUMBNAIL = encode(16)
WITH_THUMBNAIL = (
    (PLAIN := encode(48))[:2] + b"\xff\xe1" + (len(THUMBNAIL) + 2).to_bytes(2, "big") + THUMBNAIL + PLAIN[2:]
)
FILLED = PLAIN[:-2] + b"\xff\xff" + PLAIN[-2:]
PICTURES = [PLAIN, PROGRESSIVE, RESTARTING, WITH_THUMBNAIL, FILLED]


class Trickle:
    """Gives the bytes in pieces of these sizes, one after another and again."""

    def __init__(self, held: bytes, sizes: list[int]) -> None:
        self._held = io.BytesIO(held)
        self._sizes = sizes
        self._reads = 0

    def read1(self, size: int, /) -> bytes:
        self._reads += 1
        return self._held.read(min(size, self._sizes[self._reads % len(self._sizes)]))


@given(
    order=st.lists(st.sampled_from(PICTURES), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 3000), min_size=1),
    padding=st.sampled_from([b"", b"\0", b"\0" * 5000, b"\n", b"\r\n"]),
)
def test_every_picture_comes_out_whole_however_the_bytes_arrive_and_without_what_fills_the_gaps(
    order: list[bytes], sizes: list[int], padding: bytes
) -> None:
    padded = b"".join(picture + padding for picture in order)
    assert list(split_jpegs(Trickle(padded, sizes), "pipe")) == order


def test_a_picture_is_given_before_the_next_one_begins() -> None:
    asked: list[int] = []

    class Camera:
        def read1(self, _size: int, /) -> bytes:
            asked.append(1)
            return PLAIN

    pictures = split_jpegs(Camera(), "pipe")
    next(pictures)
    assert len(asked) == 1


def test_frames_are_numbered_and_decoded(picture: Callable[..., Image], rng: np.random.Generator) -> None:
    with JpegPipe(io.BytesIO(PLAIN + PROGRESSIVE), "stdin") as source:
        frames = list(source)
    assert [(frame.number, frame.name) for frame in frames] == [(0, "stdin"), (1, "stdin")]
    np.testing.assert_array_equal(frames[1].image, decode_image(PROGRESSIVE, "progressive"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "picture 0 of pipe is cut short after 0 bytes"),
        (PLAIN[:-1], "picture 0 of pipe is cut short"),
        (PLAIN + PLAIN[:40], "picture 1 of pipe is cut short after 40 bytes"),
        (b"a.jpg\nb.jpg\n", "picture 0 of pipe does not begin like a JPEG"),
        (PLAIN + b"\x89PNG\r\n", "picture 1 of pipe does not begin like a JPEG"),
        (PLAIN[:20] + b"\0\0" + PLAIN[20:], "picture 0 of pipe is damaged at byte"),
    ],
)
def test_what_is_no_jpeg_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(split_jpegs(io.BytesIO(content), "pipe"))


def test_a_program_that_waits_for_pictures_ends_at_sigterm(shop: Path) -> None:
    words = [sys.executable, "-m", "deepir.runtime.cli", "-", "--index", str(shop)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"source"):
                break
        # nothing comes through the pipe, and nobody closes it
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert b"0 frames" in process.stderr.read()
