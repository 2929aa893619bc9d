"""What surrounds deepir-run in benchmarks/soak.py: a camera, a web address that takes answers, somebody at the page."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from pathlib import Path
from socket import create_server
from typing import Any

SERVER = Path(__file__).parents[1] / "tests" / "runtime" / "stream_server.py"
USER = "robot:secret"
PAGE_LIMIT = 5.0
POLL = 1.0


def free_port() -> int:
    with closing(create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


def encode(video: Path, out: Path, fps: float) -> None:
    """The first minute of a clip as our RTSP server wants it.

    Raises:
        RuntimeError: There is no ffmpeg, or it cannot read the clip.
    """
    import imageio_ffmpeg

    form = ["-t", "60", "-vf", "scale=640:-2", "-r", f"{fps:g}", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    form += ["-bf", "0", "-g", f"{2 * fps:.0f}", "-x264-params", "aud=1", "-f", "h264", "-y", str(out)]
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video), *form]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 our own words
    if done.returncode != 0:
        message = f"ffmpeg cannot encode {video}: {done.stderr[-300:]}"
        raise RuntimeError(message)


class CameraProgram:
    """An RTSP server in a process of its own."""

    def __init__(self, clip: Path, fps: float) -> None:
        self._words = [sys.executable, str(SERVER), str(clip), "--fps", f"{fps:g}", "--user", USER, "--port"]
        self._port = free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"rtsp://{USER}@127.0.0.1:{self._port}/live"

    def start(self) -> None:
        words = [*self._words, str(self._port)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)  # noqa: S603 our own program
        if self._process.stdout is None or not self._process.stdout.readline().startswith("ready"):
            message = "the RTSP server does not start"
            raise RuntimeError(message)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def stall(self) -> None:
        """It stops in the middle of what it does; the kernel goes on accepting connections for it."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def spoil(self) -> None:
        """A third of the packets is lost for two seconds."""
        self._send(signal.SIGUSR1)

    def _send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class Address:
    """A web address that keeps what is posted to it, and is away when told so."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.port = free_port()
        self.lock = threading.Lock()
        self.away = False
        self._server: http.server.ThreadingHTTPServer | None = None

    def up(self) -> None:
        self.away = False
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), _handler_of(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        with self.lock:
            self.away = True
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def count(self) -> int:
        with self.lock:
            return len(self.records)


def _handler_of(address: Address) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with address.lock:
                if address.away:
                    self.close_connection = True
                    return
                address.records.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Silent."""

    return Handler


class Visitor:
    """Asks for pages once a second, as a browser would that was left open."""

    def __init__(self, addresses: list[str]) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._addresses = addresses
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(2 * PAGE_LIMIT)

    def _visit(self) -> None:
        while not self._over.wait(POLL):
            for address in self._addresses:
                try:
                    with urllib.request.urlopen(address, timeout=PAGE_LIMIT) as answer:  # noqa: S310 our own page
                        answer.read()
                    self.answered += 1
                except OSError as error:
                    self.failures.append(f"{address}: {error}")
