"""An index that is changed while it answers: read again, swapped between two frames, and never without an answer."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import deepir.runtime.index_watch as module
import deepir.runtime.run as run_module
from deepir.card import ModelCard
from deepir.errors import InputError, ShapeError
from deepir.image import Image
from deepir.runtime import Index
from deepir.runtime.backend import BackendOptions
from deepir.runtime.index_watch import Fresh, Hangup, IndexWatch, file_state
from deepir.runtime.journal import journal_of
from deepir.runtime.model_file import ModelFile

MakeCard = Callable[..., ModelCard]
WriteModel = Callable[..., Path]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]
Rows = Callable[..., Any]

WAIT = 120.0
"""Seconds after which a test gives up; nothing waits so long when it works."""

NEVER = 10 * WAIT


@pytest.fixture
def stripes(tmp_path: Path, write_picture: WritePicture) -> Path:
    """A picture that looks like nothing in the shop."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[::8] = 255
    return write_picture(tmp_path / "stripes.png", pixels)


def loaded(shop: Path, given: Path | None = None) -> ModelFile:
    """The model of an index, as a program has it that answers."""
    model = ModelFile(shop, given, BackendOptions(backend="onnxruntime"))
    model.open(Index.open(shop)).close()
    return model


@pytest.fixture
def watch(shop: Path, make_card: MakeCard) -> IndexWatch:
    """Not started: the test looks itself."""
    return IndexWatch(shop, loaded(shop), seen=file_state(shop))


def look_until_fresh(watch: IndexWatch) -> Fresh | None:
    """What is taken within the looks after which a failure is tried again."""
    for _ in range(module._AGAIN + 1):
        watch.look()
        if (fresh := watch.take()) is not None:
            return fresh
    return None


def add_label(shop: Path, label: str, unit_rows: Rows) -> None:
    """Add a view, which goes into the journal only."""
    with Index.open(shop, write=True) as index:
        index.add(label, unit_rows(np.random.default_rng(0), 1), [""])


def test_an_index_that_nobody_changed_is_not_read_again(watch: IndexWatch) -> None:
    watch.look()
    assert (watch.take(), watch.take_trouble()) == (None, "")


def test_an_addition_that_stands_only_in_the_journal_is_seen(shop: Path, watch: IndexWatch, unit_rows: Rows) -> None:
    before = shop.read_bytes()
    add_label(shop, "new", unit_rows)
    assert (shop.read_bytes(), journal_of(shop).exists()) == (before, True)
    watch.look()
    fresh = watch.take()
    assert fresh is not None
    assert "new" in fresh.index.labels
    assert watch.take() is None
    add_label(shop, "newer", unit_rows)
    watch.look()
    again = watch.take()
    assert again is not None
    assert "newer" in again.index.labels


def test_a_file_that_was_written_anew_is_seen_once(shop: Path, watch: IndexWatch, unit_rows: Rows) -> None:
    with Index.open(shop, write=True) as index:
        index.relabel("red", "crimson")
        index.save()
    for expected in (True, False):
        watch.look()
        fresh = watch.take()
        assert (fresh is not None) == expected
        assert fresh is None or "crimson" in fresh.index.labels


def test_what_changed_before_the_watch_began_and_after_the_index_was_read_is_seen(
    shop: Path, make_card: MakeCard, unit_rows: Rows
) -> None:
    seen = file_state(shop)
    Index.open(shop)
    add_label(shop, "new", unit_rows)
    watch = IndexWatch(shop, loaded(shop), seen=seen)
    watch.look()
    fresh = watch.take()
    assert fresh is not None
    assert "new" in fresh.index.labels


def test_the_newest_of_several_changes_is_given(shop: Path, watch: IndexWatch, unit_rows: Rows) -> None:
    for label in ("one", "two"):
        add_label(shop, label, unit_rows)
        watch.look()
    fresh = watch.take()
    assert fresh is not None
    assert {"one", "two"} <= set(fresh.index.labels)
    assert watch.take() is None


