"""Network cameras: opened with limits, and asked by hand why they do not open, because OpenCV does not say."""

import socket
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from deepir.runtime.camera_reader import Opener
from deepir.runtime.camera_state import Trouble
from deepir.runtime.capture import Capture, open_address
from deepir.runtime.redact import without_password

_PATIENCE = 3.0
"""Seconds for each question."""

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
_ASKS = {
    "rtsp": "DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n",
    "http": "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
}
_MOST_HEADER = 256


def opener_of_address(address: str) -> Opener:
    """Opens rtsp://, http:// and the like."""

    def open_it() -> Capture | Trouble:
        capture = open_address(address)
        if capture.isOpened():
            return capture
        capture.release()
        return why_closed(address)

    return open_it


def why_closed(
    address: str, connect: Callable[[tuple[str, int], float], socket.socket] = socket.create_connection
) -> Trouble:
    """Why an address does not open; asks its machine, and sends it no user and password.

    Args:
        address: Of the stream.
        connect: Opens a connection to (host, port) within so many seconds.
    """
    trouble = f"cannot open {without_password(address)}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host = port = None
    if host is None and not address.startswith("udp://"):
        message = f"{trouble}: that is no address; write / @ : ? # in a user or password as %2F %40 %3A %3F %23"
        return Trouble("not found", message)
    if host is None or port is None or parts.scheme == "udp":
        return Trouble("timeout", f"{trouble}: nothing came in time; check the sender, the port and the firewall")
    try:
        with connect((host, port), _PATIENCE) as connection:
            connection.settimeout(_PATIENCE)
            return _ask(connection, parts, trouble)
    except (socket.gaierror, UnicodeError):
        return Trouble("not found", f"{trouble}: no machine is called {host}; check the name, or give its number")
    except ConnectionRefusedError:
        message = f"{trouble}: {host} refuses connections on port {port}; check the port, and that its server runs"
        return Trouble("refused", message)
    except OSError as error:
        message = f"{trouble}: {host} does not answer on port {port} ({error}); check its power and the network"
        return Trouble("timeout", message)


def _ask(connection: socket.socket, parts: SplitResult, trouble: str) -> Trouble:
    """What the machine says to the same question without user and password."""
    question = _ASKS.get(parts.scheme)
    if question is None:
        return _verdict(None, parts, trouble)
    netloc = parts.netloc.rpartition("@")[2]
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    plain = parts._replace(netloc=netloc, fragment="").geturl()
    connection.sendall(question.format(address=plain, host=netloc, path=path).encode())
    answer = b""
    while b"\n" not in answer and len(answer) < _MOST_HEADER:
        part = connection.recv(_MOST_HEADER)
        if not part:
            break
        answer += part
    words = answer.split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else None
    return _verdict(status, parts, trouble)


def _verdict(status: int | None, parts: SplitResult, trouble: str) -> Trouble:
    if status in {401, 403, 407}:
        if parts.username is None:
            return Trouble("auth", f"{trouble}: it asks for user and password ({status}); write //user:password@host")
        message = f"{trouble}: it does not take this user and password ({status}), or has no such stream for them"
        return Trouble("auth", message)
    if status in {404, 410, 454}:
        message = f"{trouble}: it has no such stream ({status}); check what comes after {parts.hostname}"
        return Trouble("not found", message)
    if status is not None and status >= 400:
        return Trouble("refused", f"{trouble}: it answers {status}; does it serve too many at once? restart it")
    message = (
        f"{trouble}: it answers, but sends no pictures that this OpenCV can decode; "
        "check what comes after the host, and set the camera to H.264 or MJPEG"
    )
    return Trouble("codec", message)
