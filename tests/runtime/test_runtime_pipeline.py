"""Frames through reading, preparing and the model: all of a file in order, of a camera the newest, errors in turn."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.card import ModelCard
from deepir.errors import InputError, ShapeError
from deepir.image import Image
from deepir.runtime import Index, Recogniser
from deepir.runtime.boxes import Parts
from deepir.runtime.extractor import Extractor
from deepir.runtime.frame import Frame
from deepir.runtime.pipeline import Looked, Looking, Pipeline, _chosen
from deepir.runtime.recording import ImageFiles
from deepir.runtime.roi import Roi

Picture = Callable[..., Image]
WriteModel = Callable[..., Path]

WAIT = 60.0


class Pictures(ImageFiles):
    """Frames from memory, eight a second; then, perhaps, an error."""

    def __init__(self, images: list[Image], error: Exception | None = None) -> None:
        super().__init__([], "pictures")
        self._images, self._error = images, error

    def __iter__(self) -> Iterator[Frame]:
        for number, image in enumerate(self._images):
            yield Frame(number, image, 100 + number / 8, None, self.name)
        if self._error is not None:
            raise self._error


class Shown(Pictures):
    """A camera: live, and with the next frame only when the test shows it."""

    live = True

    def __init__(self, images: list[Image]) -> None:
        super().__init__(images)
        self.show = threading.Semaphore(0)
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            assert self.show.acquire(timeout=WAIT)
            if self.closed:
                return
            yield frame

    def close(self) -> None:
        self.closed = True
        self.show.release()


class Held:
    """A backend that stands for a slow one: it describes when the test lets it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.card, self.name = backend.card, backend.name
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, *arrays: Any) -> Any:
        self.begun.release()
        assert self.go.acquire(timeout=WAIT)
        return self._backend.run(*arrays)

    def close(self) -> None:
        self._backend.close()


@pytest.fixture
def recogniser(shop: Path) -> Iterator[Recogniser]:
    with Recogniser.open(shop) as opened:
        yield opened


@pytest.fixture
def colours(rng: np.random.Generator, picture: Picture) -> list[Image]:
    return [picture(colour, rng) for colour in ("red", "green", "blue", "yellow", "red", "blue", "green")]


def all_of(pipeline: Pipeline) -> list[Looked]:
    found = []
    while not pipeline.over:
        looked = pipeline.take(WAIT)
        if looked is not None:
            found.append(looked)
    return found


def same(looked: Looked, recogniser: Recogniser, image: Image) -> bool:
    query_1d, expected = looked.queries[0].query_1d, recogniser.describe(image).query_1d
    assert query_1d is not None
    assert expected is not None
    return np.allclose(query_1d, expected, atol=1e-6)


def test_every_picture_of_a_file_comes_in_order_with_its_own_descriptor(
    recogniser: Recogniser, colours: list[Image]
) -> None:
    with Pipeline(recogniser, Pictures(colours * 5)) as pipeline:
        found = all_of(pipeline)
    assert [looked.frame.number for looked in found] == list(range(35))
    assert all(same(looked, recogniser, looked.frame.image) for looked in found)
    assert all(set(looked.queries[0].milliseconds) == {"prepare", "describe"} for looked in found)
    assert found[0].index is recogniser.index


