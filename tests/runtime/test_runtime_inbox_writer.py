"""What nobody could name is kept for review: different pictures only, seldom, and never more than there is room for."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.errors import InputError
from deepir.image import Image, read_image
from deepir.runtime import inbox_writer
from deepir.runtime.boxes import Part
from deepir.runtime.inbox_writer import InboxWriter
from deepir.runtime.result import Result

MakeAnswer = Callable[..., Result]
Rows = Callable[..., Any]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk under load may take longer than the program waits for it at its end."""
    monkeypatch.setattr(inbox_writer, "_FAREWELL", 60.0)


@pytest.fixture
def directions(unit_rows: Rows) -> Any:
    """Descriptors that are not alike."""
    return np.eye(8, dtype=np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_unknown_and_ambiguous_pictures_are_kept_and_matches_and_blank_ones_are_not(
    tmp_path: Path, make_answer: MakeAnswer, directions: Any
) -> None:
    writer = InboxWriter(tmp_path / "new" / "inbox")
    writer.take(make_answer(0, None, query_1d=directions[0]))
    writer.take(make_answer(2, "red", query_1d=directions[1]))
    writer.take(make_answer(4, "red", status="ambiguous", query_1d=directions[2]))
    writer.take(make_answer(6, None, query_1d=None))
    writer.close()
    assert names(tmp_path / "new" / "inbox") == [
        "20270115T080000.000Z_unknown_0.70_0.jpg",
        "20270115T080004.000Z_ambiguous_0.70_4.jpg",
    ]
    assert (writer.state.sent, writer.state.dropped, writer.state.trouble) == (2, 0, "")


def test_a_picture_comes_back_as_it_was(tmp_path: Path, make_answer: MakeAnswer, directions: Any) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (200, 40, 20)
    writer = InboxWriter(tmp_path)
    writer.take(make_answer(0, None, query_1d=directions[0], image=image))
    writer.take(make_answer(2, None, query_1d=directions[1], image=image, part=Part((30, -5, 70, 20))))
    writer.close()
    whole, part = (read_image(path) for path in sorted(tmp_path.iterdir()))
    assert whole.shape == (40, 60, 3)
    assert np.abs(whole[:, 35:].astype(int) - (200, 40, 20)).max() < 12
    assert part.shape == (20, 30, 3)


def test_what_looks_like_a_picture_kept_lately_or_comes_too_soon_is_left_out(
    tmp_path: Path, make_answer: MakeAnswer, directions: Any
) -> None:
    writer = InboxWriter(tmp_path)
    nearly = np.array([0.99, np.sqrt(1 - 0.99**2), *[0] * 6], np.float32)
    writer.take(make_answer(0, None, query_1d=directions[0]))
    writer.take(make_answer(5, None, query_1d=nearly))
    writer.take(make_answer(10, None, query_1d=directions[1]))
    writer.take(make_answer(10, None, query_1d=directions[2]))
    writer.take(make_answer(11, None, query_1d=directions[3]))
    writer.close()
    assert [name.rsplit("_", 1)[1] for name in names(tmp_path)] == ["0.jpg", "10.jpg", "11.jpg"]


def test_the_oldest_make_way_also_those_of_an_earlier_run_but_no_others(
    tmp_path: Path, make_answer: MakeAnswer, rng: np.random.Generator, directions: Any
) -> None:
    noise = rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)
    (tmp_path / "00 holiday.jpg").write_bytes(b"x" * 100_000)
    for begin in (0, 100):
        writer = InboxWriter(tmp_path, megabytes=0.03)
        for number in range(4):
            writer.take(make_answer(begin + 2 * number, None, query_1d=directions[number], image=noise))
        writer.close()
    own = [path for path in sorted(tmp_path.iterdir()) if "unknown" in path.name]
    size = own[0].stat().st_size
    assert 30_000 // size - 1 <= len(own) <= 30_000 // size
    assert own[-1].name.endswith("_106.jpg")
    assert (tmp_path / "00 holiday.jpg").exists()


def test_a_folder_that_is_gone_is_trouble_and_no_end(tmp_path: Path, make_answer: MakeAnswer, directions: Any) -> None:
    writer = InboxWriter(tmp_path / "inbox")
    (tmp_path / "inbox").rmdir()
    writer.take(make_answer(0, None, query_1d=directions[0]))
    writer.close()
    assert (writer.state.sent, writer.state.dropped) == (0, 1)
    assert "cannot keep a picture in" in writer.state.trouble


