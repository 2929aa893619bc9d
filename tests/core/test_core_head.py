"""The description of a head: what can be, and the names of poolings and stages."""

import pytest

from deepir.errors import SpecError
from deepir.head import Head, parse_pooling, parse_stages


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pooling": "rmac"}, "pooling must be one of max, mean, gem, got 'rmac'"),
        ({"grid": "cells"}, "grid must be one of"),
        ({"combine": "mean"}, "combine must be one of sum, max"),
        ({"levels": -1}, "levels .* got -1"),
        ({"levels": 9}, "levels .* got 9"),
        ({"levels": True}, "levels .* got True"),
        ({"fusion": "concat"}, "a fusion needs one to 3 stages"),
        ({"middle": (3,)}, "none takes none"),
        ({"fusion": "concat", "middle": (3, 2, 1, 0)}, "one to 3 stages"),
        ({"fusion": "pca-concat-pca", "middle": (3, 2)}, "takes one middle stage"),
        ({"normalise_regions": False}, "levels above 0 need them normalised"),
    ],
)
def test_a_head_that_cannot_be_is_refused_with_the_value(changes: dict, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        Head(**changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rmac", ("max", 2)), ("r-gem", ("gem", 2)), ("r-spoc", ("mean", 2)), ("mac", ("max", 0)), ("gem", ("gem", 0))],
)
def test_a_pooling_is_named_as_in_the_literature(name: str, expected: tuple[str, int]) -> None:
    assert parse_pooling(name, 2) == expected


def test_another_pooling_is_refused_with_those_there_are() -> None:
    with pytest.raises(SpecError, match="rmac, r-spoc, r-gem, mac, spoc, gem, got 'netvlad'"):
        parse_pooling("netvlad", 2)


def test_stages_are_numbers_in_their_order() -> None:
    assert (parse_stages("3, 2"), parse_stages(None), parse_stages("")) == ((3, 2), (), ())


def test_stages_of_another_form_are_refused() -> None:
    with pytest.raises(SpecError, match="got '3,res4'"):
        parse_stages("3,res4")
