"""Match, ambiguous or unknown, through an index: branches of labels that look alike, ties, what the commands say."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.image import Image
from deepir.runtime import Index, Judgement, Recogniser, Recognition

Picture = Callable[..., Image]
Texture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]
MakeIndex = Callable[[Mapping[str, list[float]]], Index]

QUERY = np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float32)


def at(similarity: float) -> NDArray[np.float32]:
    """A descriptor that is so similar to QUERY."""
    return np.array([similarity, np.sqrt(1 - similarity**2), 0, 0, 0, 0, 0, 0], np.float32)


@pytest.fixture
def make_index(model: Path, make_card: Callable[..., ModelCard]) -> MakeIndex:
    """From a label to how similar its views are to QUERY."""

    def make(labels: Mapping[str, list[float]]) -> Index:
        index = Index.create(make_card(), model)
        for label, similarities in labels.items():
            index.add(label, np.stack([at(similarity) for similarity in similarities]), [""] * len(similarities))
        return index

    return make


def answer_of(index: Index, **values: Any) -> Recognition:
    judgement = Judgement(**{"threshold": 0.5, "margin": 0.05, **values})
    return judgement.judge(judgement.search(QUERY, index), index, {})


@pytest.mark.parametrize("top_labels", [1, 2, 3, 5, 100])
def test_what_the_candidates_share_does_not_depend_on_how_many_are_listed(
    top_labels: int, make_index: MakeIndex
) -> None:
    sizes = {f"tea/green/{number}g": [0.95 - 0.001 * number] for number in range(7)}
    index = make_index({**sizes, "tea/black": [0.93], "salt": [0.7]})
    answer = answer_of(index, top_labels=top_labels)
    assert (answer.status, answer.label, len(answer.candidates)) == ("ambiguous", "tea", 8)
    assert len(answer.top) == min(top_labels, 9)


def test_the_second_label_is_known_although_only_one_is_listed(make_index: MakeIndex) -> None:
    answer = answer_of(make_index({"tea": [0.9], "salt": [0.7]}), top_labels=1, margin=0)
    assert (len(answer.top), answer.margin) == (1, pytest.approx(0.2))


def test_labels_that_share_nothing_are_not_searched_for_more_of_them(
    make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index({f"thing {number}": [0.95] for number in range(50)})
    asked: list[int] = []
    search_labels = index.search_labels

    def counted(query_1d: NDArray[np.float32], count: int) -> Any:
        asked.append(count)
        return search_labels(query_1d, count)

    monkeypatch.setattr(index, "search_labels", counted)
    answer = answer_of(index, top_labels=4)
    assert (answer.status, answer.label, len(answer.candidates)) == ("ambiguous", None, 4)
    assert asked == [4]


@pytest.mark.parametrize(("second", "status"), [(0.9499, "match"), (0.9501, "ambiguous")])
def test_the_margin_is_where_ambiguous_begins(second: float, status: str, make_index: MakeIndex) -> None:
    assert answer_of(make_index({"tea": [1.0], "salt": [second]})).status == status


def test_a_winner_by_its_other_views_is_no_doubt_where_no_margin_is_asked_for(make_index: MakeIndex) -> None:
    index = make_index({"tea": [0.900, 0.899, 0.898], "salt": [0.903, 0.6, 0.6]})
    answer = answer_of(index, margin=0)
    assert (answer.status, answer.label, answer.candidates, answer.margin) == ("match", "tea", ("tea",), 0)
    assert answer_of(index, margin=0.001).candidates == ("tea", "salt")


def test_a_label_and_the_branch_below_it_have_the_label_in_common(make_index: MakeIndex) -> None:
    answer = answer_of(make_index({"tea": [0.9], "tea/green": [0.89], "salt": [0.3]}))
    assert (answer.status, answer.label) == ("ambiguous", "tea")


def test_an_unknown_thing_has_no_candidates_and_still_what_it_resembles(make_index: MakeIndex) -> None:
    answer = answer_of(make_index({"tea": [0.4], "salt": [0.39]}))
    assert (answer.status, answer.label, answer.candidates) == ("unknown", None, ())
    assert answer.hit is not None
    assert answer.hit.label == "tea"


def test_the_margin_and_the_threshold_of_the_index_count_unless_others_are_given(make_index: MakeIndex) -> None:
    index = make_index({"tea": [0.9], "salt": [0.8]})
    index.set(margin=0.2)
    automatic = Judgement()
    assert automatic.margin_of(index) == 0.2
    assert index.threshold is not None
    assert automatic.threshold_of(index) == index.threshold.value
    assert answer_of(index, margin="auto").status == "ambiguous"
    assert answer_of(index, margin=0.05).status == "match"


@pytest.fixture
def sizes(tmp_path: Path, model: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command) -> Path:
    """An index of a tea in two sizes, which look nearly the same, and of something else; and pictures of each."""
    other = texture(1)
    other[40:80, 60:100] += 10
    plain = np.zeros((120, 160, 3), np.uint8)
    plain[::8] = 255
    pictures = {"tea/green/1kg": texture(1), "tea/green/500g": other, "salt": plain}
    for label, image in pictures.items():
        write_picture(tmp_path / "products" / label / "0.png", image)
    path = tmp_path / "i.usearch"
    words = ("--model", model, "--margin", 0.01, "--metadata", '{"price": 2.49}')
    result = deepir_index("build", path, tmp_path / "products", *words)
    assert result.exit_code == 0, result.stderr
    return path


def test_a_picture_of_one_of_two_sizes_is_of_one_of_them_and_nobody_knows_which(
    sizes: Path, tmp_path: Path, texture: Texture
) -> None:
    with Recogniser.open(sizes, judgement=Judgement(threshold=0.5)) as recogniser:
        answer = recogniser(texture(1))
    assert (answer.status, answer.label) == ("ambiguous", "tea/green")
    assert set(answer.candidates) == {"tea/green/1kg", "tea/green/500g"}
    assert answer.metadata == {"price": 2.49}
    with Recogniser.open(sizes, judgement=Judgement(threshold=0.5, margin=0)) as recogniser:
        assert recogniser(texture(1)).status == "match"


def test_query_says_which_labels_it_may_be_and_what_it_resembles(
    sizes: Path, tmp_path: Path, deepir_index: Command
) -> None:
    picture = tmp_path / "products" / "tea" / "green" / "1kg" / "0.png"
    facts = json.loads(deepir_index("query", sizes, picture, "--threshold", 0.5, "--json").stdout)
    assert (facts["status"], facts["label"]) == ("ambiguous", "tea/green")
    assert sorted(facts["candidates"]) == ["tea/green/1kg", "tea/green/500g"]
    assert (facts["view"], facts["metadata"]) == ("0.png", {"price": 2.49})
    text = deepir_index("query", sizes, picture, "--threshold", 0.5).stdout
    assert text.startswith(
        f"tea/green: {' or '.join(facts['candidates'])}  (similarity 1.000 to 0.png, threshold 0.500"
    )
    certain = json.loads(deepir_index("query", sizes, picture, "--threshold", 0.5, "--margin", 0, "--json").stdout)
    assert (certain["status"], certain["candidates"]) == ("match", [certain["label"]])


def test_an_unknown_thing_is_called_so(
    sizes: Path, tmp_path: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    picture = write_picture(tmp_path / "new.png", texture(5))
    text = deepir_index("query", sizes, picture, "--threshold", 0.99999, "--topk", 1).stdout
    facts = json.loads(deepir_index("query", sizes, picture, "--threshold", 0.99999, "--topk", 1, "--json").stdout)
    assert (facts["status"], facts["label"], facts["candidates"]) == ("unknown", None, [])
    assert text.startswith(f"unknown  (similarity {facts['similarity']:.3f} to 0.png, threshold 1.000")
    assert text.splitlines()[1:] == [f"  {facts['topk'][0][1]:6.3f} {facts['topk'][0][0]}"]


@pytest.mark.parametrize("words", [("--threshold", "much"), ("--margin", "much"), ("--margin", 2), ("--topk", 0)])
def test_values_that_cannot_be_are_refused(
    words: tuple[object, ...], sizes: Path, tmp_path: Path, deepir_index: Command
) -> None:
    result = deepir_index("query", sizes, tmp_path / "products" / "salt" / "0.png", *words)
    assert (result.exit_code, result.stdout) == (2, "")
