"""Answers posted to real servers on this machine: one that is well, slow, broken, strict, or not there."""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deepir.errors import OptionError
from deepir.runtime import webhook as module
from deepir.runtime.delivery import Choice, Delivery, DeliveryError, RefusedError
from deepir.runtime.result import Result
from deepir.runtime.webhook import TOKEN_VARIABLE, Webhook, WebhookSink

MakeAnswer = Callable[..., Result]

WAIT = 60.0


class Server:
    """Answers with the given codes one after another, then with 200; keeps what it took."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.answer = b""
        self.more_headers: dict[str, str] = {}
        self.taken: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = outer.codes.pop(0) if outer.codes else 200
                if code == 200:
                    outer.taken.append(json.loads(body))
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                self.send_response(code)
                self.send_header("Content-Length", str(len(outer.answer)))
                for name, value in outer.more_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(outer.answer)

            def log_message(self, *_words: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        # who stops reading in the middle of an answer is no error of this server
        self._http.handle_error = lambda *_words: None  # type: ignore[method-assign]
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Speak TLS from the next connection on."""
        # each in the thread that serves it: who does not like the certificate must not end the one that accepts
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Delivery]]:
    monkeypatch.setattr("deepir.runtime.delivery._FAREWELL", 0.1)
    made: list[Delivery] = []

    def make(address: str) -> Delivery:
        made.append(WebhookSink(address, Choice("all")))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def test_each_answer_is_posted_as_its_json_object(
    make_answer: MakeAnswer, server: Server, opened: Callable[[str], Delivery]
) -> None:
    sink = opened(f"http://127.0.0.1:{server.port}/seen?shop=3")
    answers = [make_answer(number) for number in range(5)]
    for answer in answers:
        sink.take(answer)
    assert sink.wait_for(lambda state: state.sent == 5, WAIT)
    assert server.taken == [json.loads(json.dumps(answer.record())) for answer in answers]
    assert set(server.paths) == {"/seen?shop=3"}
    assert server.headers[0]["Content-Type"] == "application/json"
    assert server.headers[0]["User-Agent"].startswith("deepir/")


@pytest.mark.parametrize("code", [500, 503, 429, 408])
def test_a_server_in_trouble_gets_the_answer_again(
    make_answer: MakeAnswer, code: int, server: Server, opened: Callable[[str], Delivery]
) -> None:
    server.codes = [code]
    sink = opened(f"http://127.0.0.1:{server.port}/")
    sink.take(make_answer(1))
    sink.take(make_answer(2))
    assert sink.wait_for(lambda state: state.sent == 2, WAIT)
    assert len(server.paths) == 3
    assert [record["frame"] for record in server.taken] == [1, 2]


@pytest.mark.parametrize(("code", "words"), [(404, "answers 404"), (401, "answers 401"), (301, "answers 301")])
def test_a_server_that_refuses_is_not_asked_again(
    make_answer: MakeAnswer, code: int, words: str, server: Server, opened: Callable[[str], Delivery]
) -> None:
    server.codes = [code]
    sink = opened(f"http://127.0.0.1:{server.port}/")
    sink.take(make_answer(1))
    assert sink.wait_for(lambda state: state.dropped == 1, WAIT)
    assert words in sink.state.trouble
    sink.take(make_answer(2))
    assert sink.wait_for(lambda state: state.sent == 1, WAIT)
    assert [record["frame"] for record in server.taken] == [2]


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://robot:password@new.example:8443/SECRET", ", it moved to https://new.example:8443: give the new"),
        ("/SECRET/", ", it moved to another path there: give the new"),
        ("//new.example/SECRET", ", it moved to http://new.example: give the new"),
        ("http://[SECRET", "answers 308 Permanent Redirect"),
    ],
)
def test_where_a_server_moved_to_is_told_without_a_path_that_may_be_a_secret(
    location: str, where: str, server: Server
) -> None:
    server.codes = [308]
    server.more_headers = {"Location": location}
    with pytest.raises(RefusedError, match="answers 308") as caught:
        Webhook(f"http://127.0.0.1:{server.port}/SECRET")({"frame": 1})
    assert where in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "text", "seconds"),
    [
        (429, "7", 7),
        (503, "7", 7),
        (503, "86400", 60),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 0),
        (429, "-1", 0),
        (429, "", 0),
        (500, "7", 0),
    ],
)
def test_a_server_may_say_in_how_many_seconds_it_wants_to_be_asked_again(
    code: int, text: str, seconds: float, server: Server
) -> None:
    server.codes = [code]
    server.more_headers = {"Retry-After": text}
    with pytest.raises(DeliveryError, match=f"answers {code}") as caught:
        Webhook(f"http://127.0.0.1:{server.port}/")({"frame": 1})
    assert caught.value.wait == seconds


