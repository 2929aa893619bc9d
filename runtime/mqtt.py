"""Answers to an MQTT broker: each as a message, the newest and whether we are there as retained ones."""

import contextlib
import json
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deepir.errors import OptionError
from deepir.optional import need
from deepir.runtime.delivery import Choice, Delivery, DeliveryError, Record
from deepir.runtime.redact import without_password
from deepir.runtime.sink import SinkState

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TIMEOUT = 5.0
_GOODBYE = 0.5
"""Seconds for each of its two steps: a broker that is well needs much less, and of a hung one nothing is to be had."""

_AT_LEAST_ONCE = 1
_STATE = ("status", "label", "similarity", "seen_at", "name")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """`mqtt://user:password@host:1883/topic`, or mqtts:// with TLS.

    Attributes:
        name: As it may be shown.
        topic: Messages go to topic/result, topic/state, topic/status and topic/camera.
    """

    name: str
    secure: bool
    host: str
    port: int
    topic: str
    user: str | None
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, address: str) -> "BrokerAddress":
        """Read an address.

        Raises:
            OptionError: Not such an address, or without a topic.
        """
        parts = urllib.parse.urlsplit(address)
        topic = urllib.parse.unquote(parts.path).strip("/")
        try:
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError:
            host, port = "", None
        plain = topic.isprintable() and "+" not in topic and "#" not in address and not parts.query
        if parts.scheme not in _PORTS or not host or not topic or not plain:
            message = f"--mqtt takes mqtt://host/topic or mqtts://host/topic, got {without_password(address)}"
            raise OptionError(message)
        user = None if parts.username is None else urllib.parse.unquote(parts.username)
        password = None if parts.password is None else urllib.parse.unquote(parts.password)
        secure = parts.scheme == "mqtts"
        return cls(without_password(address), secure, host, port or _PORTS[parts.scheme], topic, user, password)


