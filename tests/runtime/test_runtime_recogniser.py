"""Image to label, with the model that the index names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepir.card import ModelCard
from deepir.errors import IndexModelError, InputError, OptionError, ShapeError
from deepir.image import Image
from deepir.runtime import Index, Recogniser

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
    with Recogniser.open(shop, top_labels=3) as recogniser:
        top = recogniser(picture("blue", rng)).top
    assert len({label for label, _ in top}) == 3
    assert [similarity for _, similarity in top] == sorted((similarity for _, similarity in top), reverse=True)


def test_below_the_threshold_it_is_unknown(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    with Recogniser.open(shop, threshold=1.0) as recogniser:
        answer = recogniser(picture("red", rng))
    assert (answer.status, answer.label) == ("unknown", None)
    assert answer.top[0][0] == "red"


def test_the_automatic_threshold_is_the_one_of_the_index(shop: Path) -> None:
    threshold = Index.open(shop).threshold
    assert threshold is not None
    with Recogniser.open(shop) as recogniser:
        assert recogniser.threshold == threshold.value


def test_with_one_label_all_is_a_match_without_a_margin(shop: Path, rng: np.random.Generator, picture: Picture) -> None:
    index = Index.open(shop)
    for colour in ("green", "blue", "yellow"):
        index.remove(colour)
    index.save(shop)
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
    with Recogniser.open(shop, threshold=-1.0) as recogniser:
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


def test_another_model_is_refused(
    shop: Path, tmp_path: Path, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    with pytest.raises(IndexModelError, match="use that model"):
        Recogniser.open(shop, other)


@pytest.mark.parametrize("threshold", [1.5, -2.0, float("nan")])
def test_a_threshold_that_is_no_similarity_is_refused(shop: Path, threshold: float) -> None:
    with pytest.raises(OptionError, match="between -1 and 1"):
        Recogniser.open(shop, threshold=threshold)


def test_a_grey_image_is_refused_with_its_shape(shop: Path) -> None:
    with Recogniser.open(shop) as recogniser, pytest.raises(ShapeError, match=r"\(40, 40\)"):
        recogniser(np.zeros((40, 40), np.uint8))
