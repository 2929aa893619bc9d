"""The annotated picture and the video made of it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import InputError, OptionError
from deepir.image import Image
from deepir.runtime.annotate import CODECS, VideoWriter, annotate
from deepir.runtime.recogniser import Recognition
from deepir.runtime.source import open_source
from deepir.runtime.video_sink import Pace

Picture = Callable[..., Image]


def answer(label: str | None) -> Recognition:
    return Recognition("unknown" if label is None else "match", label, 0.9, None, (), {})


def test_the_picture_itself_is_left_alone_and_the_copy_is_green_or_grey() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    match, unknown = annotate(image, answer("cup")), annotate(image, answer(None))
    assert not image.any()
    assert match[0, 0, 1] > match[0, 0, 0]
    assert len(set(unknown[0, 0].tolist())) == 1


@pytest.mark.parametrize("label", ["crème brûlée", "日本", "a/very/long/label/" * 20])
def test_any_label_can_be_drawn(label: str) -> None:
    assert annotate(np.zeros((20, 20, 3), np.uint8), answer(label)).any()


@pytest.mark.parametrize("suffix", list(CODECS))
def test_a_video_has_all_frames_and_appears_only_when_done(
    tmp_path: Path, suffix: str, rng: np.random.Generator, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, 10.0) as video:
        for _ in range(5):
            video.write(picture("blue", rng))
        video.write(picture("blue", rng, (96, 128)))
        assert not path.exists()
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with open_source(path) as source:
        frames = list(source)
    assert (len(frames), source.size) == (6, (48, 64))


def test_a_video_without_frames_is_not_written(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "out.webm", None).close()
    assert not list(tmp_path.iterdir())


def _write_and_be_interrupted(path: Path, image: Image) -> None:
    with VideoWriter(path, 10.0) as video:
        video.write(image)
        raise KeyboardInterrupt


def test_what_was_written_before_an_interruption_is_kept(
    tmp_path: Path, rng: np.random.Generator, picture: Picture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _write_and_be_interrupted(tmp_path / "out.webm", picture("blue", rng))
    assert (tmp_path / "out.webm").stat().st_size > 0


def test_a_path_that_cannot_become_a_video_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"out\.gif.*\.webm"):
        VideoWriter(tmp_path / "out.gif", 10.0)
    with pytest.raises(InputError, match="create the folder"):
        VideoWriter(tmp_path / "nowhere" / "out.webm", 10.0)


def test_what_a_killed_program_left_of_a_video_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".out.7.part.webm", ".out.8.part.webm", ".our.7.part.webm"))
    for file in (old, new, other):
        file.write_bytes(b"half a video")
    for file in (old, other):
        os.utime(file, (0, 0))
    VideoWriter(tmp_path / "out.webm", 10.0).close()
    assert set(tmp_path.iterdir()) == {new, other}


def test_a_full_disk_ends_the_video_and_keeps_what_is_written(
    tmp_path: Path, rng: np.random.Generator, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1 << 30, 1 << 20])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=next(free)))
    path, written = tmp_path / "out.avi", 0

    def fill() -> None:
        nonlocal written
        with VideoWriter(path, 10.0) as video:
            while True:
                video.write(picture("blue", rng))
                written += 1

    with pytest.raises(InputError, match=r"cannot write .*out.avi: the disk is full; what was written is kept"):
        fill()
    with open_source(path) as source:
        assert len(list(source)) == written > 0


@given(
    fps=st.sampled_from([5.0, 10.0, 30.0]),
    gaps=st.lists(st.floats(0.001, 1.9), min_size=1, max_size=40),
)
def test_the_video_of_a_camera_takes_as_long_as_what_it_shows(fps: float, gaps: list[float]) -> None:
    pace, now = Pace(fps), 1000.0
    written = [pace.times(now)]
    for gap in gaps:
        now += gap
        written.append(pace.times(now))
        # never more than half a frame before or behind
        assert abs((sum(written) - 1) / fps - (now - 1000.0)) <= 0.5 / fps + 1e-6
    assert written[0] == 1
    assert min(written) >= 0


def test_an_outage_is_cut_out_of_the_video() -> None:
    pace = Pace(10.0)
    assert [pace.times(moment) for moment in (0.0, 0.1, 3600.0, 3600.1, 3600.5)] == [1, 1, 20, 1, 4]
