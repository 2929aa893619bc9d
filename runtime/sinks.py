"""Where the answers of deepir-run go besides its JSON lines, opened and closed together."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepir.errors import OptionError
from deepir.runtime.delivery import SENDS, Choice, Send
from deepir.runtime.inbox_writer import INBOX_MB, InboxWriter
from deepir.runtime.mqtt import BrokerAddress, MqttSink
from deepir.runtime.sink import Sink
from deepir.runtime.webhook import Webhook, WebhookSink

_CLOSING = 6.0
"""Seconds for all of them together: containers are killed ten seconds after they were asked to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """Which there are; checked when it is made.

    Attributes:
        webhook: http or https address; may hold user and password.
        mqtt: mqtt or mqtts address with a topic; may hold user and password.
        send: Which answers those two get.
        inbox: Folder for pictures of what is unknown or ambiguous.
        inbox_mb: The most that they may take there, in megabytes.

    Raises:
        OptionError: An address that is none, or no room in the inbox.
    """

    webhook: str | None = field(default=None, repr=False)
    mqtt: str | None = field(default=None, repr=False)
    send: Send = "changes"
    inbox: Path | None = None
    inbox_mb: float = INBOX_MB

    def __post_init__(self) -> None:
        if self.webhook is not None:
            Webhook(self.webhook)
        if self.mqtt is not None:
            BrokerAddress.parse(self.mqtt)
        if self.send not in SENDS:
            message = f"--send takes {', '.join(SENDS)}, got {self.send}"
            raise OptionError(message)
        if not (math.isfinite(self.inbox_mb) and self.inbox_mb > 0):
            message = f"--inbox-mb must be above 0, got {self.inbox_mb}"
            raise OptionError(message)


@contextlib.contextmanager
def open_sinks(options: SinkOptions) -> Iterator[list[Sink]]:
    """Open them; at the end each sends what waits, all at the same time, in six seconds at most.

    Raises:
        InputError: The inbox cannot be made.
        MissingDependency: paho-mqtt is not installed.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        stack.callback(_close_together, sinks)
        if options.inbox is not None:
            sinks.append(InboxWriter(options.inbox, options.inbox_mb))
        if options.webhook is not None:
            sinks.append(WebhookSink(options.webhook, Choice(options.send)))
        if options.mqtt is not None:
            sinks.append(MqttSink(options.mqtt, Choice(options.send)))
        yield sinks


def tell_camera(sinks: Sequence[Sink], facts: Mapping[str, Any]) -> None:
    """Tell those who want to hear of it how the camera is; see `MqttSink.tell_camera`."""
    for sink in sinks:
        if isinstance(sink, MqttSink):
            sink.tell_camera(facts)


def _close_together(sinks: Sequence[Sink]) -> None:
    endings = [threading.Thread(target=sink.close, name=f"deepir {sink.name} end", daemon=True) for sink in sinks]
    for ending in endings:
        ending.start()
    until = time.monotonic() + _CLOSING
    for ending in endings:
        ending.join(max(0.0, until - time.monotonic()))
