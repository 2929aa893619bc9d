"""The camera thread, with captures that the test holds in its hand and a clock that runs only when it is told to."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.errors import OptionError, SourceError
from deepir.runtime.backoff import Backoff
from deepir.runtime.camera import Camera
from deepir.runtime.camera_slot import Slot
from deepir.runtime.camera_state import Patience, Trouble
from deepir.runtime.capture import Capture

PATIENCE = 60.0
"""Never reached by a test that passes."""

AGES = 1e9
"""Seconds of a clock that a lost camera's thread lets run as fast as it can."""

WAIT = Patience(on_lost="wait")
SCENE = np.random.default_rng(7).integers(0, 256, (32, 48, 3), dtype=np.uint8)
FLAT = np.full((32, 48, 3), 90, np.uint8)


def scene(number: int) -> NDArray[np.uint8]:
    """A picture whose first red value is the number."""
    bgr = SCENE.copy()
    bgr[0, 0, 2] = number
    return bgr


class FakeClock:
    """A second passes for whoever asks only when a camera thread waits for it, or `advance` is called.

    Attributes:
        pauses: Seconds that camera threads waited for.
        idle: Released whenever one waits for something else than time.
    """

    def __init__(self) -> None:
        self.time = 100.0
        self.pauses: list[float] = []
        self.idle = threading.Semaphore(0)

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1e9 + self.time

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        if threading.current_thread() is threading.main_thread():
            condition.wait(0.02 if seconds is None else min(seconds, 0.02))
        elif seconds is None:
            self.idle.release()
            condition.wait(PATIENCE)
        else:
            self.pauses.append(seconds)
            self.time += seconds

    def advance(self, seconds: float) -> None:
        self.time += seconds


class FakeCapture:
    """Gives these frames one after another, then fails; a number lets so many seconds pass before the next frame."""

    def __init__(
        self, frames: Iterable[NDArray[Any] | float], clock: FakeClock | None = None, error: Exception | None = None
    ) -> None:
        self.released_in: threading.Thread | None = None
        self.released = threading.Event()
        self.count = 0.0
        self._frames = iter(frames)
        self._clock = clock
        self._error = error

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        for frame in self._frames:
            if isinstance(frame, float):
                assert self._clock is not None
                self._clock.advance(frame)
            else:
                return True, frame
        if self._error is not None:
            raise self._error
        return False, None

    def get(self, property_number: int) -> float:
        return {3: 48.0, 4: 32.0, 5: 30.0, 7: self.count}.get(property_number, 0.0)

    def release(self) -> None:
        self.released_in = threading.current_thread()
        self.released.set()


class HeldCapture(FakeCapture):
    """Each read waits until the test allows it."""

    def __init__(self, frames: Iterable[NDArray[Any] | float]) -> None:
        super().__init__(frames)
        self.allowed, self.waiting = threading.Semaphore(0), threading.Semaphore(0)

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        self.waiting.release()
        assert self.allowed.acquire(timeout=PATIENCE)
        return super().read()

    def allow(self, reads: int) -> None:
        """Let the thread read so often, and wait until it has stored the last frame."""
        for _ in range(reads):
            assert self.waiting.acquire(timeout=PATIENCE)
            self.allowed.release()
        assert self.waiting.acquire(timeout=PATIENCE)
        self.waiting.release()


class SlowOpening:
    """Opening takes until the test allows it to end, and does not find the camera."""

    def __init__(self) -> None:
        self.allowed, self.waiting = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self) -> Trouble:
        self.waiting.release()
        assert self.allowed.acquire(timeout=PATIENCE)
        return Trouble("not found", "no machine is called fake")


Answer = Capture | Trouble | Exception | SlowOpening


