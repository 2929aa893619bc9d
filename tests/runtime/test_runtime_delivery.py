"""Records on their way: in order, again until they arrive, the oldest given up when too many wait."""

import threading
from collections.abc import Callable

import pytest

from deepir.runtime.boxes import Part
from deepir.runtime.delivery import SENDS, Choice, Delivery, DeliveryError, Record, RefusedError, Send
from deepir.runtime.result import Result

MakeAnswer = Callable[..., Result]

WAIT = 60.0


class FastClock:
    """Fake time: whoever waits finds the time passed at once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        assert seconds is not None
        self.waits.append(seconds)
        self.seconds += seconds


class OtherSide:
    """Takes records, but first fails as told."""

    def __init__(self, *failures: DeliveryError) -> None:
        self.taken: list[int] = []
        self._failures = list(failures)

    def __call__(self, record: Record) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.taken.append(record["frame"])


def delivery(deliver: Callable[[Record], None], clock: FastClock | None = None, room: int = 1000) -> Delivery:
    return Delivery("test", deliver, Choice("all"), room=room, clock=clock or FastClock(), chance=lambda: 0.0)


def test_all_arrive_in_order(make_answer: MakeAnswer) -> None:
    other = OtherSide()
    sender = delivery(other)
    for number in range(100):
        sender.take(make_answer(number))
    sender.close()
    assert other.taken == list(range(100))
    assert (sender.state.sent, sender.state.waiting, sender.state.dropped, sender.state.trouble) == (100, 0, 0, "")


def test_a_record_is_sent_again_ever_more_slowly_until_it_arrives(make_answer: MakeAnswer) -> None:
    clock = FastClock()
    other = OtherSide(*[DeliveryError("nobody is there")] * 9)
    sender = delivery(other, clock)
    sender.take(make_answer(7))
    assert sender.wait_for(lambda state: state.sent == 1, WAIT)
    sender.close()
    assert other.taken == [7]
    assert clock.waits[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_server_that_says_when_to_come_again_is_not_asked_before(make_answer: MakeAnswer) -> None:
    clock = FastClock()
    other = OtherSide(DeliveryError("busy", wait=20.0), DeliveryError("busy", wait=0.1), DeliveryError("busy"))
    sender = delivery(other, clock)
    sender.take(make_answer(7))
    assert sender.wait_for(lambda state: state.sent == 1, WAIT)
    sender.close()
    assert clock.waits == [20, 1, 2]


def test_after_a_success_the_delays_begin_anew(make_answer: MakeAnswer) -> None:
    clock = FastClock()
    failure = DeliveryError("away")
    failures = iter([failure, failure, None, failure, None])

    def deliver(_record: Record) -> None:
        if (error := next(failures)) is not None:
            raise error

    sender = delivery(deliver, clock)
    sender.take(make_answer(1))
    assert sender.wait_for(lambda state: state.sent == 1, WAIT)
    sender.take(make_answer(2))
    assert sender.wait_for(lambda state: state.sent == 2, WAIT)
    sender.close()
    assert clock.waits == [0.5, 1, 0.5]


def test_the_trouble_is_told_while_it_lasts(make_answer: MakeAnswer) -> None:
    again = threading.Event()

    def deliver(_record: Record) -> None:
        if not again.is_set():
            message = "nobody is there"
            raise DeliveryError(message)

    sender = delivery(deliver)
    sender.take(make_answer(1))
    assert sender.wait_for(lambda state: state.trouble == "nobody is there" and state.waiting == 1, WAIT)
    again.set()
    assert sender.wait_for(lambda state: state.sent == 1, WAIT)
    assert sender.state.trouble == ""
    sender.close()


def test_what_is_refused_is_given_up_and_the_next_goes_on(make_answer: MakeAnswer) -> None:
    other = OtherSide(RefusedError("never"))
    sender = delivery(other)
    for number in range(3):
        sender.take(make_answer(number))
    assert sender.wait_for(lambda state: state.sent == 2, WAIT)
    sender.close()
    assert (other.taken, sender.state.dropped) == ([1, 2], 1)


def test_when_too_many_wait_the_oldest_are_given_up_and_counted(make_answer: MakeAnswer) -> None:
    begun, go = threading.Event(), threading.Event()
    other = OtherSide()

    def deliver(record: Record) -> None:
        begun.set()
        assert go.wait(WAIT)
        other(record)

    sender = delivery(deliver, room=3)
    sender.take(make_answer(0))
    assert begun.wait(WAIT)
    for number in range(1, 9):
        sender.take(make_answer(number))
    assert (sender.state.waiting, sender.state.dropped) == (4, 5)
    go.set()
    sender.close()
    assert other.taken == [0, 6, 7, 8]


def test_one_that_the_other_side_never_takes_is_given_up_when_too_many_wait_behind_it(make_answer: MakeAnswer) -> None:
    other = OtherSide()

    def deliver(record: Record) -> None:
        if record["frame"] == 0:
            message = "it answers 500"
            raise DeliveryError(message)
        other(record)

    sender = delivery(deliver, room=3)
    sender.take(make_answer(0))
    assert sender.wait_for(lambda state: state.trouble == "it answers 500", WAIT)
    for number in range(1, 4):
        sender.take(make_answer(number))
    assert sender.wait_for(lambda state: state.sent == 3, WAIT)
    sender.close()
    assert (other.taken, sender.state.dropped, sender.state.trouble) == ([1, 2, 3], 1, "")


def test_at_the_end_what_cannot_be_sent_in_five_seconds_is_dropped(make_answer: MakeAnswer) -> None:
    clock = FastClock()
    asked = threading.Event()

    def deliver(_record: Record) -> None:
        asked.set()
        message = "away"
        raise DeliveryError(message)

    sender = delivery(deliver, clock)
    for number in range(4):
        sender.take(make_answer(number))
    assert asked.wait(WAIT)
    sender.close()
    assert (sender.state.sent, sender.state.waiting, sender.state.dropped) == (0, 0, 4)


SEEN = ["red", "red", None, None, "blue", "red"]


@pytest.mark.parametrize(
    ("send", "numbers"), [("all", [0, 1, 2, 3, 4, 5]), ("matches", [0, 1, 4, 5]), ("changes", [0, 2, 4, 5])]
)
def test_what_is_sent(make_answer: MakeAnswer, send: Send, numbers: list[int]) -> None:
    choice = Choice(send)
    assert [number for number, label in enumerate(SEEN) if choice.takes(make_answer(number, label))] == numbers
    assert send in SENDS


def test_each_thing_that_a_tracker_follows_has_changes_of_its_own(make_answer: MakeAnswer) -> None:
    choice = Choice("changes")
    told = [
        choice.takes(make_answer(number, label, part=Part((0, 0, 1, 1), tracker)))
        for number, (tracker, label) in enumerate([(1, "red"), (2, "blue"), (1, "red"), (2, "blue"), (1, "blue")])
    ]
    assert told == [True, True, False, False, True]


def test_of_boxes_without_a_tracker_what_the_frame_before_did_not_show_is_a_change(make_answer: MakeAnswer) -> None:
    choice = Choice("changes")
    frames = [["red", "blue"], ["blue", "red", "red"], ["red", None, None], ["red", "blue"]]
    told = [
        (number, label)
        for number, labels in enumerate(frames)
        for label in labels
        if choice.takes(make_answer(number, label, part=Part((0, 0, 1, 1))))
    ]
    assert told == [(0, "red"), (0, "blue"), (2, None), (3, "blue")]


def test_a_record_that_cannot_be_sent_at_all_is_given_up_and_the_next_goes_on(make_answer: MakeAnswer) -> None:
    sent: list[int] = []

    def deliver(record: Record) -> None:
        if record["frame"] == 0:
            message = "no such thing at http://robot:secret@host/"
            raise KeyError(message)
        sent.append(record["frame"])

    sender = delivery(deliver)
    sender.take(make_answer(0))
    assert sender.wait_for(lambda state: "KeyError" in state.trouble, WAIT)
    assert "secret" not in sender.state.trouble
    sender.take(make_answer(1))
    sender.close()
    assert (sent, sender.state.sent, sender.state.dropped) == ([1], 1, 1)


def test_at_the_end_what_waits_for_its_next_try_is_tried_at_once(make_answer: MakeAnswer) -> None:
    class Standing(FastClock):
        """Time that does not pass: only the end wakes who waits."""

        def wait(self, condition: threading.Condition, seconds: float | None) -> None:
            condition.wait(WAIT)

    other = OtherSide(DeliveryError("away"))
    sender = delivery(other, Standing())
    sender.take(make_answer(3))
    assert sender.wait_for(lambda state: bool(state.trouble), WAIT)
    sender.close()
    assert (other.taken, sender.state.sent, sender.state.dropped) == ([3], 1, 0)
