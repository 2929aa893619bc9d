"""Connections to the live page that say nothing, or are too many, over real sockets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepir.runtime import Recogniser, page_connection
from deepir.runtime.page import Page
from deepir.runtime.page_address import PageAddress
from deepir.runtime.recording import ImageFiles
from deepir.runtime.vitals import Vitals

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

HERE = PageAddress("127.0.0.1", 0)
WAIT = 60
"""Seconds that a machine may need for what takes a moment."""

QUESTION = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(shop: Path) -> Iterator[Connect]:
    with ExitStack() as stack:
        recogniser = stack.enter_context(Recogniser.open(shop))
        page = stack.enter_context(Page(Vitals(recogniser, ImageFiles([], "pictures")), shop, HERE).start())
        port = int(page.url.split(":")[2].split("/")[0])
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WAIT))


def first_line(connection: socket.socket) -> bytes:
    """Ask, and give what the answer begins with; nothing where the connection is closed instead."""
    try:
        connection.sendall(QUESTION)
        return connection.recv(4096).partition(b"\r\n")[0]
    except ConnectionError:
        return b""


def ended(connection: socket.socket) -> bool:
    """Wait for the end of what comes."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_a_connection_that_asks_for_nothing_is_closed(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(page_connection, "_PATIENCE", 0.2)
    connection = connect()
    connection.sendall(said)
    assert ended(connection)


def test_also_after_an_answer_part_of_a_question_is_none(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_connection, "_PATIENCE", 0.2)
    connection = connect()
    assert first_line(connection) == b"HTTP/1.1 200 OK"
    connection.sendall(QUESTION[:9])
    assert ended(connection)


def test_who_listens_may_be_silent_for_as_long_as_they_like(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_connection, "_PATIENCE", 0.2)
    with connect().makefile("rwb") as listening:
        listening.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        listening.flush()
        # one a second, so the patience is over before the second one
        events = (line for line in listening if line.startswith(b"data: "))
        assert [next(events)[:7] for _ in range(3)] == [b"data: {"] * 3


def test_beyond_the_most_a_connection_is_closed_at_once_and_the_others_go_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_connection, "_MOST", 3)
    first, *others = [connect() for _ in range(3)]
    assert ended(connect())
    assert first_line(first) == b"HTTP/1.1 200 OK"
    for connection in others:
        connection.close()
    while first_line(connect()) != b"HTTP/1.1 200 OK":
        pass


def test_the_system_finds_out_that_a_browser_has_gone() -> None:
    with HERE.bind() as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            for name, value in page_connection._ALIVE.items():
                if hasattr(socket, name):
                    assert connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
