"""Average precision, ranking and recall: goldens of the Oxford protocol, worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.datasets import Query, RetrievalSet
from deepir.errors import ShapeError
from deepir.score import average_precision, rank, score

RANKING = ("q0", "j0", "n0", "p0", "n1", "p1", "j1", "n2", "p2", "n3")


def retrieval_set(image: str, positives: set[str], junk: set[str], database: tuple[str, ...] = RANKING) -> RetrievalSet:
    query = Query("query", Path(image), frozenset(map(Path, positives)), frozenset(map(Path, junk)))
    return RetrievalSet("toy", tuple(map(Path, database)), (query,))


def falling(count: int = len(RANKING)) -> np.ndarray:
    return np.linspace(1, 0, count, dtype=np.float32)[:, None]


ONE_QUERY = np.ones((1, 1), dtype=np.float32)
OXFORD = retrieval_set("elsewhere", {"p0", "p1", "p2", "pX", "q0"}, {"j0", "j1"})


def relevance(text: str) -> np.ndarray:
    return np.array([letter == "+" for letter in text])


def test_average_precision_equals_that_of_the_oxford_program() -> None:
    assert score(OXFORD, ONE_QUERY, falling()).mean_ap == pytest.approx(0.533810, abs=1e-6)


def test_hits_at_one_four_and_five_of_three_give_the_trapezoid_value() -> None:
    assert average_precision(relevance("+--++"), 3) == pytest.approx(0.655556, abs=1e-6)


def test_a_perfect_ranking_scores_one() -> None:
    assert average_precision(relevance("+++--"), 3) == 1


def test_a_ranking_without_hits_scores_zero() -> None:
    assert average_precision(relevance("---"), 2) == 0


def test_a_positive_absent_from_the_ranking_costs_its_share() -> None:
    assert average_precision(relevance("+--"), 2) == 0.5


def test_a_query_without_positives_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least one positive"):
        average_precision(relevance("--"), 0)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 3))
def test_average_precision_lies_between_zero_and_one(relevant: list[bool], absent: int) -> None:
    positives = max(1, sum(relevant) + absent)
    assert 0 <= average_precision(np.array(relevant), positives) <= 1


def test_junk_takes_no_rank() -> None:
    order = rank(0, OXFORD, falling()[:, 0])
    assert [RANKING[row] for row in order] == ["q0", "n0", "p0", "n1", "p1", "n2", "p2", "n3"]


def test_the_querys_own_image_takes_no_rank() -> None:
    own = retrieval_set("q0", {"p0"}, set())
    assert 0 not in rank(0, own, falling()[:, 0])


def test_the_most_similar_comes_first() -> None:
    plain = retrieval_set("elsewhere", {"p0"}, set(), ("a", "b", "p0"))
    assert rank(0, plain, np.array([0.1, -0.5, 0.9], np.float32)).tolist() == [2, 0, 1]


def test_ties_keep_the_order_of_the_database() -> None:
    many = retrieval_set("elsewhere", {"0"}, set(), tuple(map(str, range(200))))
    similarity_n = np.arange(200, dtype=np.float32) % 2
    assert rank(0, many, similarity_n).tolist() == [*range(1, 200, 2), *range(0, 200, 2)]


def test_recall_counts_queries_with_a_positive_among_the_first() -> None:
    late = retrieval_set("elsewhere", {"p1"}, set())
    assert score(late, ONE_QUERY, falling()).recall_at == {1: 0, 5: 0, 10: 1}


def test_the_mean_is_over_queries() -> None:
    first, second = (retrieval_set("elsewhere", {name}, set(), ("a", "b")).queries[0] for name in ("a", "b"))
    both = RetrievalSet("toy", (Path("a"), Path("b")), (first, second))
    scores = score(both, np.ones((2, 1), np.float32), falling(2))
    assert scores.average_precisions == (1, 0.25)
    assert scores.mean_ap == 0.625
    assert scores.recall_at[1] == 0.5


def test_a_wrong_number_of_descriptors_is_refused_with_both_numbers() -> None:
    with pytest.raises(ShapeError, match="toy has 1 queries and 10 database images, got 1 and 9"):
        score(OXFORD, ONE_QUERY, falling(9))
