"""Cameras made of real programs (ffmpeg, an RTSP server) that are killed, stopped, refused, unplugged and come back."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from socket import create_server
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepir.errors import SourceError
from deepir.runtime import capture
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Kind, Patience
from deepir.runtime.capture import Capture, open_file
from deepir.runtime.frame import Frame
from deepir.runtime.local_camera import opener_of_node
from deepir.runtime.source import open_source
from deepir.runtime.vitals import source_report

LIMIT = 60.0
"""Never reached by a test that passes."""

WAIT = Patience(on_lost="wait")
IMPATIENT = Patience(on_lost="wait", stale=0.5, silence=10.0)
"""Long enough to open a stream on a busy machine, which the silence is counted for too."""
SERVER = Path(__file__).with_name("stream_server.py")
USER = "robot:secret"
COLOURS = ((230, 20, 20), (20, 230, 20), (20, 20, 230), (230, 230, 230))
BITS = len(COLOURS)
COUNT = 2**BITS
HEIGHT, WIDTH = 96, 128
SLACK = 30
RAW = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-"]
H264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "8", "-x264-params", "aud=1"]


def picture(number: int) -> np.ndarray:
    """Four colours above, the number in black and white below."""
    rows = np.empty((2, BITS, 3), np.uint8)
    rows[0] = COLOURS
    rows[1] = [[230 if number >> bit & 1 else 20] * 3 for bit in range(BITS)]
    return rows.repeat(HEIGHT // 2, 0).repeat(WIDTH // BITS, 1)


def number_in(frame: Frame) -> int:
    """The number that the picture shows, when it is one of ours, whole and with its colours."""
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    tiles = frame.image.reshape(2, HEIGHT // 2, BITS, WIDTH // BITS, 3)
    rows = tiles[:, 12:-12, :, 8:-8].mean((1, 3))
    number = sum(int(rows[1, bit].mean() > 128) << bit for bit in range(BITS))
    expected = picture(number)[:: HEIGHT // 2, :: WIDTH // BITS]
    np.testing.assert_allclose(rows, expected, atol=SLACK)
    return number


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    module = pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg: pip install imageio-ffmpeg")
    return str(module.get_ffmpeg_exe())


@pytest.fixture(scope="session")
def clip(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures as H.264, bare and as .mp4 beside it."""
    path = tmp_path_factory.mktemp("clip") / "clip.h264"
    pixels = b"".join(picture(number).tobytes() for number in range(COUNT))
    subprocess.run([ffmpeg, "-v", "error", *RAW, *H264, "-f", "h264", path], input=pixels, check=True)
    subprocess.run([ffmpeg, "-v", "error", *RAW, *H264, path.with_suffix(".mp4")], input=pixels, check=True)
    return path


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost stream is given up after two seconds, and tried again soon and often."""
    monkeypatch.setattr(capture, "_TIMEOUT_MS", 2000)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|stimeout;2000000|rw_timeout;2000000")
    monkeypatch.setattr("deepir.runtime.network_camera._PATIENCE", 2.0)
    monkeypatch.setattr("deepir.runtime.backoff.FIRST", 0.05)
    monkeypatch.setattr("deepir.runtime.backoff.LONGEST", 0.2)


@pytest.fixture
def serve(clip: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """serve(port, user) gives a running RTSP camera and its port."""
    servers: list[subprocess.Popen[str]] = []

    def run(port: int = 0, user: str = "") -> tuple[subprocess.Popen[str], int]:
        words = [sys.executable, str(SERVER), str(clip), "--port", str(port), "--user", user]
        servers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        stdout = servers[-1].stdout
        assert stdout is not None
        return servers[-1], int(stdout.readline().split()[1])

    yield run
    for server in servers:
        server.kill()
        server.communicate()


def open_camera(address: str, patience: Patience = WAIT) -> Camera:
    source = open_source(address, patience)
    assert isinstance(source, Camera)
    return source


def take_more(camera: Camera, count: int = 3) -> list[Frame]:
    """The next frames, each checked to be one that the camera sent."""
    frames = []
    while len(frames) < count:
        frame = camera.take(LIMIT)
        assert frame is not None
        number_in(frame)
        frames.append(frame)
    return frames


def wait_until(camera: Camera, happened: Callable[[], bool]) -> None:
    """Ask for frames until it happened."""
    until = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < until, camera.state
        camera.take(0.02)


def free_port() -> int:
    with closing(create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


def kind_of(camera: Camera) -> Kind | None:
    trouble = camera.state.trouble
    return None if trouble is None else trouble.kind


def test_an_rtsp_camera_gives_its_pictures_in_their_colours(serve: Callable[..., tuple[object, int]]) -> None:
    _, port = serve(user=USER)
    with open_camera(f"rtsp://{USER}@127.0.0.1:{port}/live") as camera:
        frames = take_more(camera, 10)
        assert (camera.size, camera.state.status, camera.state.dropped) == ((HEIGHT, WIDTH), "live", 0)
    numbers = [frame.number for frame in frames]
    shown = [number_in(frame) for frame in frames]
    # between two frames that were taken as many came as their numbers say
    steps = [(after - before) % COUNT for before, after in itertools.pairwise(numbers)]
    assert [(after - before) % COUNT for before, after in itertools.pairwise(shown)] == steps


def test_an_rtsp_server_that_is_killed_is_found_again_and_nothing_is_made_up_in_between(
    serve: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    server, port = serve()
    with open_camera(f"rtsp://127.0.0.1:{port}/live") as camera:
        before = take_more(camera)
        server.kill()
        wait_until(camera, lambda: kind_of(camera) == "refused")
        lost = camera.state
        wait_until(camera, lambda: camera.state.outages >= lost.outages + 2)
        assert camera.state.frames == lost.frames
        serve(port)
        after = take_more(camera)
        assert (camera.state.status, camera.state.trouble) == ("live", None)
        assert camera.state.outages >= 3
    numbers = [frame.number for frame in (*before, *after)]
    assert numbers == sorted(set(numbers))
    assert after[0].number >= lost.frames


def test_an_rtsp_server_that_stops_in_the_middle_is_found_by_the_watchdog(
    serve: Callable[..., tuple[subprocess.Popen[str], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # longer than the watchdog waits: its limits are all there is
    monkeypatch.setattr(capture, "_TIMEOUT_MS", 30_000)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    server, port = serve()
    with open_camera(f"rtsp://127.0.0.1:{port}/live", IMPATIENT) as camera:
        take_more(camera)
        server.send_signal(signal.SIGSTOP)
        wait_until(camera, lambda: camera.state.status == "stale")
        wait_until(camera, lambda: kind_of(camera) == "hung")
        server.send_signal(signal.SIGCONT)
        take_more(camera)
        wait_until(camera, lambda: camera.state.status == "live")


def test_pictures_that_the_decoder_held_back_before_a_stall_do_not_pass_for_new_ones(
    serve: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    server, port = serve()
    with open_camera(f"rtsp://127.0.0.1:{port}/live") as camera:
        take_more(camera)
        stopped = time.monotonic()
        server.send_signal(signal.SIGSTOP)
        frames: list[Frame] = []
        while camera.state.outages == 0:
            frame = camera.take(0.02)
            frames += [] if frame is None else [frame]
        server.kill()
    # the first of them came out when a read had run out of its two seconds
    assert [frame.number for frame in frames if frame.captured - stopped > 1.8] == []


@pytest.mark.parametrize(
    ("path", "user", "kind", "cure"),
    [
        ("live", "robot:wrong_secret", "auth", "does not take this user and password"),
        ("live", "", "auth", "write //user:password@host"),
        ("elsewhere", None, "not found", "check what comes after 127.0.0.1"),
        ("busy", None, "refused", "it answers 503"),
        ("sound", None, "codec", "set the camera to H.264 or MJPEG"),
    ],
)
def test_why_an_rtsp_camera_gives_no_pictures_is_told_without_the_password(
    path: str,
    user: str | None,
    kind: str,
    cure: str,
    serve: Callable[..., tuple[object, int]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A user of None: the camera asks for none."""
    _, port = serve(user="" if user is None else USER)
    with open_camera(f"rtsp://{user + '@' if user else ''}127.0.0.1:{port}/{path}?token=secret_token") as camera:
        trouble = camera.state.trouble
        report = source_report(camera)
    assert trouble is not None
    assert (trouble.kind, cure in trouble.sentence) == (kind, True)
    said = capfd.readouterr()
    assert "secret" not in f"{trouble}{report}{said.out}{said.err}"


