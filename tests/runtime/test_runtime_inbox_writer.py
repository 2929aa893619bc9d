"""What nobody could name is kept for review: different pictures only, seldom, and never more than there is room for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.errors import InputError
from deepir.image import read_image
from deepir.runtime.boxes import Part
from deepir.runtime.inbox_writer import InboxWriter
from deepir.runtime.result import Result

MakeAnswer = Callable[..., Result]
Rows = Callable[..., Any]


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
    assert len(own) == 30_000 // size
    assert own[-1].name.endswith("_106.jpg")
    assert (tmp_path / "00 holiday.jpg").exists()


def test_a_folder_that_is_gone_is_trouble_and_no_end(tmp_path: Path, make_answer: MakeAnswer, directions: Any) -> None:
    writer = InboxWriter(tmp_path / "inbox")
    (tmp_path / "inbox").rmdir()
    writer.take(make_answer(0, None, query_1d=directions[0]))
    writer.close()
    assert (writer.state.sent, writer.state.dropped) == (0, 1)
    assert "cannot keep a picture in" in writer.state.trouble


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot keep pictures in"):
        InboxWriter(tmp_path / "file" / "inbox")
