"""AQE, DBE and alpha expansion: golden values, plain loops, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.descriptors import normalise
from deepir.errors import OptionError, ShapeError
from deepir.expansion import Expansion, alpha_expand, expand, expand_database, expand_queries, parse_expansion

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())


def toy(count: int, dim: int = 4) -> np.ndarray:
    """The vectors of the golden file: each by a formula, so that no random generator is part of it."""
    i, j = np.arange(count)[:, None], np.arange(dim)[None]
    rows = np.sin(1 + 1.7 * i * (j + 1) + 0.3 * j) + 0.1 * np.cos(3.1 * i - j)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_descriptors(seed: int, count: int, dim: int = 5) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


DATABASE, QUERIES = toy(7), toy(9)[7:]


def test_the_toy_vectors_are_those_of_the_golden_file() -> None:
    np.testing.assert_allclose(toy(6), GOLDEN["toy_X"], atol=1e-7)


def test_database_expansion_weighs_its_neighbours_by_falling_steps() -> None:
    # four unit axes and a row near the first: the similarities to row 0 fall in a known order
    database = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.5, 0, 1, 0], [0.2, 0, 0, 1]], np.float32)
    weights = np.array(GOLDEN["dbe_k3_weights"])
    np.testing.assert_allclose(expand_database(database, 3)[0], weights @ database / weights.sum(), atol=1e-7)


def test_database_expansion_equals_the_golden_row_and_is_not_normalised() -> None:
    expanded = expand_database(DATABASE, 3)
    np.testing.assert_allclose(expanded[0], GOLDEN["dbe_k3_row0"], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expanded, axis=1), GOLDEN["dbe_row_norms"], atol=1e-6)


def test_the_database_is_expanded_before_the_queries_search_it() -> None:
    queries, database = expand(QUERIES, DATABASE, queries=Expansion("average", 2), database=Expansion("average", 3))
    np.testing.assert_allclose(queries @ database.T, GOLDEN["aqe_k2_after_dbe_sim"], atol=1e-6)


def test_the_queries_are_not_normalised_by_their_expansion() -> None:
    nearest = DATABASE[np.argsort(-(DATABASE @ QUERIES[0]))[:2]]
    np.testing.assert_allclose(expand_queries(QUERIES, DATABASE, 2)[0], (QUERIES[0] + nearest.sum(0)) / 3, atol=1e-6)


def test_without_expansions_nothing_changes() -> None:
    queries, database = expand(QUERIES, DATABASE)
    assert queries is QUERIES
    assert database is DATABASE


@given(st.integers(0, 999), st.integers(2, 12), st.integers(1, 11), st.floats(0, 5))
def test_alpha_expansion_equals_the_plain_loops(seed: int, count: int, k: int, alpha: float) -> None:
    database = np.abs(random_descriptors(seed, count))
    k = min(k, count - 1)
    expected = []
    for row, descriptor in enumerate(database):
        similarity = database @ descriptor
        others = sorted((other for other in range(count) if other != row), key=lambda other: -similarity[other])[:k]
        expanded = np.mean([descriptor, *(database[other] * similarity[other] ** alpha for other in others)], axis=0)
        expected.append(expanded / np.linalg.norm(expanded))
    np.testing.assert_allclose(alpha_expand(database, database, k, alpha, own_rows=True), expected, atol=1e-5)


def test_rows_of_negative_similarity_weigh_nothing_in_alpha_expansion() -> None:
    query, database = np.array([[1, 0]], np.float32), np.array([[-1, 0], [0.6, 0.8]], np.float32)
    only = alpha_expand(query, database[1:], 1, 2.5)
    np.testing.assert_allclose(alpha_expand(query, database, 2, 2.5), only, atol=1e-7)


def test_alpha_zero_is_the_plain_mean_of_length_one() -> None:
    database = np.abs(DATABASE)
    expected = normalise(expand_queries(np.abs(QUERIES), database, 3))
    np.testing.assert_allclose(alpha_expand(np.abs(QUERIES), database, 3, 0), expected, atol=1e-6)


def test_equal_rows_keep_the_order_of_the_database() -> None:
    database = np.array([[0.6, 0.8], [1, 0.5], [1, -0.5], [1, 0.25]], np.float32)
    expanded = expand_queries(np.array([[1, 0]], np.float32), database, 2)
    np.testing.assert_allclose(expanded, [[1, 0]], atol=1e-7)


def test_a_row_is_its_own_first_neighbour_even_when_longer_rows_are_nearer() -> None:
    database = np.array([[1, 0], [3, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(expand_database(database, 1)[0], [2, 0])


@pytest.mark.parametrize("count", [1, 3, 300])
def test_the_size_of_the_blocks_changes_nothing(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    database = random_descriptors(count, 300)
    whole = expand_database(database, 5), alpha_expand(database[:count], database, 5, 3)
    monkeypatch.setattr("deepir.expansion._CELLS", 900)
    np.testing.assert_allclose(expand_database(database, 5), whole[0], atol=1e-6)
    np.testing.assert_allclose(alpha_expand(database[:count], database, 5, 3), whole[1], atol=1e-6)


def test_no_more_similarities_than_the_limit_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepir import expansion

    held = []

    def spy(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
        held.append(len(queries) * len(database))
        return queries @ database.T

    monkeypatch.setattr(expansion, "similarities", spy)
    monkeypatch.setattr(expansion, "_CELLS", 1000)
    expand_database(random_descriptors(0, 100), 3)
    assert max(held) == 1000
    assert sum(held) == 100 * 100


def test_no_queries_give_no_queries() -> None:
    assert expand_queries(np.empty((0, 4), np.float32), DATABASE, 2).shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: expand_database(DATABASE, 0), "1 to 6 neighbours from this database, got 0"),
        (lambda: expand_database(DATABASE, 7), "1 to 6 neighbours from this database, got 7"),
        (lambda: expand_queries(QUERIES, DATABASE, 0), "1 to 7 neighbours from this database, got 0"),
        (lambda: expand_queries(QUERIES, DATABASE, 8), "1 to 7 neighbours from this database, got 8"),
        (lambda: alpha_expand(QUERIES, DATABASE, -1, 3), "1 to 7 neighbours from this database, got -1"),
        (lambda: alpha_expand(DATABASE, DATABASE, 7, 3, own_rows=True), "1 to 6 neighbours .* got 7"),
        (lambda: alpha_expand(QUERIES, DATABASE, 1, -0.5), "alpha of an expansion is 0 or more, got -0.5"),
        (lambda: alpha_expand(QUERIES, DATABASE, 1, float("nan")), "alpha of an expansion is 0 or more, got nan"),
        (lambda: alpha_expand(QUERIES, DATABASE, 1, float("inf")), "alpha of an expansion is 0 or more, got inf"),
        (lambda: expand_queries(QUERIES, DATABASE[:0], 1), "1 to 0 neighbours"),
        (lambda: Expansion("mean", 1), "average with k, or alpha with k and alpha; got 'mean'"),
        (lambda: Expansion("average", 1, 2.0), "average with k, or alpha"),
        (lambda: Expansion("alpha", 1), "average with k, or alpha"),
    ],
)
def test_what_cannot_be_expanded_is_refused_with_the_value(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        call()


@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_refused(side: int) -> None:
    sides = [QUERIES.copy(), DATABASE.copy()]
    sides[side][1, 2] = np.nan
    with pytest.raises(ShapeError, match=r"1 of \d descriptors hold NaN or infinity, row 1 first"):
        expand_queries(*sides, 1)


def test_descriptors_of_different_models_are_refused() -> None:
    with pytest.raises(ShapeError, match="queries have 3 values and the database 4"):
        expand_queries(QUERIES[:, :3], DATABASE, 1)


@pytest.mark.parametrize(
    ("text", "expansion"),
    [
        ("1", Expansion("average", 1)),
        ("aqe:1", Expansion("average", 1)),
        ("dbe:20", Expansion("average", 20)),
        (" alpha:10,3 ", Expansion("alpha", 10, 3.0)),
        ("alpha:10,0.5", Expansion("alpha", 10, 0.5)),
    ],
)
def test_an_expansion_is_read_from_text(text: str, expansion: Expansion) -> None:
    assert parse_expansion(text) == expansion


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "-1", "aqe:", "alpha:10", "alpha:10,", "alpha:10,1.2.3", "alpha:10,-1"]
)
def test_text_that_names_no_expansion_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected an expansion such as 10 or alpha:10,3"):
        parse_expansion(text)


def test_no_neighbour_at_all_is_refused() -> None:
    with pytest.raises(OptionError, match="1 neighbour or more, got 0"):
        parse_expansion("0")


@pytest.mark.parametrize(("text", "words"), [("aqe:2", "k 2"), ("alpha:10,3", "k 10, alpha 3")])
def test_an_expansion_says_what_it_is(text: str, words: str) -> None:
    assert str(parse_expansion(text)) == words