def test_a_picture_that_could_not_be_written_is_kept_when_its_thing_is_seen_again(
    tmp_path: Path, make_answer: MakeAnswer, directions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    count = InboxWriter._count

    def counting(writer: InboxWriter, trouble: str) -> None:
        count(writer, trouble)
        failed.set()

    monkeypatch.setattr(InboxWriter, "_count", counting)
    writer = InboxWriter(tmp_path / "inbox")
    (tmp_path / "inbox").rmdir()
    writer.take(make_answer(0, None, query_1d=directions[0]))
    assert failed.wait(60)
    (tmp_path / "inbox").mkdir()
    for number in (2, 4):
        writer.take(make_answer(number, None, query_1d=directions[0]))
    writer.close()
    assert (writer.state.sent, writer.state.dropped, writer.state.trouble) == (1, 1, "")
    assert [name.rsplit("_", 1)[1] for name in names(tmp_path / "inbox")] == ["2.jpg"]


def test_of_many_things_that_are_seen_in_turn_each_is_kept_once(
    tmp_path: Path, make_answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "_WAITING", 300)
    things = np.eye(100, dtype=np.float32)
    writer = InboxWriter(tmp_path)
    for number in range(300):
        writer.take(make_answer(2 * number, None, query_1d=things[number % 100]))
    writer.close()
    assert (writer.state.sent, writer.state.dropped, len(names(tmp_path))) == (100, 0, 100)


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot keep pictures in"):
        InboxWriter(tmp_path / "file" / "inbox")


def test_what_was_reviewed_meanwhile_makes_room_before_what_was_not(
    tmp_path: Path, make_answer: MakeAnswer, rng: np.random.Generator, directions: Any
) -> None:
    noise = rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)
    writer = InboxWriter(tmp_path)
    for number in range(4):
        writer.take(make_answer(2 * number, None, query_1d=directions[number], image=noise))
    writer.close()
    size = next(tmp_path.iterdir()).stat().st_size
    writer = InboxWriter(tmp_path, megabytes=4.5 * size / 1e6)
    for newest in sorted(tmp_path.iterdir())[2:]:
        newest.unlink()
    for number in (10, 12):
        writer.take(make_answer(number, None, query_1d=directions[number - 8], image=noise))
    writer.close()
    assert [name.rsplit("_", 1)[1] for name in names(tmp_path)] == ["0.jpg", "2.jpg", "10.jpg", "12.jpg"]


def test_no_picture_takes_the_place_of_another(tmp_path: Path, make_answer: MakeAnswer, directions: Any) -> None:
    for _run in range(2):
        writer = InboxWriter(tmp_path)
        writer.take(make_answer(0, None, query_1d=directions[0]))
        writer.close()
    assert names(tmp_path) == [
        "20270115T080000.000Z_unknown_0.70_0-2.jpg",
        "20270115T080000.000Z_unknown_0.70_0.jpg",
    ]


def test_a_box_beside_the_picture_and_one_that_does_not_fit_are_trouble_and_the_next_is_kept(
    tmp_path: Path, make_answer: MakeAnswer, rng: np.random.Generator, directions: Any
) -> None:
    noise = rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)
    writer = InboxWriter(tmp_path, megabytes=0.01)
    writer.take(make_answer(0, None, query_1d=directions[0], part=Part((90, 90, 95, 95))))
    writer.take(make_answer(2, None, query_1d=directions[1], image=noise))
    writer.take(make_answer(4, None, query_1d=directions[2]))
    writer.close()
    assert (writer.state.sent, writer.state.dropped, writer.state.trouble) == (1, 2, "")
    assert names(tmp_path) == ["20270115T080004.000Z_unknown_0.70_4.jpg"]


def test_when_the_disk_is_too_slow_the_newest_are_left_out_and_counted(
    tmp_path: Path, make_answer: MakeAnswer, directions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    encode = inbox_writer._encoded

    def slowly(image: Image) -> bytes:
        begun.set()
        assert go.wait(60)
        return encode(image)

    monkeypatch.setattr(inbox_writer, "_encoded", slowly)
    monkeypatch.setattr(inbox_writer, "_WAITING", 2)
    writer = InboxWriter(tmp_path)
    writer.take(make_answer(0, None, query_1d=directions[0]))
    assert begun.wait(60)
    for number in range(1, 5):
        writer.take(make_answer(2 * number, None, query_1d=directions[number]))
    assert (writer.state.waiting, writer.state.dropped) == (2, 2)
    go.set()
    writer.close()
    assert [name.rsplit("_", 1)[1] for name in names(tmp_path)] == ["0.jpg", "2.jpg", "4.jpg"]
