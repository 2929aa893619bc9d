"""How long connections to the live page may say nothing, and how many there may be: the loop needs files too."""

import asyncio
import socket
from typing import Any

from deepir.optional import need

MOST_WAITING = 16
"""Connections that wait for the page to look at them, a few times as many of which are open before it can refuse."""

_MOST = 100
"""Connections open at once. A program may have 1024 files as a rule: index, inbox and health file need theirs."""

_PATIENCE = 10.0
"""Seconds in which a connection must have asked for something, also after an answer."""

_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 90_000}
"""A browser that has gone without a word, as a phone out of reach does, is let go after a minute and a half."""


def keep_alive(listening: socket.socket) -> None:
    """Let the system find out which browsers are gone; connections have what the socket that listens has."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        # not every system has each of them
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connection_class() -> type[asyncio.Protocol]:
    """The server's own HTTP, with an end to patience."""
    plain: Any = need("uvicorn.protocols.http.h11_impl").H11Protocol

    class Connection(plain):  # type: ignore[misc]
        """Is closed when it has asked for nothing for a while, or when there are too many."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_request()
            if len(self.connections) > _MOST:
                transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            # the timer would keep all of the connection for as long
            self._silence.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # part of a request is none: one byte now and then would hold the connection for ever
            if self.cycle is not None and not self.cycle.response_complete:
                self._silence.cancel()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # the next request may have come already
            if self.cycle.response_complete:
                self._await_request()

        def _await_request(self) -> None:
            self._silence = self.loop.call_later(_PATIENCE, self.transport.close)

    return Connection
