"""Tells systemd that the program is ready, alive and stopping (sd_notify); does nothing where systemd does not ask."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

_EVERY = 1.0
_MICRO = 1e-6


class Notifier:
    """Sends datagrams to the socket that NOTIFY_SOCKET names.

    Args:
        environment: Holds NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, as systemd sets them.
        clock: For tests.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._clock = clock
        self._next = 0.0
        self._every = _every(environment)
        self._watched = _is_watched(environment)

    def ready(self) -> None:
        """The program has begun its work."""
        self._send("READY=1")

    def beat(self, make_status: Callable[[], str], *, well: bool = True) -> None:
        """The loop goes round; sent at half of the watchdog's time, once a second at most.

        Args:
            make_status: A line for people, only made when it is sent.
            well: Else the watchdog is not told that all is.
        """
        now = self._clock()
        if self._address and now >= self._next:
            self._next = now + self._every
            status = make_status().replace("\n", " ")
            self._send(f"STATUS={status}\nWATCHDOG=1" if self._watched and well else f"STATUS={status}")

    def stopping(self) -> None:
        """The program ends on purpose."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # an @ stands for the null byte of Linux's abstract sockets
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # nobody may be there any more, and that is no reason to stop
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), address)


def _is_watched(environment: Mapping[str, str]) -> bool:
    return "WATCHDOG_USEC" in environment and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())


def _every(environment: Mapping[str, str]) -> float:
    try:
        return min(_EVERY, _MICRO * int(environment["WATCHDOG_USEC"]) / 2)
    except (KeyError, ValueError):
        return _EVERY