class Opener:
    """Gives what it was made of, one a call; after that the camera is not there any more."""

    def __init__(self, *answers: Answer) -> None:
        self.calls = 0
        self._answers = answers

    def __call__(self) -> Capture | Trouble:
        self.calls += 1
        if self.calls > len(self._answers):
            return Trouble("not found", "fake is not there: plug it in")
        answer = self._answers[self.calls - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer() if isinstance(answer, SlowOpening) else answer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock) -> Iterator[Callable[..., Camera]]:
    """make(*answers, patience=...) is a camera; all are closed in the end."""
    made: list[Camera] = []

    def build(*answers: Answer, patience: Patience | None = None) -> Camera:
        made.append(Camera(Opener(*answers), "fake", patience, clock=clock, chance=lambda: 0.0))
        return made[-1]

    yield build
    for camera in made:
        camera.close()


def numbers(camera: Camera) -> Iterator[int]:
    return (int(frame.image[0, 0, 0]) for frame in camera)


Make = Callable[..., Camera]


def test_whoever_asks_late_gets_the_newest_frame_once(make: Make) -> None:
    capture = HeldCapture(map(scene, range(10)))
    frames = iter(make(capture))
    capture.allow(3)
    first = next(frames)
    capture.allow(2)
    second = next(frames)
    capture.allowed.release(10)
    assert [(frame.number, frame.image[0, 0, 0]) for frame in (first, second)] == [(2, 2), (4, 4)]


def test_a_frame_knows_both_its_times(make: Make, clock: FakeClock) -> None:
    frame = next(iter(make(FakeCapture([5.0, scene(0)], clock))))
    assert (frame.captured, frame.seen_at, frame.time) == (105.0, 1e9 + 105.0, None)


def test_size_and_rate_are_those_of_the_driver(make: Make) -> None:
    capture = HeldCapture([])
    camera = make(capture).await_first_try()
    assert (camera.size, camera.fps, camera.live) == ((32, 48), 30.0, True)
    assert camera.state.status == "connecting"
    capture.allowed.release()


def test_a_lost_camera_reaches_the_caller_after_its_last_frame(make: Make) -> None:
    capture = FakeCapture([scene(0)])
    camera = make(capture)
    assert camera.wait_for("lost", AGES)
    frames = iter(camera)
    assert next(frames).number == 0
    with pytest.raises(SourceError, match="lost fake after 1 frames: check its cable or network") as caught:
        next(frames)
    assert caught.value.exit_code == 7


def test_what_the_driver_raises_reaches_the_caller_without_a_password(make: Make) -> None:
    camera = make(FakeCapture([], error=RuntimeError("USB says no to //robot:secret@fake")))
    with pytest.raises(SourceError, match=r"fake failed after 0 frames: USB says no to //\*\*\*@fake"):
        next(iter(camera))


def test_a_camera_that_is_not_there_is_an_error_at_once(make: Make) -> None:
    with pytest.raises(SourceError, match="fake is not there: plug it in"):
        make().await_first_try()


def test_a_camera_that_is_not_there_is_waited_for(make: Make, clock: FakeClock) -> None:
    trouble = Trouble("not found", "not yet")
    camera = make(trouble, trouble, trouble, FakeCapture([scene(9)]), patience=WAIT).await_first_try()
    assert next(numbers(camera)) == 9
    assert clock.pauses[:3] == [0.5, 1.0, 2.0]


def test_a_lost_camera_comes_back_and_its_frames_are_counted_on(make: Make) -> None:
    later = HeldCapture([scene(3)])
    camera = make(FakeCapture([scene(1), scene(2)]), Trouble("refused", "busy"), later, patience=WAIT)
    later.waiting.acquire(timeout=PATIENCE)
    assert (camera.state.status, camera.state.outages) == ("connecting", 2)
    assert camera.state.trouble == Trouble("refused", "busy")
    camera.take(0)
    later.allowed.release(2)
    frame = camera.take()
    assert frame is not None
    assert (frame.number, frame.image[0, 0, 0]) == (2, 3)


