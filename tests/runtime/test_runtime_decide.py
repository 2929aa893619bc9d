"""deepir-run where several frames decide: a vote on labels, and places that a sequence of frames agrees on."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result

from deepir.errors import DeepIRError, OptionError
from deepir.image import Image
from deepir.runtime import Index, Judgement, Recogniser
from deepir.runtime.annotate import annotate
from deepir.runtime.decide import Decider, Deciding, Decision
from deepir.runtime.frame import Frame
from deepir.runtime.place_sequence import SequenceRule
from deepir.runtime.places import PlaceOptions
from deepir.runtime.recent_past import RecentPast
from deepir.runtime.recogniser import Recognition
from deepir.runtime.threshold import Threshold
from deepir.runtime.vote import Vote

Picture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]

ALONE = {"seen_at", "frame", "time", "name", "age_ms", "status", "label", "similarity", "margin", "topk", "ms"}
TOGETHER = {"votes", "votes_similarity", "frame_status", "frame_label"}

PLACES = 12


def lines_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def walk(tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: WritePicture) -> Path:
    """Red, with a glimpse of green, then blue."""
    colours = ["red", "red", "green", "red", "red", "blue", "blue", "blue"]
    for number, colour in enumerate(colours):
        write_picture(tmp_path / "walk" / f"{number}.png", picture(colour, rng))
    return tmp_path / "walk"


def test_a_vote_holds_a_label_through_a_glimpse_of_another_and_needs_enough_frames(
    shop: Path, walk: Path, deepir_run: Command
) -> None:
    lines = lines_of(deepir_run(walk, "--index", shop, "--vote", "3/5", "--threshold", -1, "--margin", 0))
    assert [line["frame_label"] for line in lines] == ["red", "red", "green", "red", "red", "blue", "blue", "blue"]
    assert [line["label"] for line in lines] == [None, None, None, "red", "red", "red", None, "blue"]
    assert [line["status"] for line in lines] == ["match" if line["label"] else "unknown" for line in lines]
    assert [line["votes"] for line in lines] == [[1, 1], [2, 2], [2, 3], [3, 4], [4, 5], [3, 5], [2, 5], [3, 5]]


def test_a_line_of_a_vote_says_what_the_frame_says_alone_too(shop: Path, walk: Path, deepir_run: Command) -> None:
    lines = lines_of(deepir_run(walk, "--index", shop, "--vote", "1/1", "--threshold", -1, "--margin", 0))
    assert all(set(line) == ALONE | TOGETHER for line in lines)
    assert all((line["status"], line["label"]) == (line["frame_status"], line["frame_label"]) for line in lines)
    assert all(line["votes_similarity"] == line["similarity"] for line in lines)


def test_the_summary_counts_what_the_lines_say(shop: Path, walk: Path, deepir_run: Command) -> None:
    stderr = deepir_run(walk, "--index", shop, "--vote", "3/5", "--threshold", -1, "--margin", 0).stderr
    assert "4 match, 0 ambiguous, 4 unknown" in stderr


def test_the_video_shows_what_was_decided(
    shop: Path, walk: Path, tmp_path: Path, deepir_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, str | None]] = []

    def noted(image: Image, recognition: Recognition) -> Image:
        shown.append((recognition.status, recognition.label))
        return annotate(image, recognition)

    monkeypatch.setattr("deepir.runtime.video_sink.annotate", noted)
    words = ("--vote", "3/5", "--threshold", -1, "--margin", 0, "--save", tmp_path / "out.webm")
    lines = lines_of(deepir_run(walk, "--index", shop, *words))
    assert shown == [(line["status"], line["label"]) for line in lines]


def test_a_frame_that_decides_alone_lists_what_it_may_be_and_the_metadata(
    tmp_path: Path, model: Path, catalogue: Path, walk: Path, deepir_index: Command, deepir_run: Command
) -> None:
    path = tmp_path / "i.usearch"
    words = ("--model", model, "--metadata", '{"price": 2}', "--margin", 1)
    assert deepir_index("build", path, catalogue, *words).exit_code == 0
    lines = lines_of(deepir_run(walk, "--index", path, "--threshold", -1))
    assert all(set(line) == ALONE | {"candidates", "metadata"} for line in lines)
    assert {line["status"] for line in lines} == {"ambiguous"}
    assert {tuple(sorted(line["candidates"])) for line in lines} == {("blue", "green", "red", "yellow")}
    assert all(line["metadata"] == {"price": 2} for line in lines)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--vote", "4/8"), "two labels could win"),
        (("--vote", "9/8"), "cannot be won"),
        (("--vote", "most"), "got 'most'"),
        (("--mode", "place", "--vote", "5/8"), "leave out --vote 5/8"),
        (("--seq", 3), "give --mode place"),
        (("--exclude-last", "30s"), "give --mode place"),
        (("--radius", 2), "give --mode place"),
        (("--mode", "place", "--exclude-last", "soon"), "got 'soon'"),
        (("--mode", "place", "--exclude-last", "0"), "longer than nothing"),
        (("--mode", "place", "--radius", -1), "smaller than a point"),
        (("--mode", "place", "--seq", 0), "a sequence of 0"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(
    words: tuple[object, ...], part: str, shop: Path, walk: Path, deepir_run: Command
) -> None:
    result = deepir_run(walk, "--index", shop, *words)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert part in result.stderr


def place(number: int) -> Image:
    """A room in a colour of its own, on a way from red over green and blue."""
    hue = np.full((48, 64, 1), number * 180 // PLACES, np.uint8)
    hsv = np.concatenate([hue, np.full((48, 64, 2), 230, np.uint8)], axis=2)
    pixels: Image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return pixels


@pytest.fixture
def rooms(tmp_path: Path, write_picture: WritePicture) -> Path:
    for number in range(PLACES):
        write_picture(tmp_path / "rooms" / f"{number:02}.png", place(number))
    return tmp_path / "rooms"


@pytest.fixture
def make_map(tmp_path: Path, model: Path, rooms: Path, deepir_index: Command) -> Callable[..., Path]:
    """make_map(metadata_of) gives a map of the rooms in their order, with this metadata of each."""

    def make(metadata_of: Callable[[int], Mapping[str, Any]] = lambda _number: {}, label: str = "") -> Path:
        path = tmp_path / "map.usearch"
        with Recogniser.open(build(tmp_path, model, rooms, deepir_index)) as recogniser:
            index = Index.create(recogniser.extractor.card, model)
            for number in range(PLACES):
                query_1d = recogniser.describe(place(number)).query_1d
                assert query_1d is not None
                name = label or f"room {number}"
                index.add(name, query_1d[None], [f"{number:02}.png"], metadata=[metadata_of(number)])
        index.save(path)
        return path

    return make


def build(tmp_path: Path, model: Path, rooms: Path, deepir_index: Command) -> Path:
    path = tmp_path / "rooms.usearch"
    assert deepir_index("build", path, rooms, "--model", model).exit_code == 0
    return path


def test_a_walk_along_the_map_is_placed_when_enough_frames_agree(
    make_map: Callable[..., Path], rooms: Path, deepir_run: Command
) -> None:
    words = ("--mode", "place", "--seq", 5, "--threshold", 0.5)
    lines = lines_of(deepir_run(rooms, "--index", make_map(), *words))
    assert [line["status"] for line in lines] == ["unknown"] * 2 + ["match"] * (PLACES - 2)
    assert [line["label"] for line in lines[2:]] == [f"room {number}" for number in range(2, PLACES)]
    assert [line["votes"] for line in lines] == [[min(5, number), min(5, number)] for number in range(1, PLACES + 1)]
    assert [line["key"] for line in lines[2:]] == list(range(3, PLACES + 1))
    assert all(set(line) >= ALONE | TOGETHER | {"view", "metadata"} for line in lines[2:])
    assert all("view" not in line for line in lines[:2])


@pytest.mark.parametrize(("length", "silent"), [(1, 0), (2, 1), (3, 1), (10, 5)])
def test_seq_says_how_many_frames_are_looked_at_of_which_most_must_agree(
    length: int, silent: int, make_map: Callable[..., Path], rooms: Path, deepir_run: Command
) -> None:
    words = ("--mode", "place", "--seq", length, "--threshold", 0.5)
    lines = lines_of(deepir_run(rooms, "--index", make_map(), *words))
    assert [line["status"] for line in lines].index("match") == silent


def test_a_jump_to_another_part_of_the_map_is_not_believed_at_once(
    make_map: Callable[..., Path], tmp_path: Path, write_picture: WritePicture, deepir_run: Command
) -> None:
    for turn, number in enumerate([0, 1, 2, 7, 3, 4]):
        write_picture(tmp_path / "walk" / f"{turn}.png", place(number))
    words = ("--mode", "place", "--seq", 5, "--threshold", 0.9)
    lines = lines_of(deepir_run(tmp_path / "walk", "--index", make_map(), *words))
    assert [line["label"] for line in lines[2:]] == ["room 2", None, "room 3", "room 4"]
    assert (lines[3]["frame_label"], lines[3]["topk"][0][0]) == ("room 7", "room 7")


def test_poses_within_the_radius_are_one_place(make_map: Callable[..., Path], rooms: Path, deepir_run: Command) -> None:
    path = make_map(lambda number: {"pose": [2.0 * number, 0, 0]})
    words = ("--mode", "place", "--seq", 3, "--threshold", 0.5)
    near = lines_of(deepir_run(rooms, "--index", path, *words, "--radius", 1))
    assert min(line["votes"][0] for line in near[2:]) == 1
    wide = lines_of(deepir_run(rooms, "--index", path, *words, "--radius", 4))
    assert [line["votes"][0] for line in wide[2:]] == [3] * (PLACES - 2)
    assert wide[5]["metadata"] == {"pose": [10.0, 0, 0]}


def test_the_last_items_of_the_map_are_left_out_as_what_was_just_seen(
    make_map: Callable[..., Path], rooms: Path, deepir_run: Command
) -> None:
    words = ("--mode", "place", "--seq", 1, "--threshold", 0.5)
    lines = lines_of(deepir_run(rooms, "--index", make_map(), *words, "--exclude-last", 4))
    assert [line["key"] for line in lines[: PLACES - 4]] == list(range(1, PLACES - 3))
    assert all(line.get("key", 0) <= PLACES - 4 for line in lines)


def test_items_that_were_seen_a_moment_before_a_frame_are_left_out(
    make_map: Callable[..., Path], tmp_path: Path, write_video: Callable[..., Path], deepir_run: Command
) -> None:
    path = make_map(lambda number: {"time": number / 10})
    video = write_video(tmp_path / "walk.avi", [place(number) for number in range(PLACES)])
    words = ("--mode", "place", "--seq", 1, "--threshold", 0.5)
    lines = lines_of(deepir_run(video, "--index", path, *words, "--exclude-last", "0.25s"))
    assert all(abs((line["key"] - 1) - line["frame"]) >= 3 for line in lines if "key" in line)
    whole = lines_of(deepir_run(video, "--index", path, *words))
    assert [line["key"] - 1 for line in whole] == list(range(PLACES))


def test_a_map_without_times_cannot_leave_out_seconds(
    make_map: Callable[..., Path], rooms: Path, deepir_run: Command
) -> None:
    result = deepir_run(rooms, "--index", make_map(), "--mode", "place", "--exclude-last", "30s")
    assert (result.exit_code, "no item of the map has a time" in result.stderr) == (2, True)


def test_two_places_of_one_label_are_no_doubt_about_the_label(
    make_map: Callable[..., Path], rooms: Path, deepir_run: Command
) -> None:
    words = ("--mode", "place", "--seq", 1, "--threshold", 0.5, "--margin", 1)
    lines = lines_of(deepir_run(rooms, "--index", make_map(label="corridor"), *words))
    assert {(line["frame_status"], line["frame_label"]) for line in lines} == {("match", "corridor")}
    assert all(len(line["topk"]) == 1 for line in lines)


def test_the_threshold_of_a_map_is_learnt_from_other_places_and_not_from_neighbours_on_the_way(
    tmp_path: Path, model: Path, write_picture: WritePicture, deepir_index: Command, deepir_run: Command
) -> None:
    # three views of each room, all with labels of their own: for the threshold of labels they are strangers
    for number in range(12):
        room = place(number // 3 * 3)
        write_picture(tmp_path / "map" / f"{number:02}.png", room - np.uint8(number % 3))
        write_picture(tmp_path / "walk" / f"{number:02}.png", (room * 0.8).astype(np.uint8))
    path = tmp_path / "map.usearch"
    assert deepir_index("build", path, tmp_path / "map", "--model", model, "--keep-all").exit_code == 0
    labels = Index.open(path).threshold
    lines = lines_of(deepir_run(tmp_path / "walk", "--index", path, "--mode", "place", "--seq", 1))
    assert labels is not None
    assert all(line["similarity"] < labels.value for line in lines)
    assert {line["status"] for line in lines} == {"match"}


@pytest.fixture
def decide(shop: Path) -> Callable[..., Decider]:
    """A decider of a live source that recognises the shop's labels."""
    recogniser = Recogniser.open(shop, judgement=Judgement(threshold=-1.0, margin=0.0))

    def make(deciding: Deciding, *, live: bool = True) -> Decider:
        return Decider(recogniser, deciding, live=live)

    return make