class Broker:
    """A connection that comes back by itself; call it with each record. Not from two threads at once.

    While it stands, topic/status holds `online`, retained; the broker makes `offline` of it when we are gone.

    Attributes:
        trouble: Why there is no connection; empty while there is one, and before the first try has ended.

    Raises:
        MissingDependency: paho-mqtt is not installed.
    """

    def __init__(self, address: BrokerAddress) -> None:
        paho = need("paho.mqtt.client")
        self._paho = paho
        self._address = address
        self.trouble = ""
        self._changed = threading.Condition()
        self._record: Record | None = None
        self._unanswered: set[int] = set()
        self._answered: set[int] = set()
        self._retained: dict[str, str] = {}
        self._refused = False
        self._over = False
        # of one name: a broker that has not noticed that we were cut off says `offline` when we come back, before our
        # `online`, and not for the line before 45 seconds later
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"deepir-{secrets.token_hex(8)}")
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.secure:
            client.tls_set()
        client.will_set(f"{address.topic}/status", "offline", qos=_AT_LEAST_ONCE, retain=True)
        client.reconnect_delay_set(1, 30)
        client.connect_timeout = _TIMEOUT
        client.on_connect = self._connected
        client.on_connect_fail = self._failed
        client.on_disconnect = self._lost
        client.on_publish = self._published
        client.connect_async(address.host, address.port, keepalive=30)
        client.loop_start()
        self._client: Any = client

    def __call__(self, record: Record) -> None:
        """Publish one record, and wait until the broker has it.

        Raises:
            DeliveryError: It was not taken in five seconds, or there is no connection.
        """
        with self._changed:
            # at the start the first try may not have ended yet
            self._changed.wait_for(lambda: self._client.is_connected() or self.trouble or self._over, _TIMEOUT)
        if not self._client.is_connected():
            raise DeliveryError(self._no_connection())
        if self._record is not record:
            self._publish(record)
        # the client itself sends again what was not answered when the connection was lost: publishing doubles it
        with self._changed:
            self._changed.wait_for(lambda: self._taken() or self._over or not self._client.is_connected(), _TIMEOUT)
            taken = self._taken()
        if not taken:
            text = f"{self._address.name} did not take a message in {_TIMEOUT:g} seconds"
            raise DeliveryError(text if self._client.is_connected() else self._no_connection())

    def _no_connection(self) -> str:
        return self.trouble or f"{self._address.name} does not answer"

    def _taken(self) -> bool:
        return self._unanswered <= self._answered

    def _publish(self, record: Record) -> None:
        topic = self._address.topic
        self._retained["state"] = json.dumps({key: record.get(key) for key in _STATE})
        with self._changed:
            self._answered.clear()
        state = self._client.publish(f"{topic}/state", self._retained["state"], qos=_AT_LEAST_ONCE, retain=True)
        result = self._client.publish(f"{topic}/result", json.dumps(record), qos=_AT_LEAST_ONCE)
        self._unanswered = {state.mid, result.mid}
        self._record = record

    def retain(self, what: str, text: str) -> None:
        """Let topic/what hold the text, now or when there is a connection; returns at once."""
        if self._retained.get(what) == text:
            return
        self._retained[what] = text
        if self._client.is_connected():
            self._client.publish(f"{self._address.topic}/{what}", text, qos=_AT_LEAST_ONCE, retain=True)

    def break_off(self) -> None:
        """End the try that goes on, from any thread; no other follows."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def close(self) -> None:
        """Say that we are gone, and end the connection."""
        if self._client.is_connected():
            message = self._client.publish(f"{self._address.topic}/status", "offline", qos=_AT_LEAST_ONCE, retain=True)
            # lost in this very moment: then the broker says it for us
            with contextlib.suppress(RuntimeError, ValueError):
                message.wait_for_publish(_GOODBYE)
        self._client.disconnect()
        # not waited for without end: the client's thread may look for a name that no server resolves
        ending = threading.Thread(target=self._client.loop_stop, name="deepir mqtt end", daemon=True)
        ending.start()
        ending.join(_GOODBYE)

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._refused = reason.is_failure
        if self._refused:
            self._note(f"{self._address.name} refuses the connection: {reason}")
            return
        topic = self._address.topic
        client.publish(f"{topic}/status", "online", qos=_AT_LEAST_ONCE, retain=True)
        for what, text in tuple(self._retained.items()):
            # a broker that was started again may have forgotten it
            client.publish(f"{topic}/{what}", text, qos=_AT_LEAST_ONCE, retain=True)
        self._note("")

    def _failed(self, _client: Any, _data: Any) -> None:
        # not given, but this is called where it is caught
        error = sys.exc_info()[1]
        why = getattr(error, "strerror", None) or str(error or "")
        self._note(f"{self._address.name} cannot be reached: {without_password(why)}")

    def _lost(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        # a refusal is told as a loss, too, right after it, without its reason
        if not self._refused:
            self._note(f"the connection to {self._address.name} was lost: {reason}")

    def _note(self, trouble: str) -> None:
        with self._changed:
            self.trouble = trouble
            self._changed.notify_all()

    def _published(self, _client: Any, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
        with self._changed:
            self._answered.add(number)
            self._changed.notify_all()


class MqttSink(Delivery):
    """Sends answers to a broker; a `Sink`.

    Raises:
        OptionError: As of `BrokerAddress.parse`.
        MissingDependency: paho-mqtt is not installed.
    """

    def __init__(self, address: str, choice: Choice) -> None:
        self._broker = Broker(BrokerAddress.parse(address))
        super().__init__("mqtt", self._broker, choice)

    @property
    def state(self) -> SinkState:
        """How it is doing; a connection that does not stand is trouble also while nothing waits."""
        state = super().state
        return state if state.trouble else replace(state, trouble=self._broker.trouble)

    def tell_camera(self, facts: Mapping[str, Any]) -> None:
        """Let topic/camera hold how the camera is; what is told again is not sent again.

        Args:
            facts: As of `source_report`, with `status` and `trouble`; nothing is told of a source that is no camera.
        """
        if "status" in facts:
            trouble = facts["trouble"] if facts["status"] != "live" else None
            sentence = None if trouble is None else trouble["sentence"]
            self._broker.retain("camera", json.dumps({"status": facts["status"], "trouble": sentence}))

    def close(self) -> None:
        """Send what waits, for a few seconds at most, and say goodbye."""
        super().close()
        self._broker.close()

    def _break_off(self) -> None:
        self._broker.break_off()
