"""What counts as just seen, by time and by key."""

import pytest

from deepir.errors import OptionError
from deepir.runtime.pose import Spot
from deepir.runtime.recent_past import RecentPast


def recent_times(past: RecentPast, now: float, times: list[float | None]) -> list[float | None]:
    return [time for time in times if past.holds(Spot(1, time=time), now=now, newest_key=None)]


def test_seconds_leave_out_what_is_nearer_in_time() -> None:
    assert recent_times(RecentPast.parse("30s"), 100, [60, 70, 70.1, 99, 100]) == [70.1, 99, 100]


def test_what_was_recorded_just_after_the_query_is_just_seen_too() -> None:
    assert recent_times(RecentPast.parse("30s"), 100, [129, 130, 500]) == [129]


def test_an_item_without_a_time_is_of_an_older_map() -> None:
    assert recent_times(RecentPast.parse("30s"), 100, [None]) == []


def test_keys_leave_out_the_last_so_many() -> None:
    past = RecentPast.parse("200")
    assert [key for key in (799, 800, 801, 1000) if past.holds(Spot(key), now=None, newest_key=1000)] == [801, 1000]


@pytest.mark.parametrize("text", ["30s", "0.5s", "200"])
def test_it_is_written_as_it_is_read(text: str) -> None:
    assert str(RecentPast.parse(f" {text} ")) == text


@pytest.mark.parametrize("text", ["", "s", "30m", "2.5", "thirty", "30 s s"])
def test_what_is_neither_is_refused_with_both_forms(text: str) -> None:
    with pytest.raises(OptionError, match="30s, or a number of keys such as 200"):
        RecentPast.parse(text)


@pytest.mark.parametrize("text", ["0s", "-1s", "0", "-5", "nans", "infs"])
def test_a_past_without_length_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="leave it out"):
        RecentPast.parse(text)


@pytest.mark.parametrize("fields", [{}, {"seconds": 3.0, "keys": 3}])
def test_it_is_one_of_the_two(fields: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="either seconds"):
        RecentPast(**fields)


def test_seconds_need_the_time_of_the_query() -> None:
    with pytest.raises(OptionError, match="the query needs a time"):
        RecentPast.parse("30s").holds(Spot(1, time=3.0), now=None, newest_key=9)


def test_keys_need_the_newest_one() -> None:
    with pytest.raises(OptionError, match="newest key"):
        RecentPast.parse("30").holds(Spot(1), now=3.0, newest_key=None)
