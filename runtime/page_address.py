"""Where the live page listens: a port of this machine alone, or an address that others reach."""

import ipaddress
import re
import socket
from dataclasses import dataclass

from deepir.errors import InputError, OptionError
from deepir.runtime.page_connection import MOST_WAITING, keep_alive

_FORM = re.compile(r"(?:(?P<host>[^:\[\]\s]+|\[[0-9a-fA-F:.]+\]):)?(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class PageAddress:
    """An address to listen at; checked when it is made.

    Attributes:
        host: IPv4 or IPv6 address; `0.0.0.0` and `::` are all of this machine.
        port: 0 takes one that is free.

    Raises:
        OptionError: No such address or port.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError as error:
            raise _no_address(self.host) from error
        if not 0 <= self.port <= 65535:
            raise _no_address(str(self.port))

    @classmethod
    def parse(cls, text: str) -> "PageAddress":
        """Read `8080` (this machine alone), `0.0.0.0:8080`, `[::]:8080` or `localhost:8080`.

        Raises:
            OptionError: None of these.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise _no_address(text)
        host = (found["host"] or "127.0.0.1").strip("[]")
        return cls("127.0.0.1" if host == "localhost" else host, int(found["port"]))

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def bind(self) -> socket.socket:
        """Take the port.

        Raises:
            InputError: Another program has it, or it may not be had.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.socket(family)
        try:
            # the port of a run that ended a moment ago may be had again
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.host == "::":
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            keep_alive(listening)
            listening.bind((self.host, self.port))
            listening.listen(MOST_WAITING)
        except OSError as error:
            listening.close()
            message = (
                f"the page cannot have port {self.port} of {self.host}: {error.strerror}; give another one with "
                f"--page {self.port + 1 if self.port < 65535 else 8080}, or 0 for any that is free"
            )
            raise InputError(message) from error
        return listening

    def url(self, port: int) -> str:
        """For people, with the port that was taken; of an address that means all, one that others reach."""
        host = _own_address() if ipaddress.ip_address(self.host).is_unspecified else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _own_address() -> str:
    """The address at which others know this machine; no packet is sent for it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _no_address(text: str) -> OptionError:
    message = f"--page takes a port, or an address with a port: 8080, 0.0.0.0:8080 or [::]:8080; got {text!r}"
    return OptionError(message)
