"""Cameras over real sockets and pipes: servers that die, stall, refuse, and come back."""

import http.server
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from deepir.errors import SourceError
from deepir.runtime import capture
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Patience
from deepir.runtime.capture import open_file
from deepir.runtime.network_camera import why_closed
from deepir.runtime.source import Source, open_source

PATIENCE = 60.0
"""Never reached by a test that passes."""

WAIT = Patience(on_lost="wait")
RNG = np.random.default_rng(7)
JPEGS = [bytes(cv2.imencode(".jpg", RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))[1]) for _ in range(8)]


def give_up_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled server is given up so soon, and not after ten seconds."""
    limit = int(1_000_000 * seconds)
    monkeypatch.setattr(capture, "_TIMEOUT_MS", limit // 1000)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", f"rtsp_transport;tcp|stimeout;{limit}|rw_timeout;{limit}")
    monkeypatch.setattr("deepir.runtime.network_camera._PATIENCE", seconds)


class Server(http.server.ThreadingHTTPServer):
    """An HTTP camera on loopback that does as it is told.

    Attributes:
        status: What it answers; below 300 with a stream.
        frames: Of each connection; then it breaks off.
        stalls: Whether it then holds the connection and says nothing more.
        text: Sent in place of pictures.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.status, self.frames, self.stalls, self.text = 200, 1000, False, b""
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://robot:secret@127.0.0.1:{self.server_port}/a.mjpg"

    def stop(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        self.send_response(server.status)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        if server.status >= 300:
            return
        with suppress(OSError):
            if server.text:
                self.wfile.write(server.text)
                return
            for number in range(server.frames):
                jpeg = JPEGS[number % len(JPEGS)]
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                self.wfile.write(head + jpeg + b"\r\n")
            if server.stalls:
                server.released.wait(PATIENCE)

    def log_message(self, *_words: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def answering() -> Iterator[Callable[[bytes | None], int]]:
    """answering(answer) is the port of a server that says this to everybody and closes; None accepts and stalls."""
    sockets: list[socket.socket] = []

    def serve(answer: bytes | None) -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                if answer is None:
                    sockets.append(connection)
                    continue
                with connection, suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return int(listening.getsockname()[1])

    yield serve
    for one in sockets:
        # close alone does not wake up a thread that accepts
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


def open_camera(address: str, patience: Patience | None = None) -> Camera:
    source: Source = open_source(address, patience)
    assert isinstance(source, Camera)
    return source


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


def take_one_more(camera: Camera) -> None:
    before = camera.state.frames
    while camera.state.frames == before:
        assert camera.take(PATIENCE) is not None


def wait_for_outages(camera: Camera, count: int) -> None:
    """Ask for frames until so many: a state that passes is missed by a thread that comes late, a number is not."""
    until = time.monotonic() + PATIENCE
    while camera.state.outages < count:
        assert time.monotonic() < until, camera.state
        camera.take(0.02)


def test_a_stream_is_read(server: Server) -> None:
    with open_camera(server.address) as camera:
        frame = camera.take(PATIENCE)
    assert frame is not None
    assert (frame.image.shape, camera.size) == ((48, 64, 3), (48, 64))
    assert "secret" not in frame.name


def test_a_server_that_breaks_off_is_a_lost_camera(server: Server) -> None:
    server.frames = 6
    with open_camera(server.address) as camera, pytest.raises(SourceError, match=r"lost http://\*\*\*@127.* after"):
        list(camera)


def test_a_server_that_dies_and_comes_back_is_found_again(server: Server) -> None:
    server.frames = 6
    with open_camera(server.address, WAIT) as camera:
        take_one_more(camera)
        assert camera.wait_for("lost", PATIENCE)
        server.stop()
        again = Server(server.server_port)
        try:
            take_one_more(camera)
        finally:
            again.stop()
        assert camera.state.outages >= 1


def test_a_server_that_stalls_in_the_middle_is_a_lost_camera(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # time enough to open it on a busy machine
    give_up_after(3.0, monkeypatch)
    server.frames, server.stalls = 6, True
    with open_camera(server.address) as camera, pytest.raises(SourceError, match="lost http"):
        list(camera)


def test_a_clip_on_a_server_has_an_end(server: Server, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in JPEGS]
    server.text = write_video(tmp_path / "walk.avi", images).read_bytes()
    with open_camera(server.address, WAIT) as camera:
        assert camera.wait_for("ended", PATIENCE)
        assert (camera.state.frames, camera.state.outages) == (8, 0)


def test_a_camera_may_be_absent_at_the_start() -> None:
    port = free_port()
    with open_camera(f"http://127.0.0.1:{port}/a.mjpg", WAIT) as camera:
        assert camera.state.trouble is not None
        assert camera.state.trouble.kind == "refused"
        server = Server(port)
        try:
            take_one_more(camera)
        finally:
            server.stop()


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp", "tcp"])
def test_a_server_that_accepts_and_stalls_is_given_up(
    scheme: str, answering: Callable[[bytes | None], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up_after(0.5, monkeypatch)
    with pytest.raises(SourceError, match=rf"cannot open {scheme}://\*\*\*@127\.0\.0\.1"):
        open_source(f"{scheme}://robot:secret@127.0.0.1:{answering(None)}/1")


@pytest.mark.parametrize(
    ("status", "kind", "cure"),
    [
        (401, "auth", "does not take this user and password"),
        (403, "auth", "does not take this user and password"),
        (404, "not found", "check what comes after 127.0.0.1"),
        (503, "refused", "it answers 503"),
        (200, "codec", "set the camera to H.264 or MJPEG"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_what_a_server_answers_is_told(
    scheme: str, status: int, kind: str, cure: str, answering: Callable[[bytes | None], int]
) -> None:
    version = "RTSP/1.0" if scheme == "rtsp" else "HTTP/1.1"
    port = answering(f"{version} {status} Some Words\r\nCSeq: 1\r\n\r\n".encode())
    trouble = why_closed(f"{scheme}://robot:secret@127.0.0.1:{port}/1?token=secret")
    assert trouble.kind == kind
    assert cure in trouble.sentence
    assert "secret" not in trouble.sentence


def test_a_server_that_asks_for_a_password_that_was_not_given_says_so(server: Server) -> None:
    server.status = 401
    trouble = why_closed(server.address.replace("robot:secret@", ""))
    assert (trouble.kind, "write //user:password@host" in trouble.sentence) == ("auth", True)


def test_a_page_without_pictures_is_a_codec_trouble(server: Server) -> None:
    server.text = b"<html>no pictures here</html>"
    with pytest.raises(SourceError, match="sends no pictures that this OpenCV can decode"):
        open_source(server.address)


def test_why_a_stream_does_not_open_is_asked_without_the_password(answering: Callable[[bytes | None], int]) -> None:
    heard: list[bytes] = []

    class Heard(socket.socket):
        def sendall(self, words: bytes, /) -> None:  # type: ignore[override]
            heard.append(words)
            super().sendall(words)

    def connect(address: tuple[str, int], _seconds: float) -> socket.socket:
        connection = Heard()
        connection.connect(address)
        return connection

    for scheme in ("http", "rtsp"):
        port = answering(b"RTSP/1.0 401 No\r\n\r\n")
        why_closed(f"{scheme}://robot:secret@127.0.0.1:{port}/live/1?channel=2", connect)
        assert b"/live/1?channel=2" in heard[-1]
        assert b"secret" not in heard[-1]


def failing(error: OSError) -> Callable[[tuple[str, int], float], socket.socket]:
    def connect(_address: tuple[str, int], _seconds: float) -> socket.socket:
        raise error

    return connect


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(-2, "Name or service not known"), "not found"),
        (ConnectionRefusedError(), "refused"),
        (TimeoutError("timed out"), "timeout"),
        (OSError(113, "No route to host"), "timeout"),
    ],
)
def test_a_machine_that_is_not_reached_is_told_apart(error: OSError, kind: str) -> None:
    assert why_closed("rtsp://shop/1", failing(error)).kind == kind


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("rtsp://u:p/w@shop:x/1", "not found"),
        ("rtsp:///1", "not found"),
        ("udp://@:5000", "timeout"),
        ("tcp://h", "timeout"),
    ],
)
def test_an_address_that_cannot_be_asked_is_no_crash(address: str, kind: str) -> None:
    assert why_closed(address, failing(TimeoutError())).kind == kind


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_ends_is_opened_again(tmp_path: Path) -> None:
    pipe = tmp_path / "camera.mjpeg"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb") as stream:
            stream.write(b"".join(JPEGS))

    camera = Camera(lambda: open_file(str(pipe)), "pipe", WAIT)
    for connection in (1, 2):
        before = camera.state.frames
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        wait_for_outages(camera, connection)
        writer.join(PATIENCE)
        assert camera.state.frames > before
        assert camera.state.outages == connection
    closing_it = threading.Thread(target=camera.close)
    closing_it.start()
    # the thread may wait for a third writer
    os.close(os.open(pipe, os.O_RDWR))
    closing_it.join(PATIENCE)


def test_a_stream_of_ffmpeg_that_is_killed_and_started_again_goes_on(repeated: Callable[..., Any]) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg: pip install imageio-ffmpeg").get_ffmpeg_exe()
    address = f"http://127.0.0.1:{free_port()}/a.mjpg"
    source = ["-re", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25"]
    sink = ["-c:v", "mjpeg", "-f", "mpjpeg", "-listen", "1", address]
    program = repeated([ffmpeg, "-loglevel", "quiet", *source, *sink])
    with open_camera(address, WAIT) as camera:
        take_one_more(camera)
        outages = camera.state.outages
        program.send(signal.SIGKILL)
        wait_for_outages(camera, outages + 1)
        take_one_more(camera)