def test_the_threshold_is_computed_before_the_index_is_given(
    shop: Path, watch: IndexWatch, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_label(shop, "new", unit_rows)
    watch.look()
    fresh = watch.take()
    assert fresh is not None
    monkeypatch.setattr(
        fresh.index._contents, "fitted_threshold", lambda _far: pytest.fail("the next frame waits for it")
    )
    assert fresh.index.threshold is not None


def test_a_damaged_file_is_told_once_and_the_next_good_one_is_read(shop: Path, watch: IndexWatch) -> None:
    good = shop.read_bytes()
    torn = bytearray(good)
    torn[len(torn) // 2] ^= 1
    other = shop.with_name("other")
    other.write_bytes(torn)
    os.replace(other, shop)
    watch.look()
    assert (watch.take(), "its checksum is wrong" in watch.take_trouble()) == (None, True)
    watch.look()
    assert (watch.take(), watch.take_trouble()) == (None, "")
    other.write_bytes(good)
    os.replace(other, shop)
    watch.look()
    assert (watch.take() is not None, watch.take_trouble()) == (True, "")


def test_a_damaged_journal_is_told(shop: Path, watch: IndexWatch, unit_rows: Rows) -> None:
    add_label(shop, "new", unit_rows)
    journal = bytearray(journal_of(shop).read_bytes())
    journal[-1] ^= 1
    journal_of(shop).write_bytes(journal)
    watch.look()
    assert (watch.take(), str(journal_of(shop)) in watch.take_trouble()) == (None, True)


def test_an_index_of_another_model_than_the_given_is_told_and_not_given(
    shop: Path, tmp_path: Path, model: Path, write_model: WriteModel, make_card: MakeCard
) -> None:
    watch = IndexWatch(shop, loaded(shop, model), seen=file_state(shop))
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    Index.create(make_card("b"), other).save(shop)
    watch.look()
    assert (watch.take(), "made by the model" in watch.take_trouble()) == (None, True)
    watch.look()
    assert watch.take_trouble() == ""


def test_an_index_whose_model_is_not_there_is_told_and_given_when_it_comes(
    shop: Path, tmp_path: Path, watch: IndexWatch, write_model: WriteModel, make_card: MakeCard
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    Index.create(make_card("b"), other).save(shop)
    hidden = other.rename(tmp_path / "hidden.onnx")
    watch.look()
    assert (watch.take(), "the model of" in watch.take_trouble()) == (None, True)
    hidden.rename(other)
    fresh = look_until_fresh(watch)
    assert fresh is not None
    assert fresh.extractor is not None
    assert fresh.extractor.card.spec.fingerprint == make_card("b").spec.fingerprint
    fresh.extractor.close()


def test_what_could_not_be_read_for_a_while_is_read_though_it_is_the_same(
    shop: Path, watch: IndexWatch, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_path: Path) -> Index:
        message = "too many open files"
        raise InputError(message)

    add_label(shop, "new", unit_rows)
    with monkeypatch.context() as patch:
        patch.setattr(Index, "open", fails)
        watch.look()
        assert (watch.take(), watch.take_trouble()) == (None, "too many open files")
        watch.look(anyway=True)
        assert watch.take_trouble() == "too many open files", "whoever asks is told again"
    fresh = look_until_fresh(watch)
    assert fresh is not None
    assert "new" in fresh.index.labels
    watch.look()
    assert watch.take() is None


def test_an_index_of_another_model_is_given_once(
    shop: Path, tmp_path: Path, watch: IndexWatch, write_model: WriteModel, make_card: MakeCard
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    Index.create(make_card("b"), other).save(shop)
    watch.look()
    fresh = watch.take()
    assert fresh is not None
    assert fresh.extractor is not None
    fresh.extractor.close()
    assert look_until_fresh(watch) is None


def test_a_folder_that_cannot_be_looked_at_is_told_once(
    shop: Path, watch: IndexWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_words: object, **_options: object) -> os.stat_result:
        raise OSError(errno.ESTALE, "Stale file handle")

    troubles = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale)
        for _ in range(5 * module._AGAIN):
            watch.look()
            troubles.append(watch.take_trouble())
    assert [trouble for trouble in troubles if trouble] == troubles[:1]
    watch.look()
    assert watch.take() is not None


def test_closing_does_not_wait_for_a_model_that_is_built_for_minutes(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FAREWELL", 0.0)
    reading, through = threading.Event(), threading.Event()

    class Building(IndexWatch):
        def look(self, *, anyway: bool = False) -> None:
            reading.set()
            through.wait(WAIT)

    watch = Building(shop, loaded(shop), seen=(), interval=NEVER).start()
    watch.ask()
    assert reading.wait(WAIT)
    watch.close()
    through.set()


def test_a_file_that_is_gone_is_told_once(shop: Path, watch: IndexWatch) -> None:
    shop.unlink()
    for expected in (True, False):
        watch.look()
        assert (watch.take(), "cannot read the index" in watch.take_trouble()) == (None, expected)


def test_whoever_asks_has_it_read_although_nothing_changed(shop: Path, make_card: MakeCard) -> None:
    looked = threading.Event()

    class Looking(IndexWatch):
        def look(self, *, anyway: bool = False) -> None:
            super().look(anyway=anyway)
            looked.set()

    with Looking(shop, loaded(shop), seen=file_state(shop), interval=NEVER).start() as watch:
        watch.ask()
        assert looked.wait(WAIT)
        assert watch.take() is not None


def test_an_index_that_cannot_answer_is_told_and_not_given(shop: Path, unit_rows: Rows) -> None:
    def refuse(index: Index) -> None:
        if "new" in index.labels:
            message = "a pose is [x, y, theta]"
            raise ShapeError(message)

    watch = IndexWatch(shop, loaded(shop), seen=file_state(shop), make_ready=refuse)
    add_label(shop, "new", unit_rows)
    watch.look()
    assert (watch.take(), watch.take_trouble()) == (None, "a pose is [x, y, theta]")


def test_closing_ends_the_thread_without_waiting_for_the_next_look(shop: Path, make_card: MakeCard) -> None:
    watch = IndexWatch(shop, loaded(shop), seen=file_state(shop), interval=NEVER).start()
    thread = watch._thread
    watch.close()
    assert thread is not None
    assert not thread.is_alive()


def test_a_watch_that_was_not_started_can_be_closed(watch: IndexWatch) -> None:
    watch.close()


def test_whatever_goes_wrong_while_looking_is_told_and_the_next_look_comes(
    shop: Path, make_card: MakeCard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", module.__name__)
    looks = threading.Semaphore(0)

    class Failing(IndexWatch):
        def look(self, *, anyway: bool = False) -> None:
            looks.release()
            message = "no memory"
            raise MemoryError(message)

    with Failing(shop, loaded(shop), seen=(), interval=NEVER).start() as watch:
        for _ in range(2):
            watch.ask()
            assert looks.acquire(timeout=WAIT)
    assert "no memory" in watch.take_trouble()
    assert "looking at" in caplog.text


HANGUPS = """
import os, signal, sys
from pathlib import Path
from deepir.runtime.backend import BackendOptions
from deepir.runtime.model_file import ModelFile
from deepir.runtime.index_watch import Hangup, IndexWatch

left = 50

def again(frame, event, argument):
    global left
    if left:
        left -= 1
        os.kill(os.getpid(), signal.SIGHUP)
    return again

with Hangup() as hangup:
    hangup.tell(IndexWatch(Path("any"), ModelFile(Path("any"), None, BackendOptions()), seen=()))
    sys.settrace(again)
    os.kill(os.getpid(), signal.SIGHUP)
    sys.settrace(None)
print("through")
"""


def test_signals_that_come_while_one_is_handled_do_not_stop_the_program() -> None:
    done = subprocess.run([sys.executable, "-c", HANGUPS], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.stdout, done.returncode) == ("through\n", 0)


def test_a_sighup_that_comes_before_there_is_a_watch_is_remembered(shop: Path) -> None:
    asked: list[str] = []

    class Asked(IndexWatch):
        def ask(self) -> None:
            asked.append("again")

    watch = Asked(shop, loaded(shop), seen=())
    with Hangup() as hangup:
        hangup.tell(watch)
        assert asked == []
    with Hangup() as hangup:
        os.kill(os.getpid(), signal.SIGHUP)
        hangup.tell(watch)
        assert asked == ["again"]
        os.kill(os.getpid(), signal.SIGHUP)
    assert asked == ["again", "again"]


def test_the_handling_of_sighup_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with Hangup():
        assert signal.getsignal(signal.SIGHUP) is not before
    assert signal.getsignal(signal.SIGHUP) is before


def test_in_a_thread_of_another_program_signals_are_left_alone() -> None:
    seen: list[object] = []

    def within() -> None:
        with Hangup():
            seen.append(signal.getsignal(signal.SIGHUP))

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGHUP)]


class _Watch(IndexWatch):
    """Looks when it is told to, and knows when the loop has taken what it found."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options, interval=NEVER)
        self._asked_for = threading.Semaphore(0)

    def take(self) -> Fresh | None:
        self._asked_for.release()
        return super().take()

    def look_and_wait(self) -> None:
        """Look; the loop has put what was found to use when it asks for the second time from now."""
        self.look()
        while self._asked_for.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self._asked_for.acquire(timeout=WAIT)


@pytest.fixture
def run_while(
    shop: Path,
    stripes: Path,
    deepir_run: Command,
    monkeypatch: pytest.MonkeyPatch,
    step_by_step: Callable[..., object],
) -> Callable[..., tuple[list[dict[str, Any]], Result]]:
    """run_while({2: change}) recognises six frames of the stripes, changes the index before the third, and looks."""
    watches: list[_Watch] = []

    def make(*words: Any, **options: Any) -> IndexWatch:
        watches.append(_Watch(*words, **options))
        return watches[-1]

    monkeypatch.setattr(run_module, "IndexWatch", make)

    def run(changes: dict[int, Callable[[], object]], *words: object) -> tuple[list[dict[str, Any]], Result]:
        def happens(change: Callable[[], object]) -> Callable[[], None]:
            def both() -> None:
                change()
                watches[-1].look_and_wait()

            return both

        image = np.zeros((48, 64, 3), np.uint8)
        image[::8] = 255
        step_by_step(image, 6, {number: happens(change) for number, change in changes.items()})
        result = deepir_run("anything", "--index", shop, *words)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()], result

    return run


RunWhile = Callable[..., tuple[list[dict[str, Any]], Result]]


def test_a_label_that_is_added_between_two_frames_is_known_from_the_next_on_and_no_frame_is_missed(
    shop: Path, stripes: Path, run_while: RunWhile, deepir_index: Command
) -> None:
    lines, result = run_while({3: lambda: deepir_index("add", shop, "stripes", stripes)}, "--threshold", 0.999)
    assert [line["frame"] for line in lines] == list(range(6))
    assert [line["label"] for line in lines] == [None] * 3 + ["stripes"] * 3
    assert "index   read again: 13 items, 5 labels" in result.stderr
    assert "6 frames in" in result.stderr


def test_what_is_added_while_the_program_starts_is_not_overlooked(
    shop: Path, stripes: Path, run_while: RunWhile, deepir_index: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = run_module.Index.open

    def slowly(path: Path) -> Index:
        monkeypatch.setattr(run_module.Index, "open", opened)
        index = opened(path)
        assert deepir_index("add", shop, "stripes", stripes).exit_code == 0
        return index

    monkeypatch.setattr(run_module.Index, "open", slowly)
    lines, _ = run_while({0: lambda: None}, "--threshold", 0.999)
    assert {line["label"] for line in lines} == {"stripes"}


def test_an_index_that_stays_as_it_is_is_read_once(run_while: RunWhile) -> None:
    _, result = run_while({1: lambda: None, 2: lambda: None})
    assert "read again" not in result.stderr


def test_the_new_threshold_counts_with_the_new_index(shop: Path, stripes: Path, run_while: RunWhile) -> None:
    def be_strict() -> None:
        with Index.open(shop, write=True) as index:
            stored = index.threshold
            assert stored is not None
            index.fit_threshold_to_unknown(index.descriptors(), 0.01)

    with Index.open(shop, write=True) as index:
        index.fit_threshold_to_unknown(-index.descriptors(), 0.01)
    lines, _ = run_while({4: be_strict})
    assert [line["status"] != "unknown" for line in lines] == [True] * 4 + [False] * 2


def test_a_damaged_file_is_told_once_and_the_index_before_goes_on_answering(
    shop: Path, stripes: Path, run_while: RunWhile, deepir_index: Command
) -> None:
    assert deepir_index("add", shop, "stripes", stripes).exit_code == 0

    def tear() -> None:
        shop.unlink()
        shop.write_bytes(b"torn" * 100)

    lines, result = run_while({2: tear, 4: lambda: None}, "-q", "--threshold", 0.5, "--margin", 0)
    assert [line["label"] for line in lines] == ["stripes"] * 6
    assert result.stderr.count("warning: the index and model before go on answering: ") == 1
    assert result.stderr.count("\n") == 1


def test_an_index_of_another_model_than_the_given_is_told_once_and_the_one_before_goes_on_answering(
    shop: Path, tmp_path: Path, model: Path, run_while: RunWhile, write_model: WriteModel, make_card: MakeCard
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    change = {2: lambda: Index.create(make_card("b"), other).save(shop)}
    lines, result = run_while(change, "--threshold", -1, "-q", "--model", model)
    assert {line["status"] for line in lines} <= {"match", "ambiguous"}
    assert len(lines) == 6
    assert result.stderr.count("made by the model") == 1


def test_with_an_index_of_another_model_that_model_answers_from_the_next_frame_on(
    shop: Path, tmp_path: Path, run_while: RunWhile, write_model: WriteModel, make_card: MakeCard, unit_rows: Rows
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)

    def rebuild() -> None:
        index = Index.create(make_card("b"), other)
        index.add("of another model", unit_rows(np.random.default_rng(0), 1), [""])
        index.save(shop)

    lines, result = run_while({2: rebuild}, "--threshold", -1, "--margin", 0)
    labels = [line["label"] for line in lines]
    assert len(labels) == 6
    assert "of another model" not in labels[:2]
    assert labels[2:] == ["of another model"] * 4
    assert "read again: 1 items, 1 labels, model " in result.stderr


def test_a_model_file_that_is_replaced_answers_from_the_next_frame_on(
    model: Path, run_while: RunWhile, write_model: WriteModel, make_card: MakeCard
) -> None:
    def replace_model() -> None:
        other = write_model(model.with_name("other.onnx"), card=make_card(), seed=3)
        os.replace(other, model)

    lines, result = run_while({3: replace_model}, "--threshold", -1, "--margin", 0)
    similarities = [line["similarity"] for line in lines]
    assert len(set(similarities[:3])) == len(set(similarities[3:])) == 1
    assert similarities[0] != similarities[3]
    assert "read again: 12 items, 4 labels, model " in result.stderr


def test_a_model_file_that_is_torn_or_of_another_model_is_told_and_the_one_before_goes_on_answering(
    model: Path, run_while: RunWhile, write_model: WriteModel, make_card: MakeCard
) -> None:
    changes = {
        1: lambda: model.write_bytes(model.read_bytes()[:100]),
        3: lambda: write_model(model, card=make_card("b"), seed=2),
    }
    lines, result = run_while(changes, "--threshold", -1)
    assert len({line["similarity"] for line in lines}) == 1
    assert result.stderr.count("warning: the index and model before go on answering: ") == 2


def test_a_map_in_which_no_place_can_be_looked_for_is_told_once_and_the_one_before_goes_on_answering(
    shop: Path, unit_rows: Rows, run_while: RunWhile
) -> None:
    def spoil() -> None:
        with Index.open(shop, write=True) as index:
            index.add("door", unit_rows(np.random.default_rng(3), 1), ["d.jpg"], metadata=[{"pose": "beside the door"}])

    lines, result = run_while({3: spoil}, "--mode", "place")
    assert (len(lines), result.exit_code) == (6, 0), result.output
    assert result.stderr.count("warning: the index and model before go on answering: ") == 1
    assert "got 'beside the door'" in result.stderr


def test_an_index_that_shrinks_while_it_answers_is_taken_too(
    shop: Path, catalogue: Path, run_while: RunWhile, model: Path, deepir_index: Command
) -> None:
    change = {3: lambda: deepir_index("build", shop, catalogue, "--model", model, "--dim", 3, "--reduce", "prefix")}
    lines, result = run_while(change, "--threshold", -1)
    assert len(lines) == 6
    assert "read again: 12 items, 4 labels" in result.stderr


PROGRAM = """
import sys, threading
import deepir.runtime.index_watch as module
import deepir.runtime.run as run_module
from deepir.runtime.cli import main
from deepir.runtime.index_watch import IndexWatch
from deepir.runtime.recording import ImageFiles

looked, used = threading.Event(), threading.Event()

class Watch(IndexWatch):
    def __init__(self, *words, **options):
        super().__init__(*words, **options, interval=3600)
    def look(self, *, anyway=False):
        super().look(anyway=anyway)
        self.takes = 0
        looked.set()
    def take(self):
        # what was found is put to use before the loop asks again
        if looked.is_set():
            self.takes += 1
            if self.takes == 2:
                used.set()
        return super().take()

class Source(ImageFiles):
    def __iter__(self):
        for number, frame in enumerate(super().__iter__()):
            # the second frame comes when the signal has been heeded
            if number and not used.wait(120):
                sys.exit("no look after 120 seconds")
            yield frame

run_module.IndexWatch = Watch
picture = sys.argv.pop(1)
from pathlib import Path
run_module.open_source = lambda text, _patience: Source([Path(picture)] * 3, text)
main()
"""


def test_sighup_lets_a_running_program_read_its_index_again(shop: Path, stripes: Path, deepir_index: Command) -> None:
    words = [sys.executable, "-c", PROGRAM, str(stripes), "any", "--index", str(shop), "--threshold", "0.999"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert deepir_index("add", shop, "stripes", stripes).exit_code == 0
        process.send_signal(signal.SIGHUP)
        rest, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    assert first["label"] is None
    assert [json.loads(line)["label"] for line in rest.splitlines()] == ["stripes", "stripes"]
    assert errors.count("read again: 13 items, 5 labels") == 1
