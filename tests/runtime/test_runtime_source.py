"""The grammar of sources, and pictures from files."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import InputError, MissingDependency, SourceError
from deepir.image import Image
from deepir.runtime import gstreamer_camera, recording
from deepir.runtime.source import Word, open_source, parse_source, without_password

Picture = Callable[..., Image]


@pytest.mark.parametrize("word", ["camera0", "camera:0", "0"])
def test_a_camera_has_three_spellings(word: str) -> None:
    assert parse_source(word) == Word("number", "0", "camera0")


@pytest.mark.parametrize(
    ("word", "kind", "value"),
    [
        ("camera12", "number", "12"),
        ("/dev/video2", "node", "/dev/video2"),
        ("/dev/v4l/by-id/usb-046d_C920-index0", "node", "/dev/v4l/by-id/usb-046d_C920-index0"),
        ('camera:"Logitech C920"', "name", "Logitech C920"),
        ("camera:Logitech C920", "name", "Logitech C920"),
        ("csi://0", "csi", "0"),
        ("csi:1", "csi", "1"),
        ("gst:v4l2src ! videoconvert", "pipeline", "v4l2src ! videoconvert"),
        ("test://", "synthetic", "test://"),
        ("test://640x480@30?drop=5s", "synthetic", "test://640x480@30?drop=5s"),
        ("RTSP://shop/1", "address", "RTSP://shop/1"),
        ("rtmp://shop/1", "address", "rtmp://shop/1"),
        ("tcp://shop:5000", "address", "tcp://shop:5000"),
        ("udp://@:5000", "address", "udp://@:5000"),
        ("-", "stdin", "-"),
        ("walk.mp4", "path", "walk.mp4"),
        ("./camera0", "path", "./camera0"),
        ("*.jpg", "path", "*.jpg"),
        ("cameras", "path", "cameras"),
        ("1234", "path", "1234"),
    ],
)
def test_a_word_is_read_without_a_camera(word: str, kind: str, value: str) -> None:
    read = parse_source(word)
    assert (read.kind, read.value) == (kind, value)
    assert read.live == (kind not in {"stdin", "path"})


@pytest.mark.parametrize(
    "word", ["rtsp://user:secret@shop/1", "http://shop/a?password=secret&b=1", "rtsps://u:secret@s"]
)
def test_an_address_keeps_its_password_and_hides_it(word: str) -> None:
    read = parse_source(word)
    assert read.value == word
    assert "secret" not in read.name


@given(password=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=6))
def test_no_password_survives(password: str) -> None:
    shown = without_password(f"rtsp://robot:{password}@10.0.0.1/stream")
    assert shown == "rtsp://***@10.0.0.1/stream"


@pytest.mark.parametrize(
    "key", ["password", "pwd", "PASS", "token", "access_token", "apikey", "secret", "auth", "user-pw"]
)
@given(password=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6))
def test_no_password_of_a_query_survives(key: str, password: str) -> None:
    shown = without_password(f"http://10.0.0.1/stream?channel=1&{key}={password}&size=2")
    assert shown == f"http://10.0.0.1/stream?channel=1&{key}=***&size=2"


@pytest.mark.parametrize(
    "word",
    [
        "rtsp:/robot:secret@10.0.0.1/1",
        "robot:secret@10.0.0.1/1",
        "rtsp://10.0.0.1/user=robot_password=secret_channel=1.sdp",
        'gst:rtspsrc location=rtsp://10.0.0.1/1 user-id=robot user-pw="secret one" ! decodebin',
    ],
)
def test_a_password_in_an_odd_place_is_hidden(word: str) -> None:
    assert "secret" not in without_password(word)


@pytest.mark.parametrize(
    "word", ["photographs/token.jpg", "C:/a/b.mp4", "a@b.jpg", "csi://0", "test://640x480@30?drop=5s"]
)
def test_what_holds_no_password_is_shown_as_it_is(word: str) -> None:
    assert without_password(word) == word


def test_an_address_that_does_not_answer_hides_the_password() -> None:
    with pytest.raises(SourceError, match=r"cannot open rtsp://\*\*\*@127\.0\.0\.1:1/x: .* refuses") as caught:
        open_source("rtsp://user:secret@127.0.0.1:1/x")
    assert caught.value.exit_code == 7


def test_a_camera_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(SourceError, match=r"camera987.* is not there; cameras on this machine: "):
        open_source("camera987")


def test_a_pipeline_without_gstreamer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer_camera, "has_gstreamer", lambda: False)
    with pytest.raises(MissingDependency, match=r"csi://0 needs an OpenCV with GStreamer.*apt install python3-opencv"):
        open_source("csi://0")
    with pytest.raises(MissingDependency) as caught:
        open_source("gst:rtspsrc location=rtsp://u:secret@h/1 ! decodebin")
    assert "secret" not in str(caught.value)


def test_a_csi_camera_is_an_argus_pipeline_that_keeps_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(gstreamer_camera, "has_gstreamer", lambda: True)
    monkeypatch.setattr(gstreamer_camera, "open_pipeline", lambda text: opened.append(text) or Closed())
    with pytest.raises(SourceError, match=r"cannot open csi://1: .*nvargus-daemon"):
        open_source("csi://1")
    assert opened[0].startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280")
    assert opened[0].endswith("format=BGR ! appsink drop=true max-buffers=1 sync=false")


def test_a_pipeline_gets_a_sink_unless_it_has_one() -> None:
    assert gstreamer_camera.with_sink("videotestsrc ! ").startswith("videotestsrc ! videoconvert ! ")
    assert gstreamer_camera.with_sink("videotestsrc ! appsink") == "videotestsrc ! appsink"


class Closed:
    """A capture that did not open."""

    def isOpened(self) -> bool:  # noqa: N802
        return False

    def release(self) -> None:
        pass


def test_a_folder_gives_every_image_sorted(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    for name in ("b.png", "a.png", "sub/c.png"):
        write_picture(tmp_path / name, picture("red", rng))
    (tmp_path / "notes.txt").write_text("no picture")
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [Path(frame.name).name for frame in frames] == ["a.png", "b.png", "c.png"]
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert (source.live, frames[0].time) == (False, None)


def test_one_image_is_one_frame_in_rgb(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    image = picture("red", rng)
    with open_source(write_picture(tmp_path / "red.png", image)) as source:
        (frame,) = source
    np.testing.assert_array_equal(frame.image, image)


def test_an_unreadable_image_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with open_source(str(tmp_path)) as source, pytest.raises(InputError, match=r"broken\.jpg"):
        list(source)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        open_source(str(tmp_path))


def test_a_video_gives_every_frame_with_its_time(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_video: Callable[..., Path]
) -> None:
    path = write_video(tmp_path / "walk.avi", [picture("green", rng) for _ in range(7)], fps=10)
    with open_source(path) as source:
        frames = list(source)
    assert [frame.number for frame in frames] == list(range(7))
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(7)])
    assert source.size == (48, 64)
    assert source.fps == pytest.approx(10)
    assert frames[0].image[..., 1].mean() > frames[0].image[..., 0].mean()


@pytest.mark.parametrize(("kept", "hole"), [(0.5, 0), (1, 0.3)], ids=["cut short", "damaged"])
def test_a_video_that_breaks_off_early_says_so(
    *,
    kept: float,
    hole: float,
    tmp_path: Path,
    rng: np.random.Generator,
    picture: Picture,
    write_video: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = write_video(tmp_path / "walk.avi", [picture("green", rng) for _ in range(30)])
    content = bytearray(path.read_bytes())
    lost = int(hole * len(content))
    content[lost : 2 * lost] = bytes(lost)
    path.write_bytes(content[: int(kept * len(content))])
    with open_source(path) as source:
        count = len(list(source))
    assert 0 < count < 27
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{path} broke off after {count} of its 30 frames: it is damaged or cut short"
    )


@pytest.mark.parametrize(("expected", "warned"), [(None, False), (7, False), (8, False), (9, True), (10_000, True)])
def test_what_a_container_estimates_may_be_a_little_too_many_frames(
    *,
    expected: int | None,
    warned: bool,
    tmp_path: Path,
    rng: np.random.Generator,
    picture: Picture,
    write_video: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = write_video(tmp_path / "walk.avi", [picture("green", rng) for _ in range(7)])
    monkeypatch.setattr(recording, "frame_count", lambda _capture: expected)
    with open_source(path) as source:
        assert len(list(source)) == 7
    assert len(caplog.records) == warned


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot decode .*walk\.mp4 \({len(content)} bytes\)"):
        open_source(path)


def test_a_word_that_is_nothing_shows_what_is_possible() -> None:
    with pytest.raises(InputError, match=r"no such source: camra0; expected camera0"):
        open_source("camra0")


def test_a_pattern_gives_the_images_that_match_sorted(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    for name in ("b.png", "a.png", "sub/c.png", "d.jpg"):
        write_picture(tmp_path / name, picture("red", rng))
    with open_source(str(tmp_path / "*.png")) as source:
        assert [Path(frame.name).name for frame in source] == ["a.png", "b.png"]
    with open_source(str(tmp_path / "**" / "?.png")) as source:
        assert len(list(source)) == 3


def test_a_file_with_brackets_in_its_name_is_no_pattern(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    with open_source(write_picture(tmp_path / "a[1].png", picture("red", rng))) as source:
        assert len(list(source)) == 1


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image matches .*\*\.jpg"):
        open_source(str(tmp_path / "*.jpg"))


def test_a_list_gives_its_images_in_its_order(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    far = write_picture(tmp_path / "far" / "c.png", picture("red", rng))
    for name in ("b.png", "a.png"):
        write_picture(tmp_path / name, picture("red", rng))
    (tmp_path / "list.txt").write_text(f"# mine\nb.png\n\n  {far}\na.png\n")
    with open_source(tmp_path / "list.txt") as source:
        assert [Path(frame.name).name for frame in source] == ["b.png", "c.png", "a.png"]


@pytest.mark.parametrize(("content", "says"), [(b"# nothing\n", "is empty"), (b"\xff\xfe\x00", "not UTF-8")])
def test_a_list_without_images_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=says):
        open_source(tmp_path / "list.txt")


def test_a_frame_of_a_file_knows_when_it_was_read(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    before = time.time()
    with open_source(write_picture(tmp_path / "red.png", picture("red", rng))) as source:
        (frame,) = source
    assert before <= frame.seen_at <= time.time()
