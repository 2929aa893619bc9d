"""Answers to a real MQTT broker (mosquitto, skipped where it is not installed): while it is there, away, and back."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from deepir.errors import OptionError
from deepir.runtime.delivery import Choice, DeliveryError, Record
from deepir.runtime.mqtt import Broker, BrokerAddress, MqttSink
from deepir.runtime.result import Result

MakeAnswer = Callable[..., Result]

WAIT = 60.0
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="needs the broker mosquitto: apt install mosquitto")


class RealBroker:
    """mosquitto on a port of this machine, with a user; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.anonymous = True
        self.certificate: tuple[Path, Path] | None = None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(self.anonymous).lower()}", "user root"]
        if self.certificate is not None:
            lines += [f"certfile {self.certificate[0]}", f"keyfile {self.certificate[1]}"]
        config.write_text("\n".join(lines))
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                threading.Event().wait(0.01)
        pytest.fail("mosquitto does not start")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cable:
    """Between a sink and the broker; can be cut and plugged in again."""

    def __init__(self, broker: RealBroker) -> None:
        self._broker = broker
        self._ends: list[socket.socket] = []
        self._half_open = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.cut()

    def plug(self) -> None:
        self.listen()
        self.answer()

    def listen(self) -> None:
        """Whoever connects from now on waits for an answer."""
        self._listening = socket.create_server(("127.0.0.1", self.port))

    def answer(self) -> None:
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        for end in [self._listening, *self._ends]:
            # a thread that waits in accept or recv is only woken by this
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def reset_near_ends(self) -> None:
        """As a router that restarts: the broker hears nothing of it."""
        self._half_open = True
        for near in self._ends[::2]:
            near.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connect(listening.accept()[0])

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._broker.port))
        except OSError:
            # the broker is not up yet, and whoever called tries again
            near.close()
            return
        self._ends += [near, far]
        for taking, giving in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(taking, giving), daemon=True).start()

    def _carry(self, taking: socket.socket, giving: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := taking.recv(65536):
                giving.sendall(some)
        for end in () if self._half_open else (taking, giving):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Listener:
    """Another program that subscribed to everything."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self._changed = threading.Condition()
        subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._message
        self._client.on_connect = lambda client, *_words: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_words: subscribed.set()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(WAIT)

    def _message(self, _client: Any, _data: Any, message: Any) -> None:
        with self._changed:
            self.heard.append((message.topic, message.payload.decode(), message.retain))
            self._changed.notify_all()

    def frames(self) -> list[int]:
        return [json.loads(payload)["frame"] for payload in self.of("result")]

    def of(self, what: str) -> list[str]:
        return [payload for topic, payload, _ in self.heard if topic == f"shop/door/{what}"]

    def wait_for(self, happened: Callable[["Listener"], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: happened(self), WAIT)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    made = RealBroker(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def cable(broker: RealBroker) -> Iterator[Cable]:
    made = Cable(broker)
    yield made
    made.cut()


@pytest.fixture
def sink(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> Iterator[MqttSink]:
    monkeypatch.setattr("deepir.runtime.delivery._FAREWELL", 0.1)
    monkeypatch.setattr("deepir.runtime.backoff.LONGEST", 0.5)
    opened = MqttSink(f"mqtt://127.0.0.1:{cable.port}/shop/door", Choice("all"))
    opened._broker._client.reconnect_delay_set(1, 1)
    yield opened
    opened.close()


@pytest.fixture
def listen(broker: RealBroker) -> Iterator[Callable[[], Listener]]:
    made: list[Listener] = []

    def start() -> Listener:
        made.append(Listener(broker.port))
        return made[-1]

    yield start
    for listener in made:
        listener.close()


@needs_mosquitto
def test_answers_arrive_in_order_and_the_newest_is_kept_for_who_comes_later(
    broker: RealBroker,
    cable: Cable,
    sink: MqttSink,
    listen: Callable[[], Listener],
    make_answer: MakeAnswer,
) -> None:
    broker.start()
    listener = listen()
    cable.plug()
    for number in range(20):
        sink.take(make_answer(number))
    assert listener.wait_for(lambda one: len(one.frames()) == 20)
    assert listener.frames() == list(range(20))
    assert sink.wait_for(lambda state: state.sent == 20, WAIT)
    late = listen()
    assert late.wait_for(lambda one: len(one.heard) == 2)
    kept = {topic: payload for topic, payload, retained in late.heard if retained}
    assert kept["shop/door/status"] == "online"
    assert json.loads(kept["shop/door/state"])["label"] == "red"


@needs_mosquitto
def test_answers_wait_for_a_broker_that_comes_late(
    broker: RealBroker,
    cable: Cable,
    sink: MqttSink,
    listen: Callable[[], Listener],
    make_answer: MakeAnswer,
) -> None:
    for number in range(3):
        sink.take(make_answer(number))
    assert sink.wait_for(lambda state: bool(state.trouble) and state.waiting == 3, WAIT)
    broker.start()
    listener = listen()
    cable.plug()
    assert listener.wait_for(lambda one: len(one.frames()) >= 3)
    assert listener.frames() == [0, 1, 2]


@needs_mosquitto
def test_what_is_said_while_the_broker_is_away_arrives_when_it_is_back(
    broker: RealBroker,
    cable: Cable,
    sink: MqttSink,
    listen: Callable[[], Listener],
    make_answer: MakeAnswer,
) -> None:
    broker.start()
    cable.plug()
    sink.take(make_answer(0))
    assert sink.wait_for(lambda state: state.sent == 1, WAIT)
    broker.kill()
    for number in (1, 2, 3):
        sink.take(make_answer(number))
    assert sink.wait_for(lambda state: bool(state.trouble), WAIT)
    cable.cut()
    broker.start()
    listener = listen()
    cable.plug()
    assert sink.wait_for(lambda state: state.sent == 4, WAIT)
    assert listener.wait_for(lambda one: 3 in one.frames())
    assert listener.frames() == [1, 2, 3]
    assert sink.state.dropped == 0


@needs_mosquitto
def test_a_broker_that_hangs_for_a_while_gets_no_answer_twice(
    broker: RealBroker,
    cable: Cable,
    sink: MqttSink,
    listen: Callable[[], Listener],
    make_answer: MakeAnswer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepir.runtime.mqtt._TIMEOUT", 0.1)
    broker.start()
    listener = listen()
    cable.plug()
    sink.take(make_answer(0))
    assert listener.wait_for(lambda one: one.frames() == [0])
    broker.signal(signal.SIGSTOP)
    for number in (1, 2):
        sink.take(make_answer(number))
    assert sink.wait_for(lambda state: "did not take a message" in state.trouble, WAIT)
    broker.signal(signal.SIGCONT)
    assert sink.wait_for(lambda state: state.sent == 3, WAIT)
    assert listener.wait_for(lambda one: 2 in one.frames())
    assert listener.frames() == [0, 1, 2]


@needs_mosquitto
def test_a_broker_that_forgot_everything_hears_the_newest_again(
    broker: RealBroker, cable: Cable, sink: MqttSink, listen: Callable[[], Listener], make_answer: MakeAnswer
) -> None:
    broker.start()
    cable.plug()
    sink.take(make_answer(0, "blue"))
    assert sink.wait_for(lambda state: state.sent == 1, WAIT)
    broker.kill()
    broker.start()
    listener = listen()
    assert listener.wait_for(lambda one: any(topic == "shop/door/state" for topic, _, _ in one.heard))
    state = next(payload for topic, payload, _ in listener.heard if topic == "shop/door/state")
    assert json.loads(state)["label"] == "blue"


@needs_mosquitto
def test_a_broker_that_lets_nobody_in_is_told_apart_from_one_that_is_away(
    broker: RealBroker, cable: Cable, sink: MqttSink, make_answer: MakeAnswer
) -> None:
    broker.anonymous = False
    broker.start()
    cable.plug()
    sink.take(make_answer(0))
    assert sink.wait_for(lambda state: "refuses the connection" in state.trouble, WAIT)
    assert sink.state.waiting == 1


@needs_mosquitto
def test_a_program_that_is_gone_is_offline_whether_it_said_goodbye_or_not(
    broker: RealBroker, listen: Callable[[], Listener]
) -> None:
    broker.start()
    listener = listen()
    for goodbye in (True, False):
        one = MqttSink(f"mqtt://127.0.0.1:{broker.port}/shop/door", Choice("all"))
        assert listener.wait_for(lambda heard: heard.heard[-1:] == [("shop/door/status", "online", False)])
        if goodbye:
            one.close()
        else:
            one._broker._client._sock.shutdown(socket.SHUT_RDWR)
        assert listener.wait_for(lambda heard: ("shop/door/status", "offline", False) in heard.heard)
        listener.heard.clear()
        if not goodbye:
            one.close()


@needs_mosquitto
@pytest.mark.usefixtures("sink")
def test_a_connection_that_was_lost_for_us_only_does_not_make_us_offline_when_we_are_back(
    broker: RealBroker, cable: Cable, listen: Callable[[], Listener]
) -> None:
    broker.start()
    listener = listen()
    cable.plug()
    assert listener.wait_for(lambda one: one.of("status") == ["online"])
    cable.reset_near_ends()
    # the first may come a second time behind them, where the broker's word for it was on its way when the line was cut
    assert listener.wait_for(lambda one: one.of("status").count("online") >= 2)
    assert listener.of("status")[:3] == ["online", "offline", "online"]


@needs_mosquitto
def test_at_the_end_a_broker_that_hangs_is_not_waited_for(
    broker: RealBroker, make_answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepir.runtime.delivery._FAREWELL", 0.1)
    monkeypatch.setattr("deepir.runtime.delivery._GRACE", WAIT)
    broker.start()
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/shop/door", Choice("all"))
    sink.take(make_answer(0))
    assert sink.wait_for(lambda state: state.sent == 1, WAIT)
    monkeypatch.setattr("deepir.runtime.mqtt._TIMEOUT", 10 * WAIT)
    broker.signal(signal.SIGSTOP)
    sink.take(make_answer(1))
    sink.close()
    assert not sink._thread.is_alive()
    assert (sink.state.sent, sink.state.waiting, sink.state.dropped) == (1, 0, 1)


LOST = {"status": "lost", "trouble": {"kind": "gone", "sentence": "camera0 was unplugged"}, "frames": 7}
LIVE = {"status": "live", "trouble": None, "frames": 9}
TOLD_LOST = {"status": "lost", "trouble": "camera0 was unplugged"}
TOLD_LIVE = {"status": "live", "trouble": None}


@needs_mosquitto
def test_a_lost_camera_is_told_once_and_kept_for_who_comes_later(
    broker: RealBroker, listen: Callable[[], Listener]
) -> None:
    broker.start()
    listener = listen()
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/shop/door", Choice("all"))
    assert listener.wait_for(lambda one: one.of("status") == ["online"])
    for facts in (LIVE, LIVE, LOST, LOST, {**LIVE, "trouble": LOST["trouble"]}, {"name": "walk.mp4"}, LOST):
        sink.tell_camera(facts)
    sink.close()
    assert listener.wait_for(lambda one: one.of("status")[-1] == "offline")
    assert [json.loads(payload) for payload in listener.of("camera")] == [TOLD_LIVE, TOLD_LOST, TOLD_LIVE, TOLD_LOST]
    late = listen()
    assert late.wait_for(lambda one: len(one.heard) == 2)
    assert {topic: retained for topic, _, retained in late.heard} == {
        "shop/door/status": True,
        "shop/door/camera": True,
    }


@needs_mosquitto
def test_how_the_camera_is_is_told_to_a_broker_that_comes_late(
    broker: RealBroker, cable: Cable, sink: MqttSink, listen: Callable[[], Listener]
) -> None:
    sink.tell_camera(LOST)
    broker.start()
    listener = listen()
    cable.plug()
    assert listener.wait_for(lambda one: bool(one.of("camera")))
    assert [json.loads(payload) for payload in listener.of("camera")] == [TOLD_LOST]


@pytest.fixture
def refusing_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def in_trouble(address: str) -> str:
    """What the sink says of itself before there is anything to send."""
    sink = MqttSink(address, Choice("all"))
    broker = sink._broker
    try:
        with broker._changed:
            assert broker._changed.wait_for(lambda: bool(sink.state.trouble), WAIT)
        return sink.state.trouble
    finally:
        sink.close()


def test_a_port_where_nobody_listens_is_told_without_the_password(refusing_port: int) -> None:
    address = f"mqtt://robot:secret@127.0.0.1:{refusing_port}/shop/door"
    assert in_trouble(address) == (
        f"mqtt://***@127.0.0.1:{refusing_port}/shop/door cannot be reached: Connection refused"
    )


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_words: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    trouble = in_trouble("mqtt://nobody.invalid/shop/door")
    assert trouble == "mqtt://nobody.invalid/shop/door cannot be reached: Name or service not known"


@needs_mosquitto
def test_a_certificate_that_nobody_vouches_for_is_told(broker: RealBroker, certificate: tuple[Path, Path]) -> None:
    broker.certificate = certificate
    broker.start()
    trouble = in_trouble(f"mqtts://127.0.0.1:{broker.port}/shop/door")
    assert "cannot be reached" in trouble
    assert "certificate verify failed: self" in trouble


@needs_mosquitto
def test_a_certificate_that_the_user_vouches_for_is_taken(
    broker: RealBroker, certificate: tuple[Path, Path], make_answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    broker.certificate = certificate
    broker.start()
    sink = MqttSink(f"mqtts://127.0.0.1:{broker.port}/shop/door", Choice("all"))
    sink.take(make_answer(0))
    assert sink.wait_for(lambda state: state.sent == 1 and not state.trouble, WAIT)
    sink.close()


@needs_mosquitto
def test_a_first_answer_that_comes_before_the_connection_stands_is_no_trouble(
    broker: RealBroker, cable: Cable, make_answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, troubles, ask, keep = threading.Event(), [], Broker.__call__, MqttSink._keep

    def asking(broker: Broker, record: Record) -> None:
        asked.set()
        ask(broker, record)

    def keeping(sink: MqttSink, record: Record, error: DeliveryError) -> None:
        troubles.append(str(error))
        keep(sink, record, error)

    monkeypatch.setattr("deepir.runtime.mqtt._TIMEOUT", WAIT)
    monkeypatch.setattr(Broker, "__call__", asking)
    monkeypatch.setattr(MqttSink, "_keep", keeping)
    broker.start()
    cable.listen()
    sink = MqttSink(f"mqtt://127.0.0.1:{cable.port}/shop/door", Choice("all"))
    sink.take(make_answer(0))
    assert asked.wait(WAIT)
    cable.answer()
    assert sink.wait_for(lambda state: state.sent == 1, WAIT)
    sink.close()
    assert troubles == []


def test_an_address_is_read() -> None:
    address = BrokerAddress.parse("mqtts://robot:p%40ss@broker.example/shop/door/")
    assert (address.secure, address.host, address.port, address.topic) == (True, "broker.example", 8883, "shop/door")
    assert (address.user, address.password) == ("robot", "p@ss")
    assert "p%40ss" not in address.name


@pytest.mark.parametrize(
    "address",
    ["mqtt://host", "mqtt://host/", "http://host/topic", "mqtt://host/a/#", "mqtt://u:secret@host:port/topic", "topic"],
)
def test_what_is_no_address_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(OptionError, match="--mqtt takes mqtt://host/topic") as caught:
        BrokerAddress.parse(address)
    assert "secret" not in str(caught.value)
