"""A camera that does not exist: moving pictures and every fault of a real one, the same each time.

test://640x480@30?drop=5s&freeze=3s&corrupt=0.1

    640x480@30    width, height and frames per second; test:// alone is this
    absent=3s     it is not there for the first 3 seconds
    drop=5s       each connection is lost 5 seconds after it was made
    freeze=3s     from 3 seconds after it was made on, its picture does not change
    stall=4s      from 4 seconds after it was made on, no frame comes, and no error for 10 seconds
    corrupt=0.1   a tenth of the frames is torn: their lower half is grey
    frames=300    it ends after 300 frames
    seed=1        which frames are torn

Times are numbers of seconds, or of milliseconds (500ms).
"""

import math
import re
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from deepir.errors import OptionError
from deepir.optional import need
from deepir.runtime.camera_reader import Opener
from deepir.runtime.camera_state import Trouble
from deepir.runtime.capture import Capture
from deepir.runtime.clock import SYSTEM_CLOCK, Clock

_FORM = re.compile(r"test://(?:(\d+)x(\d+))?(?:@(\d+(?:\.\d+)?))?/?(?:\?(.*))?")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|)")
_EXAMPLE = "write test://640x480@30?drop=5s&freeze=3s&stall=4s&absent=3s&corrupt=0.1&frames=300&seed=1"
_STALL = 10.0
"""As long as OpenCV waits for V4L2 and we let FFmpeg wait."""

_MOST_SIDE, _MOST_RATE = 8192, 1000
_GREY = 128
_SQUARES, _STEP = 8, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """What a test:// source does; checked when it is made. Seconds count from each connection, `absent` from the start.

    Raises:
        OptionError: A number out of range.
    """

    width: int = 640
    height: int = 480
    fps: float = 30.0
    absent: float = 0.0
    drop: float = math.inf
    freeze: float = math.inf
    stall: float = math.inf
    corrupt: float = 0.0
    frames: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not (16 <= self.width <= _MOST_SIDE and 16 <= self.height <= _MOST_SIDE and 0 < self.fps <= _MOST_RATE):
            message = (
                f"test:// takes sides of 16 to {_MOST_SIDE} pixels and up to {_MOST_RATE} frames per second, "
                f"got {self.width}x{self.height}@{self.fps:g}"
            )
            raise OptionError(message)
        if not 0 <= self.corrupt <= 1:
            message = f"corrupt is a share of the frames, 0 to 1, got {self.corrupt:g}"
            raise OptionError(message)


def parse_synthetic(word: str) -> Synthetic:
    """Read a test:// word; the grammar is this module's docstring.

    Raises:
        OptionError: Says what is not understood.
    """
    form = _FORM.fullmatch(word)
    if form is None:
        message = f"not understood: {word}; {_EXAMPLE}"
        raise OptionError(message)
    width, height, fps, query = form.groups()
    facts: dict[str, Any] = {"width": width and int(width), "height": height and int(height), "fps": fps and float(fps)}
    for name, value in parse_qsl(query or "", keep_blank_values=True):
        facts[name] = _read(name, value, word)
    return Synthetic(**{name: value for name, value in facts.items() if value is not None})


def opener_of_synthetic(word: str, clock: Clock = SYSTEM_CLOCK) -> Opener:
    """Connects to a camera that does not exist.

    Raises:
        OptionError: As `parse_synthetic`.
    """
    plan = parse_synthetic(word)
    source = _Source(plan, word, clock)
    return source.connect


class _Source:
    """Counts frames over all connections, so that no two of them show the same."""

    def __init__(self, plan: Synthetic, word: str, clock: Clock) -> None:
        self.plan = plan
        self.clock = clock
        self.given = 0
        self.ended = False
        self._word = word
        self._begun = clock.now()

    def connect(self) -> Capture | Trouble:
        if self.clock.now() - self._begun < self.plan.absent:
            return Trouble("not found", f"{self._word} is not there for {self.plan.absent:g} seconds, as it says")
        return _SyntheticCapture(self)


class _SyntheticCapture:
    """One connection; as cv2.VideoCapture."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._begun = source.clock.now()
        self._read = 0
        self._never = threading.Condition()
        self._frozen_at: int | None = None

    def isOpened(self) -> bool:  # noqa: N802 OpenCV's name
        return True

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        source, plan = self._source, self._source.plan
        if plan.frames is not None and source.given >= plan.frames:
            return False, None
        due = self._read / plan.fps
        if due >= plan.stall:
            self._wait_until(self._begun + due + _STALL)
            return False, None
        self._wait_until(self._begun + due)
        if due >= plan.drop:
            return False, None
        number = source.given
        source.given += 1
        self._read += 1
        if due >= plan.freeze:
            self._frozen_at = number = number if self._frozen_at is None else self._frozen_at
        return True, draw_frame(plan, number)

    def get(self, property_number: int) -> float:
        cv2, plan = need("cv2"), self._source.plan
        facts = {
            cv2.CAP_PROP_FRAME_WIDTH: float(plan.width),
            cv2.CAP_PROP_FRAME_HEIGHT: float(plan.height),
            cv2.CAP_PROP_FPS: plan.fps,
            # of this connection: the reader ends, and tries no more, when it has had them all
            cv2.CAP_PROP_FRAME_COUNT: 0.0 if plan.frames is None else float(plan.frames - self._source.given),
        }
        return facts.get(property_number, 0.0)

    def release(self) -> None:
        """Nothing is held."""

    def _wait_until(self, moment: float) -> None:
        clock = self._source.clock
        with self._never:
            while (left := moment - clock.now()) > 0:
                clock.wait(self._never, left)


def draw_frame(plan: Synthetic, number: int) -> NDArray[np.uint8]:
    """Frame `number` as BGR (H, W, 3): coloured squares that move, and a torn lower half where it is its turn."""
    ys = ((np.arange(plan.height) + _STEP * number) * _SQUARES // plan.height).astype(np.uint8)
    xs = ((np.arange(plan.width) + _STEP * number) * _SQUARES // plan.width).astype(np.uint8)
    # one channel for each direction, and one that every step changes everywhere; all of them go round at 256
    bgr = np.empty((plan.height, plan.width, 3), np.uint8)
    bgr[..., 0] = (37 * ys)[:, None]
    bgr[..., 1] = (59 * xs)[None, :]
    bgr[..., 2] = 83 * (ys[:, None] ^ xs[None, :]) + np.uint8(number % 256)
    if plan.corrupt and np.random.default_rng([plan.seed, number]).random() < plan.corrupt:
        bgr[plan.height // 2 :] = _GREY
    return bgr


def _read(name: str, value: str, word: str) -> float | int:
    if name in {"absent", "drop", "freeze", "stall"} and (time := _TIME.fullmatch(value)):
        return float(time[1]) / (1000 if time[2] == "ms" else 1)
    if name in {"frames", "seed"} and re.fullmatch(r"\d+", value):
        return int(value)
    if name == "corrupt" and re.fullmatch(r"\d*\.?\d+", value):
        return float(value)
    message = f"{name}={value} is not understood in {word}; {_EXAMPLE}"
    raise OptionError(message)
