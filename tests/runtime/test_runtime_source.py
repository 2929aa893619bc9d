"""The grammar of sources, and pictures from files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepir.runtime.source as module
from deepir.errors import InputError, SourceError
from deepir.image import Image
from deepir.runtime.source import open_source, without_password

Picture = Callable[..., Image]


@pytest.mark.parametrize(
    ("word", "number"), [("camera0", 0), ("camera:0", 0), ("0", 0), ("/dev/video0", 0), ("camera12", 12), ("3", 3)]
)
def test_a_camera_has_four_spellings(word: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(module, "open_camera", opened.append)
    open_source(word)
    assert opened == [number]


@pytest.mark.parametrize(
    "word", ["rtsp://user:secret@shop/1", "rtsps://shop", "http://shop/a.mjpg", "https://shop", "udp://@:5000"]
)
def test_an_address_is_a_network_camera_and_its_password_stays_hidden(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str]] = []
    monkeypatch.setattr(module, "open_stream", lambda address, name: opened.append((address, name)))
    open_source(word)
    assert opened[0][0] == word
    assert "secret" not in opened[0][1]


@given(password=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=6))
def test_no_password_survives(password: str) -> None:
    shown = without_password(f"rtsp://robot:{password}@10.0.0.1/stream")
    assert shown == "rtsp://***@10.0.0.1/stream"


def test_an_address_that_does_not_answer_hides_the_password() -> None:
    with pytest.raises(SourceError, match=r"cannot open rtsp://\*\*\*@127\.0\.0\.1:1/x") as caught:
        open_source("rtsp://user:secret@127.0.0.1:1/x")
    assert caught.value.exit_code == 7


def test_a_camera_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(SourceError, match=r"camera987 \(/dev/video987\) is not there; cameras on this machine: "):
        open_source("camera987")


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


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot decode .*walk\.mp4 \({len(content)} bytes\)"):
        open_source(path)


def test_a_word_that_is_nothing_shows_what_is_possible() -> None:
    with pytest.raises(InputError, match=r"no such source: camra0; expected camera0"):
        open_source("camra0")