def test_a_lost_rtsp_camera_ends_a_program_that_does_not_wait(
    serve: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    server, port = serve(user=USER)
    with open_camera(f"rtsp://{USER}@127.0.0.1:{port}/live", Patience()) as camera:
        take_more(camera)
        server.kill()
        with pytest.raises(SourceError, match=r"lost rtsp://\*\*\*@127\.0\.0\.1.* after \d+ frames"):
            wait_until(camera, lambda: False)


@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("http://127.0.0.1:{}/a.ts", ["-listen", "1"]),
        ("tcp://127.0.0.1:{}", ["-listen", "1"]),
        ("udp://127.0.0.1:{}", []),
    ],
    ids=["http", "tcp", "udp"],
)
def test_a_stream_of_ffmpeg_is_read_lost_and_found_again(
    address: str, listen: list[str], ffmpeg: str, clip: Path, repeated: Callable[..., Any]
) -> None:
    address = address.format(free_port())
    film = ["-re", "-stream_loop", "-1", "-i", str(clip.with_suffix(".mp4")), "-c", "copy"]
    program = repeated([ffmpeg, "-v", "error", *film, "-f", "mpegts", *listen, address])
    with open_camera(address) as camera:
        before = take_more(camera)
        program.stop()
        assert camera.wait_for("lost", LIMIT)
        lost = camera.state
        wait_until(camera, lambda: camera.state.outages > lost.outages)
        assert camera.state.frames == lost.frames
        program.start()
        after = take_more(camera)
    assert before[-1].number < lost.frames <= after[0].number