def ask(decider: Decider, frame: Frame) -> tuple[Recognition, Decision | None]:
    recogniser = decider._recogniser
    return decider(frame, recogniser.describe(frame.image), recogniser.index)


def frames(image: Image, captured: list[float]) -> list[Frame]:
    return [Frame(number, image, second, None, "camera") for number, second in enumerate(captured)]


@pytest.mark.parametrize(("live", "labels"), [(True, [None, "red", None, "red"]), (False, [None, "red", "red", "red"])])
def test_after_a_gap_a_camera_may_show_something_else(
    live: bool,
    labels: list[str | None],
    decide: Callable[..., Decider],
    rng: np.random.Generator,
    picture: Picture,
) -> None:
    decider = decide(Deciding(vote=Vote(2, 3)), live=live)
    found = [ask(decider, frame)[1] for frame in frames(picture("red", rng), [0.0, 0.1, 9.0, 9.1])]
    assert [None if decision is None else decision.label for decision in found] == labels


def test_without_a_vote_each_frame_decides_alone(
    decide: Callable[..., Decider], rng: np.random.Generator, picture: Picture
) -> None:
    recognition, decision = ask(decide(Deciding()), frames(picture("red", rng), [0.0])[0])
    assert (recognition.label, decision) == ("red", None)


def test_a_covered_lens_is_no_place_and_no_label(
    decide: Callable[..., Decider], monkeypatch: pytest.MonkeyPatch
) -> None:
    for deciding in (
        Deciding(vote=Vote(1, 1)),
        Deciding(mode="place", places=PlaceOptions(sequence=SequenceRule(length=1, needed=1))),
    ):
        decider = decide(deciding)
        backend = decider._recogniser.extractor.backend
        monkeypatch.setattr(backend, "run", lambda _images: np.zeros((1, 8), np.float32))
        recognition, decision = ask(decider, frames(np.zeros((48, 64, 3), np.uint8), [0.0])[0])
        assert decision is not None
        assert (recognition.status, decision.status, decision.label) == ("unknown", "unknown", None)
        monkeypatch.undo()


