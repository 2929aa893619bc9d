"""Clusters against the definition of average linkage, against scipy, and whatever order the rows come in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import deepir.runtime.clusters as module
from deepir.errors import OptionError, ShapeError
from deepir.runtime.clusters import find_clusters

Rows = NDArray[np.float32]
UnitRows = Callable[..., Rows]


def plain_clusters(rows_nd: Rows, similarity: float) -> set[frozenset[int]]:
    """Average linkage as it is defined: the nearest two clusters are joined, again and again."""
    similarity_nn = rows_nd.astype(np.float64) @ rows_nd.T.astype(np.float64)
    clusters = [[row] for row in range(len(rows_nd))]
    while len(clusters) > 1:
        pairs = [
            (float(np.mean([similarity_nn[i, j] for i in one for j in other])), a, b)
            for b, other in enumerate(clusters)
            for a, one in enumerate(clusters[:b])
        ]
        best, a, b = max(pairs)
        if best < similarity:
            break
        clusters[a] += clusters.pop(b)
    return {frozenset(cluster) for cluster in clusters}


def around(rng: np.random.Generator, centres: int, count: int, noise: float, dim: int = 16) -> Rows:
    """`count` rows of length 1 around each of a few centres, mixed."""
    centre_cd = rng.normal(size=(centres, dim))
    rows_nd = np.repeat(centre_cd, count, axis=0) + noise * rng.normal(size=(centres * count, dim))
    rows_nd = rng.permutation(rows_nd)
    return (rows_nd / np.linalg.norm(rows_nd, axis=1, keepdims=True)).astype(np.float32)


def as_sets(rows_nd: Rows, similarity: float) -> set[frozenset[int]]:
    return {frozenset(cluster.rows) for cluster in find_clusters(rows_nd, similarity)}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0.1, 2), similarity=st.floats(-1, 1))
def test_the_clusters_are_those_of_average_linkage(seed: int, noise: float, similarity: float) -> None:
    rows_nd = around(np.random.default_rng(seed), 3, 5, noise)
    assert as_sets(rows_nd, similarity) == plain_clusters(rows_nd, similarity)


@pytest.mark.parametrize("similarity", [-0.5, 0.05, 0.2, 0.5, 0.85])
def test_scipy_finds_the_same_clusters(similarity: float, rng: np.random.Generator) -> None:
    hierarchy: Any = pytest.importorskip("scipy.cluster.hierarchy")
    rows_nd = around(rng, 30, 12, 0.6)
    exact_nd = rows_nd.astype(np.float64)
    apart = 1 - (exact_nd @ exact_nd.T)[np.triu_indices(len(rows_nd), 1)]
    numbers = hierarchy.fcluster(hierarchy.linkage(apart, "average"), 1 - similarity, "distance")
    expected = {frozenset(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)}
    assert as_sets(rows_nd, similarity) == expected


def test_pictures_of_one_thing_come_together(rng: np.random.Generator, unit_rows: UnitRows) -> None:
    centre_cd = unit_rows(rng, 4, 64)
    labels = rng.integers(4, size=80)
    rows_nd = centre_cd[labels] + 0.05 * rng.normal(size=(80, 64))
    rows_nd = (rows_nd / np.linalg.norm(rows_nd, axis=1, keepdims=True)).astype(np.float32)
    assert as_sets(rows_nd, 0.6) == {frozenset(np.flatnonzero(labels == label).tolist()) for label in range(4)}


def test_a_chain_of_neighbours_is_not_one_cluster() -> None:
    # each is within 0.9 of the next, the ends are opposite
    angles = np.linspace(0, np.pi, 13)
    rows_nd = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    clusters = find_clusters(rows_nd, 0.9)
    assert len(clusters) > 2
    for cluster in clusters:
        assert (rows_nd[list(cluster.rows)] @ rows_nd[list(cluster.rows)].T).mean() >= 0.9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), similarity=st.floats(-1, 1))
def test_the_order_of_the_rows_makes_no_difference_even_with_ties(seed: int, similarity: float) -> None:
    rng = np.random.default_rng(seed)
    # few directions, so that similarities tie and rows repeat
    rows_nd = rng.choice(np.array([-1, 0, 1], np.float32), (20, 3)) + np.float32(0.125)
    rows_nd = (rows_nd / np.linalg.norm(rows_nd, axis=1, keepdims=True)).astype(np.float32)
    order = rng.permutation(20)
    moved = {frozenset(order[list(cluster)].tolist()) for cluster in as_sets(rows_nd[order], similarity)}
    assert moved == as_sets(rows_nd, similarity)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), similarity=st.floats(-1, 1))
def test_every_row_is_in_one_cluster_and_the_largest_come_first(seed: int, similarity: float) -> None:
    clusters = find_clusters(around(np.random.default_rng(seed), 4, 6, 1), similarity)
    assert sorted(row for cluster in clusters for row in cluster.rows) == list(range(24))
    order = [(-len(cluster.rows), min(cluster.rows)) for cluster in clusters]
    assert order == sorted(order)


def test_the_medoid_is_the_row_of_the_highest_mean_similarity(rng: np.random.Generator) -> None:
    rows_nd = around(rng, 1, 20, 0.5)
    (cluster,) = find_clusters(rows_nd, 0.0)
    mean_n = (rows_nd @ rows_nd.T).mean(axis=1)
    assert cluster.medoid == int(mean_n.argmax())
    assert list(cluster.rows) == np.argsort(-mean_n).tolist()


@pytest.mark.parametrize("similarity", [0.5, 1.0])
def test_rows_of_one_descriptor_are_never_parted(
    similarity: float, rng: np.random.Generator, unit_rows: UnitRows
) -> None:
    rows_nd = unit_rows(rng, 50, 512)
    doubled = [cluster.rows for cluster in find_clusters(np.concatenate([rows_nd, rows_nd[1:]]), similarity)]
    assert doubled == [*((row, row + 49) for row in range(1, 50)), (0,)]


def test_a_lowest_similarity_joins_everything(rng: np.random.Generator, unit_rows: UnitRows) -> None:
    assert [len(cluster.rows) for cluster in find_clusters(unit_rows(rng, 30), -1.0)] == [30]


def test_none_and_one(rng: np.random.Generator, unit_rows: UnitRows) -> None:
    assert find_clusters(unit_rows(rng, 0), 0.5) == []
    assert [cluster.rows for cluster in find_clusters(unit_rows(rng, 1), 0.5)] == [(0,)]


def test_the_chunks_make_no_difference(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_nd = around(rng, 6, 10, 0.8)
    whole = find_clusters(rows_nd, 0.4)
    monkeypatch.setattr(module, "_CELLS", 150)
    assert find_clusters(rows_nd, 0.4) == whole


def test_the_descriptors_given_stay_as_they_are(rng: np.random.Generator, unit_rows: UnitRows) -> None:
    rows_nd = unit_rows(rng, 10)
    rows_nd.setflags(write=False)
    assert find_clusters(rows_nd, 0.3)


@pytest.mark.parametrize("similarity", [1.1, -1.1, float("nan")])
def test_a_similarity_out_of_range_is_refused(similarity: float, rng: np.random.Generator, unit_rows: UnitRows) -> None:
    with pytest.raises(OptionError, match="from -1 to 1"):
        find_clusters(unit_rows(rng, 3), similarity)


@pytest.mark.parametrize(("factor", "words"), [(0.0, "length 0"), (2.0, "length 2"), (np.nan, "NaN")])
def test_what_has_not_length_one_is_refused(
    factor: float, words: str, rng: np.random.Generator, unit_rows: UnitRows
) -> None:
    rows_nd = unit_rows(rng, 3)
    rows_nd[1] *= factor
    with pytest.raises(ShapeError, match=words):
        find_clusters(rows_nd, 0.5)


def test_another_shape_and_too_many_rows_are_refused(
    rng: np.random.Generator, unit_rows: UnitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ShapeError, match=r"\(N, D\)"):
        find_clusters(unit_rows(rng, 1)[0], 0.5)
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    with pytest.raises(ShapeError, match="give 2 or fewer"):
        find_clusters(unit_rows(rng, 3), 0.5)
