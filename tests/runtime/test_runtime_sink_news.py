"""What is told of the places for answers: trouble when it begins, its end, and what was given up, once a minute."""

import pytest

from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState
from deepir.runtime.sink_news import SinkNews

REFUSED = "https://host answers 401 Unauthorized"


class Told:
    """A sink in the state that a test gives it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = SinkState()

    def take(self, result: Result) -> None:
        """Nothing comes."""

    def close(self) -> None:
        """Nothing is open."""


class News:
    """News of two sinks, with a clock of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *, quiet: bool = False) -> None:
        self.seconds = 1000.0
        self.webhook, self.mqtt = Told("webhook"), Told("mqtt")
        self._news = SinkNews([self.webhook, self.mqtt], quiet=quiet, clock=lambda: self.seconds)
        self._capsys = capsys

    def look(self, *, end: bool = False) -> list[str]:
        if end:
            self._news.end()
        else:
            self._news.look()
        captured = self._capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()


def test_nothing_is_told_while_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    news = News(capsys)
    news.webhook.state = SinkState(sent=5, waiting=3)
    assert [news.look(), news.look(), news.look(end=True)] == [[], [], []]


@pytest.mark.parametrize("quiet", [False, True])
def test_trouble_is_told_once_and_its_end_too_unless_all_is_to_be_quiet(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    news = News(capsys, quiet=quiet)
    news.webhook.state = SinkState(trouble=REFUSED)
    assert news.look() == [f"warning: webhook: {REFUSED}"]
    news.webhook.state = SinkState(trouble="https://host does not answer: timed out")
    assert news.look() == []
    news.webhook.state = SinkState(sent=1)
    assert news.look() == ([] if quiet else ["webhook works again"])
    assert news.look() == []
    news.webhook.state = SinkState(trouble=REFUSED)
    assert news.look() == [f"warning: webhook: {REFUSED}"]


def test_each_sink_has_news_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    news = News(capsys)
    news.webhook.state = news.mqtt.state = SinkState(dropped=2, trouble="away")
    assert news.look() == [
        "warning: webhook: away",
        "warning: webhook: 2 answers were given up",
        "warning: mqtt: away",
        "warning: mqtt: 2 answers were given up",
    ]


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_given_up_is_counted_at_once_and_then_once_a_minute(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    news = News(capsys, quiet=quiet)
    news.webhook.state = SinkState(dropped=1)
    assert news.look() == ["warning: webhook: 1 answer was given up"]
    news.webhook.state = SinkState(dropped=300)
    news.seconds += 59.9
    assert news.look() == []
    news.seconds += 0.1
    news.webhook.state = SinkState(dropped=301)
    assert news.look() == ["warning: webhook: 300 answers were given up"]
    news.seconds += 600
    assert news.look() == []


def test_at_the_end_what_was_given_up_is_told_without_waiting_for_the_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    news = News(capsys)
    news.webhook.state = SinkState(dropped=1, trouble=REFUSED)
    assert len(news.look()) == 2
    news.webhook.state = SinkState(dropped=4, trouble=REFUSED)
    assert news.look(end=True) == ["warning: webhook: 3 answers were given up"]


def test_a_trouble_of_several_lines_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    news = News(capsys)
    news.mqtt.state = SinkState(trouble="one\r\ntwo")
    assert news.look() == ["warning: mqtt: one two"]
