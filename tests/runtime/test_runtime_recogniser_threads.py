"""One model, many threads: turns, closing, Python's lock, forks, pickling, warming up and boxes."""

import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import EngineError, ShapeError
from deepir.image import Image
from deepir.runtime.backend import BackendOptions
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.recogniser import Recogniser

Picture = Callable[..., Image]

ORT = BackendOptions(backend="onnxruntime", device="cpu", threads=1)
PATIENCE = 120.0


class WatchedBackend:
    """Stands for a model that takes as long as the test wants, and notes who is in it."""

    name = "watched"

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.entered, self.leave = threading.Event(), threading.Event()
        self.events: list[str] = []
        self._inside = threading.Lock()

    def run(self, *arrays: NDArray[Any]) -> NDArray[np.float32]:
        assert self._inside.acquire(blocking=False), "two threads in one model"
        self.entered.set()
        assert self.leave.wait(PATIENCE)
        self.events.append("answered")
        self._inside.release()
        rows = np.zeros((len(arrays[0]), self.card.spec.dim), np.float32)
        rows[:, 0] = 1
        return rows

    def close(self) -> None:
        self.events.append("closed")

    def __enter__(self) -> "WatchedBackend":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def test_many_threads_get_the_answers_of_one(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    colours = ["red", "green", "blue", "yellow"] * 10
    pictures = [picture(colour, rng) for colour in colours]
    with Recogniser.open(shop, options=ORT) as recogniser, ThreadPoolExecutor(4) as pool:
        assert [answer.label for answer in pool.map(recogniser, pictures)] == colours


def test_threads_take_turns_at_the_model(make_card: Callable[..., ModelCard], picture: Picture) -> None:
    backend = WatchedBackend(make_card())
    image = picture("red", np.random.default_rng(1))
    with Extractor(backend) as extractor, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(extractor.describe, [image]) for _ in range(4)]
        assert backend.entered.wait(PATIENCE)
        backend.leave.set()
        assert [answer.result(PATIENCE).shape for answer in answers] == [(1, 8)] * 4


def test_closing_waits_for_the_run_of_another_thread(make_card: Callable[..., ModelCard], picture: Picture) -> None:
    backend = WatchedBackend(make_card())
    extractor = Extractor(backend)
    image = picture("red", np.random.default_rng(1))
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(extractor.describe, [image])
        assert backend.entered.wait(PATIENCE)
        closing = pool.submit(extractor.close)
        backend.leave.set()
        closing.result(PATIENCE)
        answer.result(PATIENCE)
    assert backend.events == ["answered", "closed"]