ALONE_PLACES = Deciding(mode="place", places=PlaceOptions(sequence=SequenceRule(length=1, needed=1)))
LEAVES_OUT_SECONDS = Deciding(mode="place", places=PlaceOptions(exclude=RecentPast(seconds=30)))


@pytest.fixture
def placer(make_map: Callable[..., Path]) -> Iterator[Decider]:
    """Each frame decides alone where it is on a map of the rooms."""
    with Recogniser.open(make_map(lambda number: {"time": float(number)})) as recogniser:
        yield Decider(recogniser, ALONE_PLACES)


def place_of(decider: Decider, number: int) -> str | None:
    decision = ask(decider, frames(place(number), [0.0])[0])[1]
    assert decision is not None
    return decision.label


@pytest.mark.parametrize(
    ("deciding", "metadata_of", "part"),
    [
        (ALONE_PLACES, lambda number: {"pose": "beside the door"} if number == 3 else {}, "item 4 of the map: a pose"),
        (ALONE_PLACES, lambda number: {"pose": [number, 0, 0] if number else {"lat": 1, "lon": 1}}, "the same kind"),
        (LEAVES_OUT_SECONDS, lambda _number: {}, "no item of the map has a time"),
    ],
    ids=["pose", "kinds", "times"],
)
def test_a_map_without_places_is_refused_before_it_answers_and_the_one_before_goes_on(
    deciding: Deciding,
    metadata_of: Callable[[int], Mapping[str, Any]],
    part: str,
    placer: Decider,
    make_map: Callable[..., Path],
) -> None:
    decider = Decider(placer._recogniser, deciding)
    changed = Index.open(make_map(metadata_of))
    with pytest.raises(DeepIRError, match=part):
        decider.learn(changed)
    assert [place_of(placer, number) for number in (0, 7)] == ["room 0", "room 7"]