def test_answers_wait_for_a_server_that_is_not_there_yet(
    make_answer: MakeAnswer, opened: Callable[[str], Delivery]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sink = opened(f"http://robot:secret@127.0.0.1:{port}/")
    for number in range(3):
        sink.take(make_answer(number))
    assert sink.wait_for(lambda state: bool(state.trouble), WAIT)
    assert "secret" not in sink.state.trouble
    assert "does not answer" in sink.state.trouble
    assert sink.state.waiting == 3


def test_a_server_that_says_nothing_is_given_up_after_a_while(
    make_answer: MakeAnswer, opened: Callable[[str], Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = opened(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        sink.take(make_answer(1))
        assert sink.wait_for(lambda state: "timed out" in state.trouble, WAIT)


def test_a_connection_that_the_server_closed_in_between_is_opened_again(server: Server) -> None:
    post = Webhook(f"http://127.0.0.1:{server.port}/")
    post({"frame": 1})
    assert post._connection is not None
    post._connection.sock.shutdown(socket.SHUT_RDWR)
    post({"frame": 2})
    post.close()
    assert [record["frame"] for record in server.taken] == [1, 2]


def test_user_and_password_of_the_address_or_a_token_are_sent_and_never_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    address = f"http://robot:p%40ss@127.0.0.1:{server.port}/"
    with_password = Webhook(address)
    with_password({"frame": 1})
    expected = base64.b64encode(b"robot:p@ss").decode()
    assert server.headers[-1]["Authorization"] == f"Basic {expected}"
    assert "p%40ss" not in with_password.name
    monkeypatch.setenv(TOKEN_VARIABLE, "token-1")
    Webhook(f"http://127.0.0.1:{server.port}/")({"frame": 2})
    assert server.headers[-1]["Authorization"] == "Bearer token-1"


@pytest.mark.parametrize(
    "address", ["ftp://host/", "host/path", "http://", "file:///etc/passwd", "http://user:secret@host:port/"]
)
def test_what_is_no_web_address_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(OptionError, match="--webhook takes an http:// or https:// address") as caught:
        Webhook(address)
    assert "secret" not in str(caught.value)


def test_a_path_with_letters_beyond_ascii_arrives_quoted_and_what_is_quoted_stays(server: Server) -> None:
    post = Webhook(f"http://127.0.0.1:{server.port}/tür auf/a%2Fb?x=1&y=ö")
    post({"frame": 1})
    post.close()
    assert server.paths == ["/t%C3%BCr%20auf/a%2Fb?x=1&y=%C3%B6"]


def test_a_path_that_is_a_secret_is_not_shown() -> None:
    assert Webhook("https://hooks.example/services/T0/SECRET?key=SECRET").name == "https://hooks.example"


@pytest.mark.parametrize("token", ["two\nlines", "tökén"])
def test_a_token_that_cannot_be_sent_is_refused_at_once(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(OptionError, match=TOKEN_VARIABLE) as caught:
        Webhook("http://host/")
    assert token not in str(caught.value)


def test_a_number_of_version_6_is_no_port() -> None:
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    listening.close()
    assert (Webhook("http://[::1]/")._host, Webhook("https://[::1]/")._port) == ("::1", 443)


def test_a_server_that_went_silent_on_an_open_connection_is_not_sent_the_answer_twice() -> None:
    bodies: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        post = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/")

        def answer_once() -> None:
            taken, _ = server.accept()
            bodies.append(taken.recv(65536))
            taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            while body := taken.recv(65536):
                bodies.append(body)

        thread = threading.Thread(target=answer_once, daemon=True)
        thread.start()
        post({"frame": 1})
        assert post._connection is not None
        post._connection.sock.settimeout(0.2)
        with pytest.raises(DeliveryError, match="timed out"):
            post({"frame": 2})
        thread.join(WAIT)
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    assert b"".join(bodies).count(b'{"frame": 2}') == 1


def test_a_server_that_answers_at_length_is_not_read_to_the_end_and_gets_the_next(server: Server) -> None:
    server.answer = b"x" * 1_000_000
    post = Webhook(f"http://127.0.0.1:{server.port}/")
    for number in range(3):
        post({"frame": number})
    post.close()
    assert [record["frame"] for record in server.taken] == [0, 1, 2]


class RawServer:
    """Answers each request with the given bytes, a moment apart for ever, or closes after them."""

    def __init__(self, answer: bytes, then: bytes | None) -> None:
        self.requests = 0
        self._answer, self._then = answer, then
        self._over = threading.Event()
        self._serving: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._serving.append(threading.Thread(target=self._serve, args=(self._listening.accept()[0],)))
                self._serving[-1].start()

    def _serve(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            got = b""
            while not got.endswith(b"}"):
                got += line.recv(65536)
            self.requests += 1
            line.sendall(self._answer)
            while self._then is not None and not self._over.wait(0.01):
                line.sendall(self._then)

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._serving:
            thread.join(WAIT)


TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"


@pytest.fixture
def raw() -> Iterator[Callable[..., RawServer]]:
    made: list[RawServer] = []

    def start(answer: bytes, then: bytes | None) -> RawServer:
        made.append(RawServer(answer, then))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        (TAKEN, None),
        (TAKEN, b""),
        (TAKEN.replace(b"10", b"1000000"), b"x"),
        (TAKEN.replace(b"10", b"1000000\r\nConnection: close"), b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", None),
    ],
    ids=["cut", "stalls", "drips", "drips and closes", "cut chunk"],
)
def test_what_was_taken_is_not_sent_again_because_the_rest_of_the_answer_does_not_come(
    answer: bytes, then: bytes | None, raw: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = raw(answer, then)
    post = Webhook(server.address)
    read = http.client.HTTPResponse.read

    def soon_at_its_limits(response: http.client.HTTPResponse, amount: int) -> bytes:
        assert post._line is not None
        post._line.settimeout(0.1)
        threading.Timer(0.2, post.break_off).start()
        return read(response, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", soon_at_its_limits)
    post({"frame": 1})
    assert post._connection is None
    server.close()
    assert server.requests == 1


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX: "], ids=["status line", "header"])
def test_an_answer_that_drips_without_end_is_a_failed_try(
    answer: bytes, raw: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_ANSWER", 0.2)
    server = raw(answer, b"x")
    post = Webhook(server.address)
    for _ in range(2):
        with pytest.raises(DeliveryError, match="takes too long"):
            post({"frame": 1})
    server.close()
    assert server.requests == 2


def test_at_the_end_a_server_that_hangs_is_not_waited_for(
    make_answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepir.runtime.delivery._FAREWELL", 0.1)
    monkeypatch.setattr("deepir.runtime.delivery._GRACE", WAIT)
    monkeypatch.setattr(module, "_TIMEOUT", 10 * WAIT)
    monkeypatch.setattr(module, "_LONGEST_ANSWER", 10 * WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sink = WebhookSink(f"http://127.0.0.1:{server.getsockname()[1]}/", Choice("all"))
        for number in range(3):
            sink.take(make_answer(number))
        taken, _ = server.accept()
        with taken:
            assert taken.recv(65536)
            sink.close()
        assert not sink._thread.is_alive()
        assert (sink.state.waiting, sink.state.dropped) == (0, 3)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_certificate_that_the_user_vouches_for_is_taken_and_no_other(
    server: Server, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.encrypt(context)
    address = f"https://127.0.0.1:{server.port}/"
    with pytest.raises(DeliveryError, match="certificate verify failed: self"):
        Webhook(address)({"frame": 1})
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    Webhook(address)({"frame": 2})
    assert [record["frame"] for record in server.taken] == [2]
