"""What systemd hears: datagrams on a real socket, and nothing where nobody listens."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepir.runtime.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def heard(listening: socket.socket) -> list[str]:
    found = []
    listening.setblocking(False)
    while True:
        try:
            found.append(listening.recv(4096).decode())
        except BlockingIOError:
            return found


def test_ready_status_and_stopping_are_told(systemd: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, lambda: 0.0)
    notifier.ready()
    notifier.beat(lambda: "12 frames\nall well")
    notifier.stopping()
    assert heard(systemd) == ["READY=1", "STATUS=12 frames all well", "STOPPING=1"]


def test_the_watchdog_is_fed_twice_in_its_time(systemd: socket.socket, tmp_path: Path) -> None:
    seconds = [0.0]
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "800000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier(environment, lambda: seconds[0])
    for tenth in range(11):
        seconds[0] = tenth / 10
        notifier.beat(lambda: "well")
    assert heard(systemd) == ["STATUS=well\nWATCHDOG=1"] * 3


def test_the_watchdog_is_not_fed_while_the_model_hangs(systemd: socket.socket, tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "800000"}
    Notifier(environment).beat(lambda: "stuck", well=False)
    assert heard(systemd) == ["STATUS=stuck"]


def test_the_watchdog_of_another_process_is_not_fed(systemd: socket.socket, tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "800000", "WATCHDOG_PID": "1"}
    Notifier(environment).beat(lambda: "well")
    assert heard(systemd) == ["STATUS=well"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX") or os.uname().sysname != "Linux", reason="Linux's abstract sockets")
def test_an_abstract_socket_is_found() -> None:
    name = f"deepir-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert heard(listening) == ["READY=1"]


def test_where_nobody_listens_nothing_happens_and_no_status_is_made(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    notifier = Notifier({})
    notifier.ready()
    notifier.beat(lambda: pytest.fail("made for nobody"))
    notifier.stopping()