def test_a_map_without_places_is_refused_by_a_threshold_of_ones_own_too(
    placer: Decider, make_map: Callable[..., Path]
) -> None:
    placer._recogniser.judgement = Judgement(threshold=0.5)
    changed = make_map(lambda number: {"pose": [number, 0, 0] if number else {"lat": 1, "lon": 1}})
    with Index.open(changed, write=True) as index:
        index.set(threshold=Threshold(0.5, 0.01, 0, "chosen"))
    with pytest.raises(DeepIRError, match="the same kind"):
        placer.learn(Index.open(changed))


def test_deepir_run_does_not_begin_with_a_map_without_places(
    make_map: Callable[..., Path], rooms: Path, deepir_run: Command
) -> None:
    path = make_map(lambda number: {"pose": "beside the door"} if number == 3 else {})
    result = deepir_run(rooms, "--index", path, "--mode", "place", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert "item 4 of the map: a pose is [x, y, theta]" in result.stderr
    assert "got 'beside the door'" in result.stderr


def test_a_map_that_was_learnt_beforehand_keeps_no_frame_waiting(
    placer: Decider, make_map: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Index.open(make_map())
    placer.learn(changed)

    def late(*_words: object) -> None:
        message = "learnt between two frames"
        raise AssertionError(message)

    monkeypatch.setattr("deepir.runtime.decide.fit_place_threshold", late)
    placer._recogniser.index = changed
    assert place_of(placer, 7) == "room 7"


def test_a_threshold_that_is_chosen_meanwhile_counts_from_the_next_query_on(placer: Decider) -> None:
    recogniser, found = placer._recogniser, []
    for judgement in (Judgement(), Judgement(threshold=1.0), Judgement(threshold=0.5), Judgement()):
        recogniser.judgement = judgement
        # darker than it was enrolled, so that it is similar, but not the same
        decision = placer(
            frames(place(7), [0.0])[0], recogniser.describe((place(7) * 0.8).astype(np.uint8)), recogniser.index
        )[1]
        assert decision is not None
        found.append(decision.label)
    assert found == ["room 7", None, "room 7", "room 7"]


def test_a_vote_on_places_is_refused() -> None:
    with pytest.raises(OptionError, match="leave out --vote 5/8"):
        replace(Deciding(mode="place"), vote=Vote(5, 8))
