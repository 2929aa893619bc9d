"""The JSON object of an answer: what the owner of the index stored, beside the label that it belongs to."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from deepir.runtime.decide import Decision
from deepir.runtime.label_search import Hit
from deepir.runtime.result import Result

STORED = {"price": 2.49, "thumbnail": "0f3a.jpg"}


@pytest.fixture
def answer(make_answer: Callable[..., Result]) -> Result:
    """A match whose view has metadata and a small copy."""
    alone = make_answer(label="red")
    hit = Hit(1, "red", "1.png", 0.7, STORED)
    return replace(alone, recognition=replace(alone.recognition, hit=hit))


def decided(answer: Result, label: str | None, hit: Hit | None = None) -> Mapping[str, Any]:
    status = "unknown" if label is None else "match"
    return replace(answer, decision=Decision(status, label, 0.7, 3, 5, hit)).record()


def test_the_name_of_the_small_copy_is_no_metadata_of_the_owner(answer: Result) -> None:
    assert answer.record()["metadata"] == {"price": 2.49}
    assert answer.recognition.metadata == {"price": 2.49}


def test_a_view_with_nothing_but_a_small_copy_has_no_metadata(answer: Result) -> None:
    hit = Hit(1, "red", "1.png", 0.7, {"thumbnail": "0f3a.jpg"})
    assert "metadata" not in replace(answer, recognition=replace(answer.recognition, hit=hit)).record()


def test_a_vote_for_the_label_of_the_view_keeps_its_metadata(answer: Result) -> None:
    assert decided(answer, "red")["metadata"] == {"price": 2.49}


@pytest.mark.parametrize("label", ["blue", None])
def test_a_vote_for_another_label_does_not_take_the_metadata_of_the_view(answer: Result, label: str | None) -> None:
    assert "metadata" not in decided(answer, label)


def test_a_place_has_the_metadata_of_its_own_view(answer: Result) -> None:
    place = Hit(7, "red", "7.png", 0.8, {"pose": [1, 2, 0], "thumbnail": "77.jpg"})
    assert decided(answer, "red", place)["metadata"] == {"pose": [1, 2, 0]}
