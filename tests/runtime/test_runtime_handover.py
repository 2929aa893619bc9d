"""Things handed from thread to thread: in order and all, or only the newest; ends, errors and closing reach both."""

import threading

import pytest

from deepir.runtime.handover import Handover

WAIT = 60.0


def started(work: object) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_all_things_come_in_order_though_few_have_room() -> None:
    handover: Handover[int] = Handover(2)

    def put() -> None:
        for number in range(1000):
            handover.put(number)
        handover.end()

    thread = started(put)
    assert list(handover) == list(range(1000))
    thread.join(WAIT)
    assert handover.over


def test_who_puts_waits_while_there_is_no_room() -> None:
    handover: Handover[int] = Handover(1)
    handover.put(0)
    through = threading.Event()
    started(lambda: (handover.put(1), through.set()))
    assert not through.is_set()
    assert handover.take() == 0
    assert through.wait(WAIT)
    assert handover.take() == 1


def test_the_newest_takes_the_place_of_what_waits_without_waiting() -> None:
    handover: Handover[int] = Handover(1, newest=True)
    assert all(handover.put(number) for number in range(5))
    assert handover.take(0) == 4
    assert handover.take(0) is None


def test_an_error_comes_after_what_was_put_before_it_and_again_for_who_asks_again() -> None:
    handover: Handover[int] = Handover(3)
    handover.put(1)
    handover.end(ValueError("broken"))
    assert not handover.over
    assert handover.take() == 1
    # or a loop that asks this first would end as if all were well
    assert not handover.over
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            handover.take()


def test_taking_with_a_limit_gives_nothing_when_nothing_comes_and_that_is_not_the_end() -> None:
    handover: Handover[int] = Handover(1)
    assert handover.take(0) is None
    assert not handover.over


def test_closing_frees_who_puts_and_who_takes() -> None:
    full: Handover[int] = Handover(1)
    full.put(0)
    empty: Handover[int] = Handover(1)
    told: list[object] = []
    threads = [started(lambda: told.append(full.put(1))), started(lambda: told.append(empty.take()))]
    full.close()
    empty.close()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(map(str, told)) == ["False", "None"]
    assert full.over
    assert not full.put(2)


def test_after_closing_an_error_is_not_raised_any_more() -> None:
    handover: Handover[int] = Handover(1)
    handover.end(ValueError("broken"))
    handover.close()
    assert handover.take() is None
