"""An RTSP camera as a program, to be killed, stopped in the middle (SIGSTOP) and started again.

    python stream_server.py clip.h264 --port 8554 --fps 25 --user robot:secret

It says "ready 8554" when it listens, and sends the clip over and over as rtsp://robot:secret@127.0.0.1:8554/live, which
a client joins wherever it is, as it would a real camera. /sound is a stream without pictures, /busy answers 503, other
paths 404, and a wrong password 401. After SIGUSR1 a third of the packets is lost for two seconds. The clip is what
ffmpeg -bf 0 -x264-params aud=1 -f h264 writes.
"""

import argparse
import base64
import contextlib
import itertools
import random
import re
import signal
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

CLOCK = 90_000
MOST = 1400
DELIMITER, PARAMETERS = 9, (7, 8)
WORST, BAD_SECONDS = 0.33, 2.0
ANSWERS = {200: "OK", 401: "Unauthorized", 404: "Not Found", 461: "Unsupported Transport", 503: "Service Unavailable"}


def read_clip(path: Path) -> list[list[bytes]]:
    """The units of each picture of an H.264 file with delimiters."""
    pictures: list[list[bytes]] = []
    for unit in re.split(rb"\x00\x00\x00?\x01", path.read_bytes())[1:]:
        if unit[0] & 31 == DELIMITER:
            pictures.append([])
        else:
            pictures[-1].append(unit)
    return pictures


def payloads(unit: bytes) -> Iterator[bytes]:
    """A unit as RTP carries it (RFC 6184): whole, or in fragments."""
    if len(unit) <= MOST:
        yield unit
        return
    head, parts = unit[0], [unit[start : start + MOST] for start in range(1, len(unit), MOST)]
    for number, part in enumerate(parts):
        position = 0x80 * (number == 0) | 0x40 * (number == len(parts) - 1)
        yield bytes((head & 0xE0 | 28, position | head & 31)) + part


class Camera(socketserver.ThreadingTCPServer):
    """The server; each client has a thread that hears and one that sends."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, pictures: list[list[bytes]], fps: float, user: str) -> None:
        super().__init__(("127.0.0.1", port), Client)
        self.pictures, self.fps = pictures, fps
        self.credentials = "Basic " + base64.b64encode(user.encode()).decode() if user else ""
        self.began = time.monotonic()
        self.bad_until = 0.0

    def describe(self, path: str) -> str:
        if path == "/sound":
            return "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=sound\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:track\r\n"
        sets = [unit for unit in self.pictures[0] if unit[0] & 31 in PARAMETERS]
        known = ",".join(base64.b64encode(unit).decode() for unit in sets)
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
            f"a=framerate:{self.fps:g}\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={known}\r\n"
            "a=control:track\r\n"
        )


class Client(socketserver.StreamRequestHandler):
    """One connection; pictures travel in it, too."""

    server: Camera

    def handle(self) -> None:
        self.sending: threading.Thread | None = None
        self.gone = threading.Event()
        with contextlib.suppress(OSError):
            while line := self.rfile.read(1):
                if line == b"$":
                    # what the client says of its reception
                    _, length = struct.unpack(">BH", self.rfile.read(3))
                    self.rfile.read(length)
                    continue
                self.answer((line + self.rfile.readline()).decode())
        self.gone.set()

    def answer(self, first: str) -> None:
        method, address, *_ = first.split()
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        path = "/" + re.sub(r"rtsp://[^/]*/?|\?.*?(?=/track|$)|/track$", "", address)
        status, more, body = self.decide(method, path, headers)
        more += f"Content-Length: {len(body)}\r\nContent-Type: application/sdp\r\n" if body else ""
        text = f"RTSP/1.0 {status} {ANSWERS[status]}\r\nCSeq: {headers.get('cseq', '0')}\r\n{more}\r\n{body}"
        self.wfile.write(text.encode())
        if method == "PLAY" and status == 200 and path != "/sound" and self.sending is None:
            self.sending = threading.Thread(target=self.send, daemon=True)
            self.sending.start()

    def decide(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str, str]:
        if method == "OPTIONS":
            return 200, "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""
        if self.server.credentials and headers.get("authorization") != self.server.credentials:
            return 401, 'WWW-Authenticate: Basic realm="camera"\r\n', ""
        if path not in {"/live", "/sound"}:
            return 503 if path == "/busy" else 404, "", ""
        if method == "DESCRIBE":
            return 200, "", self.server.describe(path)
        if method == "SETUP" and "TCP" not in headers.get("transport", ""):
            return 461, "", ""
        transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n" if method == "SETUP" else ""
        return 200, f"Session: 1;timeout=60\r\n{transport}", ""

    def send(self) -> None:
        camera = self.server
        chance = random.Random(1)
        packet = 0
        for number in itertools.count(int((time.monotonic() - camera.began) * camera.fps)):
            if self.gone.wait(max(0.0, camera.began + number / camera.fps - time.monotonic())):
                return
            parts = [part for unit in camera.pictures[number % len(camera.pictures)] for part in payloads(unit)]
            stamp = int(number * CLOCK / camera.fps) % 2**32
            for place, part in enumerate(parts):
                marker = 0x80 * (place == len(parts) - 1)
                rtp = struct.pack(">BBHII", 0x80, 96 | marker, packet % 2**16, stamp, 1) + part
                packet += 1
                if time.monotonic() < camera.bad_until and chance.random() < WORST:
                    continue
                try:
                    self.wfile.write(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)
                except OSError:
                    return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--user", default="")
    options = parser.parse_args()
    with Camera(options.port, read_clip(options.clip), options.fps, options.user) as camera:
        signal.signal(signal.SIGUSR1, lambda *_: setattr(camera, "bad_until", time.monotonic() + BAD_SECONDS))
        sys.stdout.write(f"ready {camera.server_address[1]}\n")
        sys.stdout.flush()
        camera.serve_forever()


if __name__ == "__main__":
    main()
