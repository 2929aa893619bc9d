"""Image to label, with the model that the index names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from deepir.card import ModelCard
from deepir.errors import IndexModelError, InputError, ModelError, OptionError, ShapeError
from deepir.image import Image
from deepir.runtime import Hit, Index, Recogniser, Recognition
from deepir.runtime.recogniser import Judgement, find_model

Picture = Callable[..., Image]


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow"])
def test_a_new_picture_gets_its_label(shop: Path, rng: np.random.Generator, picture: Picture, colour: str) -> None:
    with Recogniser.open(shop) as recogniser:
        answer = recogniser(picture(colour, rng, (70, 50)))
    assert (answer.status, answer.label) == ("match", colour)
    assert answer.top[0] == (colour, answer.similarity)
    assert answer.margin == pytest.approx(answer.similarity - answer.top[1][1])
    assert set(answer.milliseconds) == {"prepare", "describe", "search"}


def test_each_label_is_listed_once_best_first(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    with Recogniser.open(shop, judgement=Judgement(top_labels=3)) as recogniser:
        top = recogniser(picture("blue", rng)).top
    assert len({label for label, _ in top}) == 3
    assert [similarity for _, similarity in top] == sorted((similarity for _, similarity in top), reverse=True)


def test_below_the_threshold_it_is_unknown(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    with Recogniser.open(shop, judgement=Judgement(threshold=1.0)) as recogniser:
        answer = recogniser(picture("red", rng))
    assert (answer.status, answer.label) == ("unknown", None)
    assert answer.top[0][0] == "red"


def test_the_automatic_threshold_is_the_one_of_the_index(shop: Path) -> None:
    threshold = Index.open(shop).threshold
    assert threshold is not None
    with Recogniser.open(shop) as recogniser:
        assert recogniser.threshold == threshold.value


def test_with_one_label_all_is_a_match_without_a_margin(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    with Index.open(shop, write=True) as index:
        for colour in ("green", "blue", "yellow"):
            index.remove(colour)
    with Recogniser.open(shop) as recogniser:
        answer = recogniser(picture("green", rng))
    assert (recogniser.threshold, answer.status, answer.label, answer.margin) == (None, "match", "red", None)


def test_an_empty_index_knows_nothing(
    model: Path, tmp_path: Path, make_card: Callable[..., ModelCard], rng: np.random.Generator, picture: Picture
) -> None:
    Index.create(make_card(), model).save(tmp_path / "empty.usearch")
    with Recogniser.open(tmp_path / "empty.usearch") as recogniser:
        answer = recogniser(picture("red", rng))
    assert (answer.status, answer.similarity, answer.top) == ("unknown", 0.0, ())


def test_a_picture_without_direction_is_unknown_and_no_crash(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recogniser.open(shop, judgement=Judgement(threshold=-1.0)) as recogniser:
        monkeypatch.setattr(recogniser.extractor.backend, "run", lambda images: np.zeros((1, 8), np.float32))
        assert recogniser(np.zeros((40, 40, 3), np.uint8)).status == "unknown"


def test_index_and_model_can_move_together(shop: Path, model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "robot"
    elsewhere.mkdir()
    shop.rename(elsewhere / shop.name)
    model.rename(elsewhere / model.name)
    Recogniser.open(elsewhere / shop.name).close()


def test_an_index_moved_alone_finds_its_model_where_it_was(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    moved = shop.rename(tmp_path / "a" / "b" / shop.name)
    Recogniser.open(moved).close()


def test_a_lost_model_names_both_places_and_the_option(shop: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    moved = shop.rename(tmp_path / "a" / shop.name)
    model.unlink()
    with pytest.raises(InputError, match=r"--model") as caught:
        Recogniser.open(moved)
    assert str(tmp_path / "a" / model.name) in str(caught.value)
    assert str(model) in str(caught.value)


def test_another_model_of_the_same_name_beside_a_moved_index_is_passed_over(
    shop: Path, model: Path, tmp_path: Path, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    (tmp_path / "a").mkdir()
    moved = shop.rename(tmp_path / "a" / shop.name)
    other = write_model(tmp_path / "a" / model.name, card=make_card("b"), seed=2)
    assert find_model(Index.open(moved), moved) == model
    model.unlink()
    with pytest.raises(IndexModelError, match=r"say where its model is with --model") as caught:
        find_model(Index.open(moved), moved)
    fingerprints = (make_card().spec.fingerprint, make_card("b").spec.fingerprint)
    assert all(str(word) in str(caught.value) for word in (moved, other, model, *fingerprints))


def test_a_damaged_model_beside_a_moved_index_is_passed_over_or_told_of_as_damaged(
    shop: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    moved = shop.rename(tmp_path / "a" / shop.name)
    damaged = tmp_path / "a" / model.name
    damaged.write_bytes(b"")
    Recogniser.open(moved).close()
    damaged.write_bytes(model.read_bytes()[:200])
    Recogniser.open(moved).close()
    model.unlink()
    with pytest.raises(ModelError, match="truncated"):
        Recogniser.open(moved)


def test_another_model_is_refused(
    shop: Path, tmp_path: Path, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    with pytest.raises(IndexModelError, match="use that model"):
        Recogniser.open(shop, other)


def test_an_index_of_another_model_cannot_take_the_place_of_the_first(
    shop: Path, model: Path, make_card: Callable[..., ModelCard], rng: np.random.Generator, picture: Picture
) -> None:
    with Recogniser.open(shop) as recogniser:
        before = recogniser.index
        with pytest.raises(IndexModelError, match="use that model"):
            recogniser.index = Index.create(make_card("b"), model)
        assert recogniser.index is before
        recogniser.index = Index.create(make_card(), model)
        assert recogniser(picture("red", rng)).top == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({"threshold": value}, "threshold must be auto or between -1 and 1") for value in (1.5, -2.0, float("nan"))),
        *(({"margin": value}, "margin must be auto or between 0 and 1") for value in (1.5, -0.1, float("nan"))),
        *(({"top_labels": value}, "number of labels to list must be 1 or more") for value in (0, 2.5, "5", None)),
        *(({"threshold": value}, "threshold must be auto or between -1 and 1, got") for value in ("high", None, [0.5])),
        ({"margin": "wide"}, "margin must be auto or between 0 and 1, got 'wide'"),
    ],
)
def test_a_judgement_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Judgement(**values)


def test_numbers_of_numpy_make_a_judgement_too() -> None:
    judgement = Judgement(threshold=np.float32(0.5), margin=np.float64(0), top_labels=np.int64(3))  # type: ignore[arg-type]
    assert (judgement.threshold, judgement.margin, judgement.top_labels) == (0.5, 0, 3)


def test_what_is_no_path_is_refused_as_an_option(shop: Path) -> None:
    with pytest.raises(OptionError, match="the index must be the path of a file, got None"):
        Recogniser.open(None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="the model must be the path of a file, got 7"):
        Recogniser.open(shop, 7)  # type: ignore[arg-type]


def judged(
    index: Index, *hits: tuple[str, float], threshold: float = 0.5, margin: float | Literal["auto"] = 0.1, top: int = 5
) -> Recognition:
    judgement = Judgement(threshold=threshold, margin=margin, top_labels=top)
    found = [Hit(key, label, f"{key}.jpg", similarity, {"key": key}) for key, (label, similarity) in enumerate(hits, 1)]
    return judgement.judge(found, index, {"search": 1.0})


@pytest.fixture
def empty(model: Path, make_card: Callable[..., ModelCard]) -> Index:
    return Index.create(make_card(), model)


def test_labels_nearer_than_the_margin_are_candidates_with_what_they_have_in_common(empty: Index) -> None:
    answer = judged(empty, ("tea/green/1kg", 0.9), ("tea/green/500g", 0.85), ("tea/black", 0.801), ("tea", 0.79))
    assert (answer.status, answer.label) == ("ambiguous", "tea")
    assert answer.candidates == ("tea/green/1kg", "tea/green/500g", "tea/black")
    assert (answer.similarity, answer.margin) == (0.9, pytest.approx(0.05))
    nearer = judged(empty, ("tea/green/1kg", 0.9), ("tea/green/500g", 0.85), ("tea/black", 0.7))
    assert (nearer.status, nearer.label) == ("ambiguous", "tea/green")
    nothing = judged(empty, ("tea/green", 0.9), ("cup", 0.85))
    assert (nothing.status, nothing.label, nothing.candidates) == ("ambiguous", None, ("tea/green", "cup"))


def test_a_label_that_is_far_enough_ahead_is_a_match(empty: Index) -> None:
    answer = judged(empty, ("tea", 0.9), ("cup", 0.75))
    assert (answer.status, answer.label, answer.candidates) == ("match", "tea", ("tea",))
    assert answer.margin == pytest.approx(0.15)
    assert (answer.hit is not None and answer.hit.view, answer.metadata) == ("1.jpg", {"key": 1})


def test_without_a_margin_nothing_is_ambiguous(empty: Index) -> None:
    answer = judged(empty, ("tea", 0.9), ("cup", 0.9), margin=0)
    assert (answer.status, answer.label, answer.margin) == ("match", "tea", 0)


def test_unknown_comes_before_ambiguous(empty: Index) -> None:
    answer = judged(empty, ("tea", 0.49), ("cup", 0.48))
    assert (answer.status, answer.label, answer.candidates) == ("unknown", None, ())
    assert answer.top == (("tea", 0.49), ("cup", 0.48))
    assert judged(empty, ("tea", 0.5)).status == "match"
    assert judged(empty) == Recognition("unknown", None, 0.0, None, (), {"search": 1.0})


def test_the_label_that_won_a_tie_by_its_other_views_is_not_behind_the_second(empty: Index) -> None:
    answer = judged(empty, ("tea", 0.896), ("cup", 0.9))
    assert (answer.status, answer.label, answer.candidates, answer.margin) == ("ambiguous", None, ("tea", "cup"), 0)
    assert judged(empty, ("tea", 0.896), ("cup", 0.9), margin=0).label == "tea"


def test_the_automatic_margin_is_the_one_of_the_index(empty: Index) -> None:
    empty.set(margin=0.2)
    assert judged(empty, ("tea", 0.9), ("cup", 0.71), margin="auto").status == "ambiguous"
    assert judged(empty, ("tea", 0.9), ("cup", 0.69), margin="auto").status == "match"


def test_as_many_labels_are_listed_as_asked_for(empty: Index) -> None:
    assert judged(empty, ("tea", 0.9), ("cup", 0.7), ("pan", 0.6), top=1).top == (("tea", 0.9),)


def test_what_is_no_picture_is_refused_with_its_shape(shop: Path) -> None:
    with Recogniser.open(shop) as recogniser, pytest.raises(ShapeError, match=r"\(40, 40, 2\)"):
        recogniser(np.zeros((40, 40, 2), np.uint8))