def test_the_next_picture_is_prepared_while_the_model_is_at_work(
    recogniser: Recogniser, colours: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(recogniser.extractor.backend)
    recogniser.extractor.backend = held
    prepared = threading.Semaphore(0)
    prepare = recogniser.extractor.prepare
    monkeypatch.setattr(recogniser.extractor, "prepare", lambda *words: (prepare(*words), prepared.release())[0])
    with Pipeline(recogniser, Pictures(colours)) as pipeline:
        assert held.begun.acquire(timeout=WAIT)
        # the one at work, and two more
        for _ in range(3):
            assert prepared.acquire(timeout=WAIT)
        assert not held.begun.acquire(blocking=False)
        for _ in colours:
            held.go.release()
        assert len(all_of(pipeline)) == len(colours)


def test_of_a_camera_the_model_takes_the_newest_frame(recogniser: Recogniser, colours: list[Image]) -> None:
    held = Held(recogniser.extractor.backend)
    recogniser.extractor.backend = held
    source = Shown(colours)
    with Pipeline(recogniser, source) as pipeline:
        source.show.release()
        assert held.begun.acquire(timeout=WAIT)
        before = pipeline._prepared
        for _ in colours[1:]:
            source.show.release()
        # all the others were prepared, and each but the last made way
        for thread in pipeline._threads:
            if thread.name == "deepir prepare":
                thread.join(WAIT)
        assert len(before._waiting) == 1
        held.go.release()
        first = pipeline.take(WAIT)
        assert first is not None
        held.go.release()
        assert [looked.frame.number for looked in (first, *all_of(pipeline))] == [0, len(colours) - 1]


def test_whoever_was_away_gets_the_newest_frame_of_a_camera(recogniser: Recogniser, colours: list[Image]) -> None:
    source = Shown(colours)
    held = Held(recogniser.extractor.backend)
    recogniser.extractor.backend = held
    held.go.release(len(colours))
    with Pipeline(recogniser, source) as pipeline:
        for _ in colours:
            source.show.release()
            assert held.begun.acquire(timeout=WAIT)
        for thread in pipeline._threads:
            thread.join(WAIT)
        assert [looked.frame.number for looked in all_of(pipeline)] == [len(colours) - 1]


def test_a_model_that_hangs_is_noticed(recogniser: Recogniser, colours: list[Image]) -> None:
    held = Held(recogniser.extractor.backend)
    recogniser.extractor.backend = held
    with Pipeline(recogniser, Pictures(colours)) as pipeline:
        assert held.begun.acquire(timeout=WAIT)
        first = pipeline.stuck
        assert pipeline.stuck > first > 0
        held.go.release(len(colours))
        assert len(all_of(pipeline)) == len(colours)
        assert pipeline.stuck == 0


def test_an_error_of_the_source_comes_after_the_frames_before_it(recogniser: Recogniser, colours: list[Image]) -> None:
    with Pipeline(recogniser, Pictures(colours, InputError("the disk is gone"))) as pipeline:
        found = [pipeline.take(WAIT) for _ in colours]
        assert [looked.frame.number for looked in found if looked] == list(range(len(colours)))
        with pytest.raises(InputError, match="the disk is gone"):
            pipeline.take(WAIT)


def test_an_error_of_the_preparation_or_of_the_model_comes_in_its_turn(
    recogniser: Recogniser, colours: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [*colours[:2], np.zeros((3, 3), np.uint8)]
    with Pipeline(recogniser, Pictures(broken)) as pipeline:
        assert [looked.frame.number for looked in (pipeline.take(WAIT), pipeline.take(WAIT)) if looked] == [0, 1]
        with pytest.raises(ShapeError, match="expected an RGB image"):
            pipeline.take(WAIT)

    def die(*_arrays: Any) -> Any:
        message = "out of memory"
        raise MemoryError(message)

    monkeypatch.setattr(recogniser.extractor.backend, "run", die)
    with Pipeline(recogniser, Pictures(colours)) as pipeline, pytest.raises(MemoryError):
        pipeline.take(WAIT)


@pytest.mark.parametrize(("every", "numbers"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (10, [0])])
def test_one_of_so_many_frames_is_looked_at(
    every: int, numbers: list[int], recogniser: Recogniser, colours: list[Image]
) -> None:
    with Pipeline(recogniser, Pictures(colours), Looking(every=every)) as pipeline:
        assert [looked.frame.number for looked in all_of(pipeline)] == numbers


@pytest.mark.parametrize(("fps", "numbers"), [(4, [0, 2, 4, 6, 8, 10]), (8, list(range(11))), (2.5, [0, 4, 7, 10])])
def test_no_more_frames_a_second_than_wished_are_taken_of_a_camera_and_all_of_a_file(
    fps: float, numbers: list[int], colours: list[Image]
) -> None:
    eight_a_second = list(Pictures((colours * 2)[:11]))
    chosen = {live: list(_chosen(eight_a_second, Looking(fps_max=fps), live=live)) for live in (True, False)}
    assert [frame.number for frame in chosen[True]] == numbers
    assert [frame.number for frame in chosen[False]] == list(range(11))


def test_only_the_region_of_interest_is_seen(
    recogniser: Recogniser, rng: np.random.Generator, picture: Picture
) -> None:
    both = np.concatenate([picture("red", rng), picture("blue", rng)], axis=1)
    with Pipeline(recogniser, Pictures([both]), Looking(roi=Roi.parse("0.5,0,0.5,1"))) as pipeline:
        looked = pipeline.take(WAIT)
    assert looked is not None
    np.testing.assert_array_equal(looked.frame.image, both[:, 64:])
    assert recogniser.answer(looked.queries[0]).label == "blue"


def test_each_box_has_an_answer_of_its_own_and_a_frame_without_boxes_goes_on_without_one(
    recogniser: Recogniser, rng: np.random.Generator, picture: Picture, tmp_path: Path
) -> None:
    both = np.concatenate([picture("red", rng), picture("blue", rng)], axis=1)
    boxes = ", ".join(["[0, 0, 64, 48], [64, 0, 128, 48]"] * 10)
    (tmp_path / "boxes.jsonl").write_text(f'{{"frame": 1, "xyxy": [{boxes}]}}')
    with Pipeline(recogniser, Pictures([both] * 3), Looking(parts=Parts(tmp_path / "boxes.jsonl"))) as pipeline:
        found = all_of(pipeline)
    assert [(looked.frame.number, len(looked.parts)) for looked in found] == [(0, 0), (1, 20), (2, 0)]
    assert [len(looked.queries) for looked in found] == [0, 20, 0]
    assert [recogniser.answer(query).label for query in found[1].queries] == ["red", "blue"] * 10


def test_a_frame_of_a_camera_without_boxes_takes_no_room(
    recogniser: Recogniser, colours: list[Image], tmp_path: Path
) -> None:
    (tmp_path / "boxes.jsonl").write_text('{"frame": 0, "xyxy": [[0, 0, 64, 48]]}')
    held = Held(recogniser.extractor.backend)
    recogniser.extractor.backend = held
    source = Shown(colours)
    with Pipeline(recogniser, source, Looking(parts=Parts(tmp_path / "boxes.jsonl"))) as pipeline:
        source.show.release(len(colours))
        held.go.release()
        assert [(looked.frame.number, len(looked.queries)) for looked in all_of(pipeline)] == [(0, 1)]


@pytest.mark.parametrize(("resize", "sliver"), [("stretch", 0.4), ("longest", 0.8)])
def test_a_box_without_a_pixel_of_the_picture_is_left_out_and_counted(
    *,
    resize: str,
    sliver: float,
    recogniser: Recogniser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    picture: Picture,
) -> None:
    card = recogniser.extractor.card
    monkeypatch.setattr(recogniser.extractor.backend, "card", replace(card, spec=replace(card.spec, resize=resize)))
    boxes = [[-9, 0, sliver, 64], [64, 0, 90, 64], [0, -9, 64, -1], [0, 64, 64, 80], [-9, -9, 64, 64]]
    (tmp_path / "boxes.jsonl").write_text(json.dumps({"frame": 0, "xyxy": boxes, "tracker_id": [1, 2, 3, 4, 5]}))
    parts = Parts(tmp_path / "boxes.jsonl")
    with Pipeline(recogniser, Pictures([picture("red", rng, (64, 64))]), Looking(parts=parts)) as pipeline:
        (looked,) = all_of(pipeline)
    assert [part.tracker for part in looked.parts if part] == [5]
    assert (len(looked.queries), parts.beside) == (1, 4)


def test_from_the_next_frame_on_another_model_and_its_index_answer(
    recogniser: Recogniser,
    colours: list[Image],
    tmp_path: Path,
    write_model: WriteModel,
    make_card: Callable[..., ModelCard],
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    before, extractor, index = recogniser.extractor, Extractor.open(other), Index.create(make_card("b"), other)
    closed = threading.Event()
    before.close = closed.set  # type: ignore[method-assign]
    source = Shown(colours)
    with Pipeline(recogniser, source) as pipeline:
        source.show.release()
        first = pipeline.take(WAIT)
        pipeline.replace(index, extractor)
        source.show.release()
        second = pipeline.take(WAIT)
    assert first is not None
    assert second is not None
    assert (second.index, recogniser.extractor, recogniser.index) == (index, extractor, index)
    assert first.index is not index
    assert closed.is_set()
    query_1d = second.queries[0].query_1d
    assert query_1d is not None
    np.testing.assert_allclose(query_1d, extractor.describe([colours[1]])[0], atol=1e-6)


def test_what_was_prepared_for_the_model_before_is_prepared_again(
    recogniser: Recogniser,
    colours: list[Image],
    tmp_path: Path,
    write_model: WriteModel,
    make_card: Callable[..., ModelCard],
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    held = Held(recogniser.extractor.backend)
    recogniser.extractor.backend = held
    with Pipeline(recogniser, Pictures(colours)) as pipeline:
        assert held.begun.acquire(timeout=WAIT)
        extractor = Extractor.open(other)
        pipeline.replace(Index.create(make_card("b"), other), extractor)
        held.go.release()
        found = all_of(pipeline)
    assert len(found) == len(colours)
    expected_nd = extractor.describe(colours[1:])
    np.testing.assert_allclose([looked.queries[0].query_1d for looked in found[1:]], expected_nd, atol=1e-6)


def test_a_model_that_nobody_used_is_closed_too(recogniser: Recogniser, colours: list[Image]) -> None:
    closed: list[str] = []

    class Fake(Extractor):
        def __init__(self, name: str) -> None:
            self._name = name

        def close(self) -> None:
            closed.append(self._name)

    source = Shown(colours)
    with Pipeline(recogniser, source) as pipeline:
        for name in ("one", "two"):
            pipeline.replace(recogniser.index, Fake(name))
        pipeline.replace(recogniser.index)
    assert closed == ["one", "two"]


def test_closing_early_ends_the_threads_and_the_camera(recogniser: Recogniser, colours: list[Image]) -> None:
    source = Shown(colours)
    pipeline = Pipeline(recogniser, source)
    source.show.release()
    assert pipeline.take(WAIT) is not None
    pipeline.close()
    assert source.closed
    assert not any(thread.is_alive() for thread in pipeline._threads)
    assert pipeline.over
    assert pipeline.take(0) is None
