"""What a running loop tells of itself: counts, rate, latencies, the camera, memory."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.runtime import Recogniser
from deepir.runtime.boxes import Part
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Patience, Trouble
from deepir.runtime.frame import Frame
from deepir.runtime.recogniser import Recognition
from deepir.runtime.recording import ImageFiles
from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState
from deepir.runtime.vitals import Vitals, resident_bytes

FRAME = np.zeros((4, 6, 3), np.uint8)


class Hand:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Broken:
    """A sink that tells of trouble."""

    name = "webhook"
    state = SinkState(sent=3, waiting=2, dropped=1, trouble="nobody is there")

    def take(self, result: Result) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


@pytest.fixture
def recogniser(shop: Path) -> Iterator[Recogniser]:
    with Recogniser.open(shop) as opened:
        yield opened


def answer(recogniser: Recogniser, frame: Frame, *, status: Any = "match", age: float = 0.1, **words: Any) -> Result:
    steps = {"prepare": 1.0, "describe": 1000 * age, "search": 0.5}
    recognition = Recognition(status, "red" if status == "match" else None, 0.9, 0.1, (("red", 0.9),), steps)
    return Result(frame, recognition, age, recogniser.index, None, **words)


def frame(number: int) -> Frame:
    return Frame(number, FRAME, 0.0, None, "camera")


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def vitals(recogniser: Recogniser, clock: Hand) -> Vitals:
    return Vitals(recogniser, ImageFiles([], "pictures"), [Broken()], clock)


def test_answers_are_counted_by_what_was_shown_and_frames_once(vitals: Vitals, recogniser: Recogniser) -> None:
    first, second = frame(0), frame(1)
    part = Part((0, 0, 2, 2))
    for one in (
        answer(recogniser, first, part=part),
        answer(recogniser, first, status="unknown", part=part),
        answer(recogniser, second, status="ambiguous"),
    ):
        vitals.note(one)
    assert vitals.counts == {"match": 1, "ambiguous": 1, "unknown": 1}
    assert (vitals.results, vitals.frames) == (3, 2)
    assert vitals.latest is not None
    assert vitals.latest.frame is second
    assert len(vitals.latest_of_frame) == 1


def test_the_rate_is_that_of_the_last_ten_seconds(vitals: Vitals, recogniser: Recogniser, clock: Hand) -> None:
    for second in range(20):
        clock.seconds = second
        for number in range(4):
            vitals.note(answer(recogniser, frame(4 * second + number)))
    assert vitals.rate == pytest.approx(4, rel=0.11)
    clock.seconds = 100
    assert vitals.rate == 0


def test_a_fast_loop_has_its_rate_though_not_all_answers_are_kept(
    vitals: Vitals, recogniser: Recogniser, clock: Hand
) -> None:
    for number in range(5000):
        clock.seconds = number / 1000
        vitals.note(answer(recogniser, frame(number)))
    assert vitals.rate == pytest.approx(1000, rel=0.01)


def test_the_report_is_one_json_object_with_everything(vitals: Vitals, recogniser: Recogniser) -> None:
    for number, age in enumerate(np.linspace(0.01, 1.0, 100)):
        vitals.note(answer(recogniser, frame(number), age=float(age)))
    report = json.loads(json.dumps(vitals.report()))
    assert report["age_ms"]["p50"] == pytest.approx(505)
    assert report["age_ms"]["p99"] == pytest.approx(990.1)
    assert report["ms"]["describe"]["p50"] == pytest.approx(505)
    assert set(report["ms"]) == {"prepare", "describe", "search"}
    assert (report["results"], report["frames"], report["match"], report["unknown"]) == (100, 100, 100, 0)
    assert report["last"]["label"] == "red"
    assert report["sinks"] == {"webhook": {"sent": 3, "waiting": 2, "dropped": 1, "trouble": "nobody is there"}}
    assert (report["index"]["items"], report["index"]["labels"]) == (12, 4)
    assert report["index"]["threshold"] == recogniser.threshold
    assert report["model"]["fingerprint"] == recogniser.extractor.card.spec.fingerprint
    assert report["source"]["name"] == "pictures"
    assert "status" not in report["source"]


def test_a_loop_that_does_not_go_round_shows(vitals: Vitals, clock: Hand) -> None:
    clock.seconds = 5.0
    vitals.beat(31.04)
    clock.seconds = 17.5
    report = vitals.report()
    assert (report["loop_s"], report["stuck_s"]) == (12.5, 31.0)


def test_before_the_first_answer_the_report_has_nothing_to_tell(vitals: Vitals) -> None:
    report = vitals.report()
    assert (report["last"], report["age_ms"], report["ms"], report["rate"]) == (None, None, {}, 0)
    assert vitals.latest is None


def test_a_lost_camera_is_told_with_its_reason(recogniser: Recogniser) -> None:
    trouble = Trouble("refused", "nobody listens there")
    with Camera(lambda: trouble, "rtsp://***@host/1", Patience(on_lost="wait")) as camera:
        assert camera.wait_for("lost", 60)
        source = Vitals(recogniser, camera).report()["source"]
    assert source["trouble"] == {"kind": "refused", "sentence": "nobody listens there"}
    assert (source["status"] in {"lost", "connecting"}, source["outages"] >= 1) == (True, True)
    assert source["name"] == "rtsp://***@host/1"


def test_the_memory_is_what_the_system_says() -> None:
    found = resident_bytes()
    status = Path("/proc/self/status")
    if not status.exists():
        assert found is None
        return
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    assert found is not None
    assert math.isclose(found, 1024 * int(line.split()[1]), rel_tol=0.2)