def test_a_tcp_server_that_accepts_and_sends_half_and_then_nothing_is_hung(
    ffmpeg: str, clip: Path, repeated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_TIMEOUT_MS", 30_000)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    address = f"tcp://127.0.0.1:{free_port()}"
    film = ["-re", "-stream_loop", "-1", "-i", str(clip.with_suffix(".mp4")), "-c", "copy"]
    program = repeated([ffmpeg, "-v", "error", *film, "-f", "mpegts", "-listen", "1", address])
    with open_camera(address, IMPATIENT) as camera:
        take_more(camera)
        program.send(signal.SIGSTOP)
        wait_until(camera, lambda: kind_of(camera) == "hung")
        assert camera.state.status in {"lost", "connecting"}


def test_pictures_that_ffmpeg_writes_into_stdin_arrive_one_and_all(
    ffmpeg: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [ffmpeg, "-v", "error", "-i", str(clip), "-c:v", "mjpeg", "-q:v", "2", "-f", "image2pipe", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as writing:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=writing.stdout))
        with open_source("-") as source:
            frames = list(source)
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    assert [frame.number for frame in frames] == list(range(COUNT))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_camera_that_is_unplugged_and_comes_back_under_another_number_is_found(
    ffmpeg: str,
    clip: Path,
    tmp_path: Path,
    repeated: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named pipes stand in for the nodes of a kernel without V4L2."""

    def open_pipe(number: int) -> Capture:
        return open_file(str(tmp_path / f"video{number}"))

    def plug_in(number: int) -> Any:
        node = tmp_path / f"video{number}"
        os.mkfifo(node)
        film = ["-re", "-stream_loop", "-1", "-i", str(clip.with_suffix(".mp4")), "-c", "copy"]
        program = repeated([ffmpeg, "-v", "error", *film, "-f", "mpegts", "-y", str(node)])
        stable.symlink_to(node)
        return program

    monkeypatch.setattr("deepir.runtime.local_camera.open_device", open_pipe)
    stable = tmp_path / "usb-Camera-index0"
    with Camera(opener_of_node(stable, lambda: ()), "camera", WAIT) as camera:
        wait_until(camera, lambda: kind_of(camera) == "not found")
        program = plug_in(7)
        before = take_more(camera)
        stable.unlink()
        (tmp_path / "video7").unlink()
        program.stop()
        wait_until(camera, lambda: kind_of(camera) == "not found")
        lost = camera.state.frames
        program = plug_in(8)
        after = take_more(camera)
        assert camera.state.trouble is None
        stable.unlink()
        (tmp_path / "video8").unlink()
        program.stop()
    assert before[-1].number < lost <= after[0].number
