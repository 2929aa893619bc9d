"""Answers as HTTP POST requests to a web address, one JSON object each."""

import base64
import contextlib
import http.client
import json
import os
import socket
import threading
import urllib.parse

from deepir import __version__
from deepir.errors import OptionError
from deepir.runtime.delivery import Choice, Delivery, DeliveryError, Record, RefusedError
from deepir.runtime.redact import without_password

TOKEN_VARIABLE = "DEEPIR_WEBHOOK_TOKEN"  # noqa: S105 the name of the variable, not a token
"""The environment variable with the bearer token that is sent along."""

_PORTS = {"http": 80, "https": 443}
_TIMEOUT = 5.0
_LONGEST_ANSWER = 10.0
"""Seconds for all of an answer: those of `_TIMEOUT` begin anew with each byte of it."""

_LATER = frozenset({408, 425, 429})
_SAYS_WHEN = frozenset({429, 503})
_LONGEST_WAIT = 60.0
"""Seconds for which a server may ask not to be asked again."""

_MOST_READ = 1 << 16
_SAFE = "!#$%&'()*+,/:;=?@[]~"
"""What stays as it is in a path; % because what is quoted already must not be quoted again."""


class Webhook:
    """A web address that takes records; call it with each. Not from two threads at once.

    Args:
        address: http or https; user and password in it are sent as Basic authorization, unless there is a token.

    Attributes:
        name: As it may be shown: only the host, because the path often is a secret itself.

    Raises:
        OptionError: Not such an address, or a token that cannot be sent.
    """

    def __init__(self, address: str) -> None:
        parts = urllib.parse.urlsplit(address)
        try:
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError:
            host, port = "", None
        if parts.scheme not in _PORTS or not host:
            message = f"--webhook takes an http:// or https:// address, got {without_password(address)}"
            raise OptionError(message)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        # with its port: http.client takes the end of an IPv6 address for one
        self._host, self._port, self._secure = host, port or _PORTS[parts.scheme], parts.scheme == "https"
        self._path = urllib.parse.quote(urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")), _SAFE)
        self._headers = {"Content-Type": "application/json", "User-Agent": f"deepir/{__version__}", **_login(parts)}
        self._connection: http.client.HTTPConnection | None = None
        self._line: socket.socket | None = None
        self._broken = False

    def __call__(self, record: Record) -> None:
        """Post one record.

        Raises:
            RefusedError: The answer says that it never will be taken.
            DeliveryError: Nobody answers, or not as if it had been taken.
        """
        try:
            response = self._try(json.dumps(record).encode())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = "it takes too long" if self._broken else without_password(str(error) or type(error).__name__)
            message = f"{self.name} does not answer: {why}"
            raise DeliveryError(message) from error
        status = response.status
        if 200 <= status < 300:
            return
        message = f"{self.name} answers {status} {response.reason}"
        if 300 <= status < 400:
            message += self._moved_to(response.getheader("Location", ""))
        if status < 500 and status not in _LATER:
            raise RefusedError(message)
        raise DeliveryError(message, wait=_seconds_to_wait(response) if status in _SAYS_WHEN else 0.0)

    def break_off(self) -> None:
        """End the try that goes on, from any thread; it failed, unless the answer's status was there already."""
        self._broken = True
        if self._line is not None:
            with contextlib.suppress(OSError):
                # not that of TLS, which another thread reads from just now
                socket.socket.shutdown(self._line, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next record opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _moved_to(self, location: str) -> str:
        """Where to, by its host alone: the path may be a secret here, too."""
        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(f"{self.name}{self._path}", location))
        except ValueError:
            location = ""
        if not location:
            return ""
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        where = "another path there" if name == self.name else name
        return f", it moved to {where}: give the new address, because none is followed"

    def _try(self, body: bytes) -> http.client.HTTPResponse:
        if self._connection is not None:
            try:
                return self._post(body)
            except ConnectionError:
                if self._broken:
                    raise
                # the other side closes a connection that was silent for a while
                self.close()
        return self._post(body)

    def _post(self, body: bytes) -> http.client.HTTPResponse:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=_TIMEOUT)
        self._broken = False
        self._connection.request("POST", self._path, body, self._headers)
        # the connection forgets it when the answer's header says that it will close
        self._line = self._connection.sock
        limit = threading.Timer(_LONGEST_ANSWER, self.break_off)
        limit.daemon = True
        limit.start()
        try:
            return self._answer(self._connection)
        finally:
            limit.cancel()

    def _answer(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        response = connection.getresponse()
        if self._broken:
            # a header that was cut reads like one that ended
            raise TimeoutError
        # by its status the record was taken: to send it again because the rest is cut or late would double it
        with contextlib.suppress(OSError, http.client.HTTPException):
            response.read(_MOST_READ)
        if response.will_close or not response.isclosed():
            self.close()
        return response


class WebhookSink(Delivery):
    """Sends answers to a web address; a `Sink`.

    Raises:
        OptionError: As of `Webhook`.
    """

    def __init__(self, address: str, choice: Choice) -> None:
        self._webhook = Webhook(address)
        super().__init__("webhook", self._webhook, choice)

    def close(self) -> None:
        """Send what waits, for a few seconds at most, and close the connection."""
        super().close()
        self._webhook.close()

    def _break_off(self) -> None:
        self._webhook.break_off()


def _seconds_to_wait(response: http.client.HTTPResponse) -> float:
    text = response.getheader("Retry-After", "").strip()
    # the other form, a date, needs two clocks that agree
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdecimal() else 0.0


def _login(parts: urllib.parse.SplitResult) -> dict[str, str]:
    token = os.environ.get(TOKEN_VARIABLE)
    if token:
        if not (token.isascii() and token.isprintable()):
            message = f"{TOKEN_VARIABLE} holds a line break or another character that no token has: set it anew"
            raise OptionError(message)
        return {"Authorization": f"Bearer {token}"}
    if parts.username is None:
        return {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