def test_after_closing_a_call_says_so(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    recogniser = Recogniser.open(shop, options=ORT)
    recogniser.close()
    recogniser.close()
    with pytest.raises(EngineError, match="this model was closed: open it again"):
        recogniser(picture("red", rng))


def goes_on_during(work: Callable[[], object]) -> bool:
    """Whether another Python thread goes on while C code works.

    It is woken before, and Python's own change of threads is off: it can only go on when C gives Python's lock away.
    """
    inside, went_on, over = False, threading.Event(), False
    wake = threading.Event()

    def watch() -> None:
        while not over:
            wake.wait(PATIENCE)
            wake.clear()
            if inside:
                went_on.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(300):
            inside = True
            wake.set()
            work()
            inside = False
            # lets the watcher fall asleep again
            if went_on.wait(0.001):
                break
    finally:
        over = True
        wake.set()
        watcher.join(PATIENCE)
        sys.setswitchinterval(interval)
    return went_on.is_set()


def test_the_measure_of_pythons_lock_sees_work_that_keeps_it() -> None:
    assert not goes_on_during(lambda: sum(range(20_000)))


def test_python_goes_on_while_onnx_runtime_runs_the_model(model: Path) -> None:
    with Extractor.open(model, ORT) as extractor:
        images = np.zeros((64, 3, 32, 32), np.float32)
        session = extractor.backend._session  # type: ignore[attr-defined]
        assert goes_on_during(lambda: session.run(None, {"images": images}))


@pytest.mark.parametrize("exact", [True, False])
def test_python_goes_on_while_usearch_searches(
    make_card: Callable[..., ModelCard], model: Path, unit_rows: Callable[..., NDArray[np.float32]], exact: bool
) -> None:
    index = Index.create(make_card(), model)
    rows = unit_rows(np.random.default_rng(1), 20_000)
    index.add("thing", rows, [str(number) for number in range(len(rows))])
    index.save(model.with_name("large.usearch"))
    store: Any = Index.open(model.with_name("large.usearch"))._contents.store
    found, query = store._index, np.ascontiguousarray(store.codes.encode(rows[0]))
    assert goes_on_during(lambda: found.search(query, 200, exact=exact))


def in_a_fork(work: Callable[[], str]) -> str:
    """What a forked child says."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        sentence = said.read()
    os.waitpid(child, 0)
    return sentence


def refusal(work: Callable[[], object]) -> str:
    try:
        work()
    except EngineError as error:
        return str(error)
    return "no error"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_open_the_model_itself(make_card: Callable[..., ModelCard], picture: Picture) -> None:
    backend = WatchedBackend(make_card())
    extractor = Extractor(backend)
    image = picture("red", np.random.default_rng(1))
    with ThreadPoolExecutor(1) as pool:
        # the lock is held while the process forks: a child that waited for it would wait for ever
        answer = pool.submit(extractor.describe, [image])
        assert backend.entered.wait(PATIENCE)
        said = in_a_fork(lambda: refusal(lambda: extractor.describe([image])))
        closed = in_a_fork(lambda: str(extractor.close()))
        backend.leave.set()
        answer.result(PATIENCE)
    assert "was opened before the process was forked" in said
    assert said.endswith("open it after the fork, or start the process by spawn")
    assert closed == "None"
    assert backend.events == ["answered"]


@pytest.mark.parametrize("what", [lambda recogniser: recogniser, lambda recogniser: recogniser.extractor])
def test_pickling_says_to_pass_the_path(shop: Path, what: Callable[[Recogniser], object]) -> None:
    with (
        Recogniser.open(shop, options=ORT) as recogniser,
        pytest.raises(
            TypeError, match=r"holds a loaded model and cannot be pickled: pass the .* path and open it there"
        ),
    ):
        pickle.dumps(what(recogniser))


def test_warming_up_runs_the_model_and_searches(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recogniser.open(shop, options=ORT) as recogniser:
        sizes, searches = [], []
        run, search = recogniser.extractor.run, recogniser.index.search_labels
        monkeypatch.setattr(
            recogniser.extractor, "run", lambda groups, count: (sizes.append(count), run(groups, count))[1]
        )
        monkeypatch.setattr(
            recogniser.index, "search_labels", lambda query, count: (searches.append(count), search(query, count))[1]
        )
        recogniser.warmup()
    assert sizes == [1, 1, 1]
    assert len(searches) == 3


def four_colours(picture: Picture) -> Image:
    """Red and green above blue and yellow, each 48 pixels high and 64 wide."""
    rng = np.random.default_rng(5)
    red, green, blue, yellow = (picture(colour, rng) for colour in ("red", "green", "blue", "yellow"))
    return np.vstack([np.hstack([red, green]), np.hstack([blue, yellow])])


BOXES = [(0, 0, 64, 48), (64, 0, 128, 48), (0, 48, 64, 96), (64, 48, 128, 96)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_each_box_has_its_own_answer_in_order(shop: Path, model: Path, picture: Picture, batch_size: int) -> None:
    with Recogniser(Extractor.open(model, ORT, batch_size=batch_size), Index.open(shop)) as recogniser:
        answers = recogniser.boxes(four_colours(picture), BOXES)
    assert [answer.label for answer in answers] == ["red", "green", "blue", "yellow"]


def test_a_box_is_answered_as_its_part_of_the_picture(shop: Path, picture: Picture) -> None:
    image = four_colours(picture)
    with Recogniser.open(shop, options=ORT) as recogniser:
        (answer,) = recogniser.boxes(np.ascontiguousarray(image[:, :, ::-1]), BOXES[1:2], order="bgr")
        alone = recogniser(np.ascontiguousarray(image[:48, 64:]))
    assert (answer.label, round(answer.similarity, 4)) == (alone.label, round(alone.similarity, 4))


def test_no_boxes_have_no_answers(shop: Path, picture: Picture) -> None:
    with Recogniser.open(shop, options=ORT) as recogniser:
        assert recogniser.boxes(four_colours(picture), []) == []


def test_a_box_outside_the_picture_is_named(shop: Path, picture: Picture) -> None:
    with (
        Recogniser.open(shop, options=ORT) as recogniser,
        pytest.raises(ShapeError, match=r"lies in box 1, \[200\.0, 0\.0, 210\.0, 10\.0\]"),
    ):
        recogniser.boxes(four_colours(picture), [BOXES[0], (200, 0, 210, 10)])


def test_a_bgr_picture_needs_only_its_order(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    bgr = np.ascontiguousarray(picture("red", rng)[:, :, ::-1])
    with Recogniser.open(shop, options=ORT) as recogniser:
        assert (recogniser(bgr, order="bgr").label, recogniser(bgr).top[0][0]) == ("red", "blue")
