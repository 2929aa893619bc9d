"""The places for answers are closed together: what hangs at one of them holds up neither the others nor the end."""

import socket
import threading
from collections.abc import Iterator, Mapping

import pytest

from deepir.runtime import sinks as module
from deepir.runtime.mqtt import MqttSink
from deepir.runtime.sinks import SinkOptions, open_sinks, tell_camera
from deepir.runtime.webhook import WebhookSink

WAIT = 60.0


@pytest.fixture
def hung() -> Iterator[SinkOptions]:
    """A web server and a broker that take a connection and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as broker:
        web_port, broker_port = (server.getsockname()[1] for server in (web, broker))
        yield SinkOptions(webhook=f"http://127.0.0.1:{web_port}/", mqtt=f"mqtt://127.0.0.1:{broker_port}/shop/door")


def test_each_begins_its_farewell_before_another_has_ended(hung: SinkOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    met: list[str] = []
    for kind in (WebhookSink, MqttSink):
        close = kind.close

        def closing(sink: WebhookSink | MqttSink, close: object = close) -> None:
            together.wait(WAIT)
            met.append(sink.name)
            close(sink)  # type: ignore[operator]

        monkeypatch.setattr(kind, "close", closing)
    with open_sinks(hung):
        pass
    assert sorted(met) == ["mqtt", "webhook"]


def test_one_that_cannot_end_does_not_keep_the_program_from_its_end(
    hung: SinkOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLOSING", 0.1)
    go, closed = threading.Event(), threading.Semaphore(0)
    for kind in (WebhookSink, MqttSink):
        close = kind.close

        def hanging(sink: WebhookSink | MqttSink, close: object = close) -> None:
            assert go.wait(WAIT)
            close(sink)  # type: ignore[operator]
            closed.release()

        monkeypatch.setattr(kind, "close", hanging)
    with open_sinks(hung):
        pass
    assert not go.is_set()
    go.set()
    assert all(closed.acquire(timeout=WAIT) for _ in range(2))


def test_of_the_camera_the_broker_is_told_and_the_web_server_is_not(
    hung: SinkOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLOSING", 0.0)
    told: list[tuple[str, Mapping[str, object]]] = []
    monkeypatch.setattr(MqttSink, "tell_camera", lambda sink, facts: told.append((sink.name, facts)))
    with open_sinks(hung) as sinks:
        tell_camera(sinks, {"status": "lost"})
        assert [sink.state.waiting for sink in sinks] == [0, 0]
    assert told == [("mqtt", {"status": "lost"})]
