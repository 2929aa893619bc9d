"""Answers as HTTP POST requests to a web address, one JSON object each."""

import base64
import http.client
import json
import os
import urllib.parse

from deepir import __version__
from deepir.errors import OptionError
from deepir.runtime.delivery import Choice, Delivery, DeliveryError, Record, RefusedError
from deepir.runtime.redact import without_password

TOKEN_VARIABLE = "DEEPIR_WEBHOOK_TOKEN"  # noqa: S105 the name of the variable, not a token
"""The environment variable with the bearer token that is sent along."""

_TIMEOUT = 5.0
_LATER = frozenset({408, 425, 429})


class Webhook:
    """A web address that takes records; call it with each. Not from two threads at once.

    Args:
        address: http or https; user and password in it are sent as Basic authorization.

    Raises:
        OptionError: Not such an address.
    """

    def __init__(self, address: str) -> None:
        self.name = without_password(address)
        parts = urllib.parse.urlsplit(address)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if parts.scheme not in {"http", "https"} or not host:
            message = f"--webhook takes an http:// or https:// address, got {self.name}"
            raise OptionError(message)
        self._host, self._port, self._secure = host, port, parts.scheme == "https"
        self._path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        self._headers = {"Content-Type": "application/json", "User-Agent": f"deepir/{__version__}", **_login(parts)}
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, record: Record) -> None:
        """Post one record.

        Raises:
            RefusedError: The answer says that it never will be taken.
            DeliveryError: Nobody answers, or not as if it had been taken.
        """
        body = json.dumps(record).encode()
        kept = self._connection is not None
        try:
            status, reason = self._post(body)
        except (OSError, http.client.HTTPException):
            self.close()
            if not kept:
                raise
            # the other side closes a connection that was silent for a while
            status, reason = self._post(body)
        if 200 <= status < 300:
            return
        message = f"{self.name} answers {status} {reason}"
        if 300 <= status < 400:
            message += ": give the address that it points to"
        raise DeliveryError(message) if status >= 500 or status in _LATER else RefusedError(message)

    def close(self) -> None:
        """Close the connection; the next record opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes) -> tuple[int, str]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=_TIMEOUT)
        self._connection.request("POST", self._path, body, self._headers)
        response = self._connection.getresponse()
        response.read()
        if response.will_close:
            self.close()
        return response.status, response.reason


def open_webhook(address: str, choice: Choice) -> Delivery:
    """Send answers to a web address from now on.

    Raises:
        OptionError: Not an http or https address.
    """
    webhook = Webhook(address)

    def deliver(record: Record) -> None:
        try:
            webhook(record)
        except (OSError, http.client.HTTPException) as error:
            webhook.close()
            message = f"{webhook.name} does not answer: {without_password(str(error) or type(error).__name__)}"
            raise DeliveryError(message) from error

    return Delivery("webhook", deliver, choice)


def _login(parts: urllib.parse.SplitResult) -> dict[str, str]:
    token = os.environ.get(TOKEN_VARIABLE)
    if token:
        return {"Authorization": f"Bearer {token}"}
    if parts.username is None:
        return {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
