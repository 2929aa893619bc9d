"""Pictures are read in order by threads that never run far ahead and never outlive the reading."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepir import reading
from deepir.errors import InputError, OptionError
from deepir.image import Image, read_image
from deepir.reading import THREAD_NAME, default_workers, read_images

MOST_IN_MEMORY = 16


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Forty pictures, each of its own size and colour."""
    folder = tmp_path_factory.mktemp("reading")
    paths = [folder / f"{number:02}.png" for number in range(40)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((3 + number % 5, 4 + number, 3), 5 * number, dtype=np.uint8))
    return paths


def decoders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize("workers", [1, 2, 7, None])
def test_pictures_come_in_order_and_as_read_image_gives_them(paths: list[Path], workers: int | None) -> None:
    images = list(read_images(paths, workers=workers))
    assert len(images) == len(paths)
    for image, path in zip(images, paths, strict=True):
        np.testing.assert_array_equal(image, read_image(path))


def test_a_slow_first_picture_keeps_its_place(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    others_are_done = threading.Event()
    read: list[Path] = []

    def read_last_first(path: Path) -> Image:
        if path == paths[0]:
            assert others_are_done.wait(10)
        read.append(path)
        if len(read) == 3:
            others_are_done.set()
        return read_image(path)

    monkeypatch.setattr(reading, "read_image", read_last_first)
    images = list(read_images(paths[:4], workers=2))
    assert read[-1] == paths[0]
    assert [image.shape for image in images] == [read_image(path).shape for path in paths[:4]]


def test_the_paths_are_asked_for_as_pictures_are_taken(paths: list[Path]) -> None:
    asked: list[Path] = []

    def watched() -> Iterator[Path]:
        for path in paths:
            asked.append(path)
            yield path

    with closing(read_images(watched(), workers=2)) as images:
        assert asked == []
        for taken in range(1, 20):
            next(images)
            assert taken < len(asked) <= taken + MOST_IN_MEMORY


def test_nothing_to_read_gives_nothing() -> None:
    assert list(read_images([])) == []


def test_a_bad_picture_raises_after_those_before_it(paths: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    given = []
    with pytest.raises(InputError, match=r"broken\.png"):
        given.extend(image.shape for image in read_images([*paths[:5], broken, *paths[5:]], workers=3))
    assert decoders() == []


def test_pictures_before_a_bad_one_are_all_given(paths: list[Path], tmp_path: Path) -> None:
    images = read_images([*paths[:5], tmp_path / "absent.png", *paths[5:]], workers=3)
    shapes = [next(images).shape for _ in range(5)]
    assert shapes == [read_image(path).shape for path in paths[:5]]
    with pytest.raises(InputError, match=r"absent\.png"):
        next(images)


def test_who_stops_early_leaves_no_threads(paths: list[Path]) -> None:
    for _ in range(3):
        with closing(read_images(paths, workers=4)) as images:
            next(images)
            assert decoders()
        assert decoders() == []


def test_reading_to_the_end_leaves_no_threads(paths: list[Path]) -> None:
    images = read_images(paths, workers=2)
    for _ in images:
        pass
    assert decoders() == []


def test_paths_that_raise_end_the_threads(paths: list[Path]) -> None:
    def failing() -> Iterator[Path]:
        yield from paths
        message = "the list ends badly"
        raise InputError(message)

    with pytest.raises(InputError, match="ends badly"):
        list(read_images(failing(), workers=2))
    assert decoders() == []


@pytest.mark.parametrize("workers", [0, -3])
def test_fewer_than_one_thread_is_refused_at_once(paths: list[Path], workers: int) -> None:
    with pytest.raises(OptionError, match=str(workers)):
        read_images(paths, workers=workers)


def test_by_default_there_is_a_thread_for_each_usable_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 3, 5}, raising=False)
    assert default_workers() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)), raising=False)
    assert default_workers() == 8


def test_where_affinity_is_unknown_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert default_workers() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 1
