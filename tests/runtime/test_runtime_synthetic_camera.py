"""A camera that does not exist: its grammar, its pictures, its faults; all of it in no time."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from deepir.errors import OptionError
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Patience, Trouble
from deepir.runtime.capture import Capture
from deepir.runtime.source import open_source
from deepir.runtime.synthetic_camera import Synthetic, draw_frame, opener_of_synthetic, parse_synthetic

AGES = 1e9
"""Seconds of a clock that runs as fast as it can."""

SMALL = Synthetic(width=64, height=48)


class FakeClock:
    """Whoever waits does so in no time; but the main thread's time is that of the others."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        if threading.current_thread().name.startswith("deepir") or seconds is None:
            self.time += seconds or 0.0
        else:
            condition.wait(0.02)


class DirectClock(FakeClock):
    """For a capture that is read without a camera's thread."""

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        self.time += seconds or 0.0


def connect(word: str, clock: FakeClock) -> Capture:
    answer = opener_of_synthetic(word, clock)()
    assert not isinstance(answer, Trouble)
    return answer


def read_all(capture: Capture) -> list[np.ndarray]:
    frames = []
    while (read := capture.read())[0]:
        assert read[1] is not None
        frames.append(read[1])
    return frames


def test_the_word_alone_is_a_usual_camera() -> None:
    assert parse_synthetic("test://") == Synthetic(width=640, height=480, fps=30.0)


def test_every_part_of_the_word_is_read() -> None:
    word = "test://320x240@12.5?absent=1s&drop=5s&freeze=300ms&stall=4&corrupt=0.1&frames=9&seed=3"
    assert parse_synthetic(word) == Synthetic(
        width=320, height=240, fps=12.5, absent=1, drop=5, freeze=0.3, stall=4, corrupt=0.1, frames=9, seed=3
    )


@pytest.mark.parametrize("word", ["test://320x240", "test://@10", "test://?drop=5s", "test:///?drop=5s"])
def test_parts_may_be_left_out(word: str) -> None:
    parse_synthetic(word)


@pytest.mark.parametrize(
    "word",
    [
        "test://wide",
        "test://0x0",
        "test://64x48@0",
        "test://?drop=soon",
        "test://?drip=5s",
        "test://?corrupt=2",
        "test://?drop=",
    ],
)
def test_what_is_not_understood_is_refused(word: str) -> None:
    with pytest.raises(OptionError):
        parse_synthetic(word)


def test_every_frame_is_another_one_and_the_same_each_time() -> None:
    frames = [draw_frame(SMALL, number) for number in range(300)]
    assert len({frame.tobytes() for frame in frames}) == 300
    np.testing.assert_array_equal(frames[7], draw_frame(SMALL, 7))
    assert min(frame.std() for frame in frames) > 20


def test_frames_come_at_their_rate() -> None:
    clock = DirectClock()
    assert len(read_all(connect("test://64x48@10?drop=5s", clock))) == 50
    assert clock.time == pytest.approx(5.0)


def test_a_share_of_the_frames_is_torn() -> None:
    plan = replace(SMALL, corrupt=0.1)
    torn = [number for number in range(1000) if (draw_frame(plan, number)[24:] == 128).all()]
    assert 70 < len(torn) < 130
    assert torn != [number for number in range(1000) if (draw_frame(replace(plan, seed=2), number)[24:] == 128).all()]


def test_a_frozen_picture_stays_until_the_next_connection() -> None:
    clock = DirectClock()
    open_it = opener_of_synthetic("test://64x48@10?freeze=1s&drop=2s", clock)
    first, second = open_it(), open_it()
    assert not isinstance(first, Trouble)
    frames = read_all(first)
    assert len({frame.tobytes() for frame in frames}) == 11
    assert not isinstance(second, Trouble)
    assert second.read()[1].tobytes() != frames[-1].tobytes()  # type: ignore[union-attr]


def test_a_stall_is_ten_seconds_of_nothing() -> None:
    clock = DirectClock()
    assert len(read_all(connect("test://64x48@10?stall=1s", clock))) == 10
    assert clock.time == pytest.approx(11.0)


def test_it_is_absent_at_first() -> None:
    clock = DirectClock()
    open_it = opener_of_synthetic("test://?absent=3s", clock)
    assert isinstance(open_it(), Trouble)
    clock.time = 3.0
    assert not isinstance(open_it(), Trouble)


def run(word: str, patience: Patience | None = None) -> Camera:
    clock = FakeClock()
    return Camera(opener_of_synthetic(word, clock), word, patience, clock=clock, chance=lambda: 0.0)


def test_it_ends_after_its_frames_and_none_of_them_is_lost_to_an_outage() -> None:
    with run("test://64x48@10?frames=95&drop=2s", Patience(on_lost="wait")) as camera:
        assert camera.wait_for("ended", AGES)
        # each drop comes after 20 frames
        assert (camera.state.frames, camera.state.outages) == (95, 4)


def test_its_torn_frames_are_given_to_nobody() -> None:
    plan = Synthetic(width=64, height=48, corrupt=0.2)
    torn = sum((draw_frame(plan, number)[24:] == 128).all() for number in range(200))
    with run("test://64x48@30?frames=200&corrupt=0.2") as camera:
        assert camera.wait_for("ended", AGES)
        assert (camera.state.dropped, camera.state.frames) == (torn, 200 - torn)


def test_it_freezes_and_is_opened_again() -> None:
    with run("test://64x48@10?frames=300&freeze=2s", Patience(on_lost="wait", frozen=5.0)) as camera:
        assert camera.wait_for("ended", AGES)
        assert camera.state.outages == 4


def test_the_word_is_a_source() -> None:
    with open_source("test://64x48@500?frames=1") as source:
        assert (source.live, source.size, source.fps) == (True, (48, 64), 500.0)
        assert [frame.image.shape for frame in source] == [(48, 64, 3)]