def test_delays_double_up_to_thirty_seconds(make: Make, clock: FakeClock) -> None:
    captures = [Trouble("refused", "no")] * 9
    camera = make(*captures, FakeCapture([scene(0)]), patience=WAIT)
    assert next(numbers(camera)) == 0
    assert clock.pauses[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_camera_that_was_good_for_a_while_is_tried_again_soon(make: Make, clock: FakeClock) -> None:
    trouble = Trouble("refused", "no")
    steady = FakeCapture([scene(0), 11.0, scene(1)], clock)
    camera = make(trouble, trouble, steady, FakeCapture([scene(2)]), patience=WAIT)
    assert 2 in numbers(camera)
    assert clock.pauses[:3] == [0.5, 1.0, 0.5]


def test_a_wrong_password_is_not_tried_fast(make: Make, clock: FakeClock) -> None:
    camera = make(Trouble("auth", "wrong"), FakeCapture([scene(0)]), patience=WAIT)
    assert next(numbers(camera)) == 0
    assert clock.pauses[0] == 30


def test_chance_only_shortens_a_delay() -> None:
    rng = np.random.default_rng(7)
    backoff = Backoff(rng.random)
    delays = [backoff.next() for _ in range(20)]
    whole = [0.5, 1, 2, 4, 8, 16, *[30.0] * 14]
    assert all(0.75 * most <= delay <= most for delay, most in zip(delays, whole, strict=True))
    assert len(set(delays)) == 20


def test_no_frame_for_a_while_is_stale(make: Make, clock: FakeClock) -> None:
    capture = HeldCapture(map(scene, range(3)))
    camera = make(capture)
    capture.allow(1)
    assert camera.state.status == "live"
    clock.advance(3)
    assert (camera.state.status, camera.state.since) == ("stale", 102.0)
    capture.allow(1)
    assert camera.state.status == "live"
    capture.allowed.release(2)


def test_a_camera_that_says_nothing_is_lost_in_the_end(make: Make, clock: FakeClock) -> None:
    capture = HeldCapture([])
    camera = make(capture)
    assert capture.waiting.acquire(timeout=PATIENCE)
    clock.advance(21)
    with pytest.raises(SourceError, match="fake gave no frame for 20 seconds"):
        camera.take()
    capture.allowed.release()


def test_a_reader_that_hangs_is_replaced_and_what_it_says_later_counts_no_more(make: Make, clock: FakeClock) -> None:
    hung, good = HeldCapture([scene(66)]), HeldCapture([scene(1)])
    camera = make(hung, good, patience=WAIT)
    assert hung.waiting.acquire(timeout=PATIENCE)
    clock.advance(21)
    assert camera.take(0.0) is None
    assert good.waiting.acquire(timeout=PATIENCE)
    # the one that hangs may still hold the device, so the next try waits
    assert clock.pauses == [0.5]
    hung.allowed.release(3)
    assert hung.released.wait(PATIENCE)
    assert camera.state.frames == 0
    good.allowed.release(1)
    assert next(numbers(camera)) == 1
    good.allowed.release(1)


def test_a_driver_that_hangs_for_good_ends_the_program_even_when_waited_for(make: Make, clock: FakeClock) -> None:
    hung = [HeldCapture([]) for _ in range(4)]
    camera = make(*hung, patience=WAIT)

    def make_time_pass() -> None:
        for capture in hung:
            assert capture.waiting.acquire(timeout=PATIENCE)
            clock.advance(21)

    passing = threading.Thread(target=make_time_pass)
    passing.start()
    with pytest.raises(SourceError, match="the driver of fake hangs and 4 threads with it"):
        camera.take()
    passing.join()
    for capture in hung:
        capture.allowed.release()


def hang(camera: Camera, clock: FakeClock, *hung: HeldCapture | SlowOpening) -> None:
    """Let one after another be found hanging."""
    for one in hung:
        assert one.waiting.acquire(timeout=PATIENCE)
        clock.advance(21)
        assert camera.take(0.0) is None


def test_openings_that_take_long_are_waited_for_and_never_more_than_four_at_once(make: Make, clock: FakeClock) -> None:
    slow = [SlowOpening() for _ in range(4)]
    camera = make(*slow, FakeCapture([scene(1)]), patience=WAIT)
    hang(camera, clock, *slow)
    # the fifth waits for room
    assert clock.idle.acquire(timeout=PATIENCE)
    assert camera.state.frames == 0
    slow[2].allowed.release()
    assert next(numbers(camera)) == 1
    for opening in slow:
        opening.allowed.release()


def test_an_opening_among_readers_that_hang_is_waited_for_and_then_the_driver_is_to_blame(
    make: Make, clock: FakeClock
) -> None:
    slow, hung = SlowOpening(), [HeldCapture([]) for _ in range(4)]
    camera = make(*hung[:2], slow, *hung[2:], patience=WAIT)
    hang(camera, clock, *hung[:2], slow, hung[2])
    assert clock.idle.acquire(timeout=PATIENCE)
    slow.allowed.release()
    with pytest.raises(SourceError, match="the driver of fake hangs and 4 threads with it"):
        hang(camera, clock, hung[3])
    for capture in hung:
        capture.allowed.release()


def test_a_camera_that_waits_for_room_can_be_closed(make: Make, clock: FakeClock) -> None:
    slow = [SlowOpening() for _ in range(4)]
    camera = make(*slow, patience=WAIT)
    hang(camera, clock, *slow)
    assert clock.idle.acquire(timeout=PATIENCE)
    camera.close()
    assert not camera._reader.thread.is_alive()
    assert camera.state.status == "ended"
    for opening in slow:
        opening.allowed.release()


def test_one_that_hangs_again_and_again_is_tried_ever_less_often(make: Make, clock: FakeClock) -> None:
    hung = [HeldCapture([]) for _ in range(3)]
    camera = make(Trouble("refused", "no"), *hung, FakeCapture([scene(1)]), patience=WAIT)
    hang(camera, clock, *hung)
    assert next(numbers(camera)) == 1
    assert clock.pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    for capture in hung:
        capture.allowed.release()


def test_one_that_hangs_after_it_was_good_for_a_while_is_tried_again_soon(make: Make, clock: FakeClock) -> None:
    trouble, steady = Trouble("refused", "no"), HeldCapture([scene(0), scene(1)])
    camera = make(trouble, trouble, steady, FakeCapture([scene(2)]), patience=WAIT)
    steady.allow(1)
    clock.advance(11)
    steady.allow(1)
    clock.advance(21)
    assert 2 in numbers(camera)
    assert clock.pauses[:3] == [0.5, 1.0, 0.5]
    steady.allowed.release()


def test_a_reader_that_waits_on_purpose_is_not_overdue(clock: FakeClock) -> None:
    slot, reader = Slot("fake", WAIT, clock), object()
    slot.admit(reader)
    assert slot.heard == clock.now()
    slot.pause(reader, 0)
    assert slot.heard is None


def test_the_same_pixels_for_long_are_a_frozen_camera(make: Make, clock: FakeClock) -> None:
    still = [frame for _ in range(5) for frame in (scene(1), 6.0)]
    camera = make(FakeCapture(still, clock))
    with pytest.raises(SourceError, match="fake has given the same picture for 24 seconds: restart the camera"):
        list(camera)


def test_a_frozen_camera_that_is_opened_again_is_frozen_still(make: Make, clock: FakeClock) -> None:
    still = [frame for _ in range(5) for frame in (scene(1), 6.0)]
    camera = make(FakeCapture(still, clock), FakeCapture(still, clock), FakeCapture([scene(2)]), patience=WAIT)
    assert 2 in numbers(camera)
    assert camera.wait_for("lost", AGES)
    # four of the first connection, none of the second, one of the third
    assert camera.state.frames == 5


def test_after_another_loss_the_same_picture_is_new(make: Make, clock: FakeClock) -> None:
    connections = [FakeCapture([scene(1), 12.0, scene(1)], clock) for _ in range(2)]
    camera = make(*connections, FakeCapture([scene(2)]), patience=WAIT)
    assert 2 in numbers(camera)
    assert camera.state.frames == 5


def test_a_still_picture_can_be_what_there_is_to_see(make: Make, clock: FakeClock) -> None:
    still = [frame for _ in range(5) for frame in (scene(1), 60.0)]
    camera = make(FakeCapture(still, clock), patience=Patience(frozen=None))
    assert camera.wait_for("lost", AGES)
    assert camera.state.frames == 5


def torn(part: int = 2) -> NDArray[np.uint8]:
    bgr = SCENE.copy()
    bgr[-32 // part :] = 128
    return bgr


@pytest.mark.parametrize(
    "invented", [FLAT, np.zeros_like(FLAT), torn(2), torn(8)], ids=["flat", "black", "half", "end"]
)
def test_frames_that_no_camera_saw_are_given_to_nobody(invented: NDArray[np.uint8], make: Make) -> None:
    camera = make(FakeCapture([invented, invented, scene(5), invented]))
    assert camera.wait_for("lost", AGES)
    frame = camera.take()
    assert frame is not None
    assert (frame.number, frame.image[0, 0, 0]) == (0, 5)
    assert (camera.state.frames, camera.state.dropped) == (1, 3)


def test_a_flat_picture_that_stays_is_what_the_camera_sees(make: Make, clock: FakeClock) -> None:
    camera = make(FakeCapture([FLAT, 1.0, FLAT, 2.5, FLAT], clock))
    assert camera.wait_for("lost", AGES)
    assert (camera.state.frames, camera.state.dropped) == (1, 2)


def test_a_stream_with_an_end_ends(make: Make) -> None:
    capture = FakeCapture([scene(0), scene(1)])
    capture.count = 2.0
    camera = make(capture)
    assert camera.wait_for("ended", AGES)
    assert list(numbers(camera)) == [1]
    assert list(camera) == []


def test_a_stream_that_breaks_off_before_its_end_is_lost(make: Make) -> None:
    capture = FakeCapture([scene(0)])
    capture.count = 2.0
    with pytest.raises(SourceError, match="lost fake"):
        list(make(capture))


def test_taking_waits_no_longer_than_it_may(make: Make) -> None:
    capture = HeldCapture([])
    camera = make(capture)
    assert camera.take(0.0) is None
    capture.allowed.release()


def test_closing_stops_the_thread_and_gives_the_device_back_in_that_thread(make: Make) -> None:
    capture = HeldCapture(map(scene, range(1000)))
    camera = make(capture)
    capture.allow(2)
    capture.allowed.release(1000)
    camera.close()
    assert capture.released_in is not None
    assert capture.released_in.name == "deepir fake"
    assert list(camera) == []
    assert camera.state.status == "ended"


def test_a_closed_camera_is_not_opened_again(make: Make, clock: FakeClock) -> None:
    camera = make(FakeCapture([scene(0)]), FakeCapture([scene(1)]), patience=WAIT)
    camera.close()
    frames = camera.state.frames
    clock.advance(100)
    assert camera.take(1.0) is None
    assert (camera.state.status, camera.state.frames) == ("ended", frames)


def test_a_lost_camera_is_released_before_it_is_opened_again(make: Make) -> None:
    first = FakeCapture([scene(0)])
    seen: list[bool] = []

    class Second(FakeCapture):
        def read(self) -> tuple[bool, NDArray[Any] | None]:
            seen.append(first.released_in is not None)
            return super().read()

    camera = make(first, Second([scene(1)]), patience=WAIT)
    assert 1 in numbers(camera)
    assert seen[0]


def test_an_opener_that_raises_is_a_lost_camera(make: Make) -> None:
    with pytest.raises(SourceError, match="fake failed after 0 frames: no such module"):
        make(ImportError("no such module")).await_first_try()


@pytest.mark.parametrize("wrong", [{"silence": 0.0}, {"stale": float("nan")}, {"frozen": -1.0}, {"on_lost": "cry"}])
def test_patience_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Patience(**wrong)
