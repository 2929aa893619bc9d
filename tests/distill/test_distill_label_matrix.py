"""The label matrix: what it holds, how a query is taken out of its own row, and the labels it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepir.distill.label_matrix import batch_labels, common_labels, label_matrix, label_numbers, without_self
from deepir.errors import ShapeError

names = st.lists(st.sampled_from(["louvre", "keble", "kéble", ""]), min_size=1, max_size=9)


@given(queries=names, pictures=names)
def test_it_is_one_where_the_labels_are_equal(queries: list[str], pictures: list[str]) -> None:
    expected = [[float(one == other) for other in pictures] for one in queries]
    assert label_matrix(queries, pictures, drop_self=False).tolist() == expected


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([3, -1, 3]),
        torch.tensor([3, 7, 3], dtype=torch.uint8),
        np.array([3, 7, 3], np.int16),
        [3, 7, 3],
        ["a", "b", "a"],
        np.array(["a", "bcd", "a"]),
        np.array(["a", "bcd", "a"], object),
    ],
    ids=str,
)
def test_numbers_and_names_do_alike(labels: object) -> None:
    matrix = label_matrix(labels, drop_self=False)  # type: ignore[arg-type]
    assert matrix.dtype == torch.float32
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert label_numbers(labels)[0] == label_numbers(labels)[2]  # type: ignore[arg-type]


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_without_self_each_row_keeps_the_others_in_their_order(labels: list[int]) -> None:
    expected = [[float(a == b) for j, b in enumerate(labels) if j != i] for i, a in enumerate(labels)]
    matrix = label_matrix(labels, drop_self=True)
    assert matrix.shape == (len(labels), len(labels) - 1)
    assert matrix.tolist() == expected


def test_scores_lose_the_same_places_as_labels() -> None:
    scores = torch.arange(9.0).view(3, 3)
    assert without_self(scores).tolist() == [[1, 2], [3, 5], [6, 7]]
    assert without_self(scores.T).tolist() == [[3, 6], [1, 7], [2, 5]]


@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 0), (), (2, 2, 2)])
def test_only_a_square_has_a_self_to_take_out(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="square"):
        without_self(torch.zeros(shape))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], r"shape \(0,\)"),
        ([[0, 1], [1, 0]], r"shape \(2, 2\)"),
        (torch.zeros(3, 1).long(), r"shape \(3, 1\)"),
        ("louvre", r"shape \(\)"),
        (torch.tensor(4), r"shape \(\)"),
        ([0.5, 1.0], "got float64"),
        (torch.tensor([0.0, 1.0]), "got float32"),
        (torch.tensor([0.0, 1.0]).bfloat16(), "got bfloat16"),
        ([True, False], "got bool"),
        (torch.tensor([True, False]), "got bool"),
        (["louvre", 3], "whole numbers, or all of them names"),
        (["louvre", None], "got object"),
        ([[0], [1, 2]], "got object"),
        ([b"louvre"], r"got \|S6"),
        ([float("nan")], "got float64"),
    ],
    ids=str,
)
def test_anything_else_is_refused(labels: object, said: str) -> None:
    for ask in (lambda: label_matrix(labels, drop_self=False), lambda: label_numbers(labels)):  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match=said):
            ask()


def test_numbers_cannot_be_compared_with_names() -> None:
    with pytest.raises(ShapeError, match="got one of each"):
        label_matrix([0, 1], ["0", "1"], drop_self=False)
    with pytest.raises(ShapeError, match="got one of each"):
        common_labels(["0"], torch.tensor([0]))


def test_a_query_has_a_place_in_its_row_only_where_queries_are_ranked() -> None:
    with pytest.raises(ShapeError, match="leave labels_n out"):
        label_matrix([0, 1], [0, 1], drop_self=True)


def test_names_of_both_lists_are_numbered_together() -> None:
    queries, pictures = common_labels(["b", "c"], ["c", "a", "b"])
    assert (queries[:, None] == pictures[None]).int().tolist() == [[0, 0, 1], [1, 0, 0]]


def test_the_labels_of_a_batch_must_fit_its_descriptors() -> None:
    assert batch_labels(torch.zeros(2, 3), torch.tensor([4, 5])).tolist() == [4, 5]
    with pytest.raises(ShapeError, match="got 3 labels for 2"):
        batch_labels(torch.zeros(2, 3), torch.tensor([4, 5, 6]))
    with pytest.raises(ShapeError, match=r"got \(2,\)"):
        batch_labels(torch.zeros(2), torch.tensor([4, 5]))
