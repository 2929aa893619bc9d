"""Hard triplets and hard negatives: against plain loops, their schedule, their seed, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.descriptors import normalise
from deepir.distill import hard_negatives
from deepir.distill.mining import HardTripletConfig, HardTriplets, mine_triplets
from deepir.errors import InputError, OptionError, ShapeError

SMALL = HardTripletConfig(candidates=40, hardest=5, refresh=3, triplets=16)
LABELS = np.arange(60) % 12


def unit(seed: int, count: int, dim: int = 6) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def loss(descriptors: np.ndarray, query: int, positive: int, negative: int) -> float:
    q, p, n = descriptors[[query, positive, negative]].astype(np.float64)
    return 0.1 + float(np.square(q - p).sum() - np.square(q - n).sum())


def started(seed: int = 0) -> HardTriplets:
    triplets = HardTriplets(SMALL, LABELS, seed)
    triplets.refresh(unit(1, 60)[triplets.candidates()])
    return triplets


def test_the_schedule_is_the_published_one() -> None:
    config = HardTripletConfig()
    assert (config.candidates, config.hardest, config.refresh, config.triplets) == (5000, 25, 64, 64)
    assert config.margin == 0.1


@given(seed=st.integers(0, 1 << 16), hardest=st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_the_hardest_of_all_triplets_are_found(seed: int, hardest: int) -> None:
    descriptors, labels = unit(seed, 11), np.random.default_rng(seed).integers(4, size=11)
    found = mine_triplets(descriptors, labels, hardest)
    for query in range(11):
        costs = sorted(
            (
                loss(descriptors, query, p, n)
                for p in range(11)
                for n in range(11)
                if p != query and labels[p] == labels[query] != labels[n]
            ),
            reverse=True,
        )
        expected = [cost for cost in costs[:hardest] if cost > 0]
        mined = [loss(descriptors, *row) for row in found[found[:, 0] == query]]
        np.testing.assert_allclose(mined, expected, atol=1e-9)


def test_every_mined_triplet_has_a_loss_and_the_right_labels() -> None:
    descriptors = unit(1, 60)
    triplets, candidates = started(), HardTriplets(SMALL, LABELS, 0).candidates()
    for _ in range(SMALL.refresh):
        rows = triplets.next()
        assert rows.shape == (16, 3)
        assert all(loss(descriptors, *row) > 0 for row in rows)
        assert (LABELS[rows[:, 0]] == LABELS[rows[:, 1]]).all()
        assert (LABELS[rows[:, 0]] != LABELS[rows[:, 2]]).all()
        assert (rows[:, 0] != rows[:, 1]).all()
        assert np.isin(rows, candidates).all()


def test_candidates_are_drawn_anew_at_each_refresh_after_so_many_updates() -> None:
    triplets = HardTriplets(SMALL, LABELS, 0)
    assert triplets.due
    first = triplets.candidates()
    assert len(set(first.tolist())) == 40
    triplets.refresh(unit(1, 60)[first])
    due = []
    for _ in range(3):
        due.append(triplets.due)
        triplets.next()
    assert due == [False] * 3
    assert triplets.due
    second = triplets.candidates()
    assert second.tolist() != first.tolist()
    with pytest.raises(OptionError, match="every 3 updates: call refresh"):
        triplets.next()
    triplets.refresh(unit(1, 60)[second])
    assert triplets.candidates().tolist() not in (first.tolist(), second.tolist())


def test_a_seed_gives_the_same_triplets_and_another_seed_others() -> None:
    courses = [started(seed).next().tolist() for seed in (4, 4, 5)]
    assert courses[0] == courses[1] != courses[2]


def test_updates_of_one_refresh_differ() -> None:
    triplets = started()
    assert triplets.next().tolist() != triplets.next().tolist()


def test_queries_are_drawn_evenly_whatever_their_number_of_triplets() -> None:
    config = HardTripletConfig(candidates=6, hardest=25, refresh=1, triplets=3000)
    triplets = HardTriplets(config, [0, 0, 0, 0, 1, 1], 0)
    # the pictures of label 0 have three positives each, those of label 1 a single one
    found = triplets.refresh(np.ones((6, 2), np.float32) / np.sqrt(2))
    rows = triplets.next()
    assert found == 6
    assert np.bincount(rows[:, 0], minlength=6).min() > 400
    assert (rows[:, 0] != rows[:, 1]).all()


def test_a_query_has_no_more_triplets_than_its_hardest() -> None:
    config = HardTripletConfig(candidates=60, hardest=1, refresh=1, triplets=300)
    triplets = HardTriplets(config, LABELS, 0)
    triplets.refresh(unit(1, 60))
    rows = triplets.next()
    assert len(np.unique(rows, axis=0)) == len(np.unique(rows[:, 0])) > 30


def test_a_saved_state_goes_on_with_the_same_triplets() -> None:
    triplets = started()
    triplets.next()
    other = HardTriplets(SMALL, LABELS, 0)
    other.load_state_dict(triplets.state_dict())
    for _ in range(2):
        assert not other.due
        assert triplets.next().tolist() == other.next().tolist()
    assert triplets.due
    assert other.due
    assert triplets.candidates().tolist() == other.candidates().tolist()


def test_the_state_of_other_pictures_is_refused() -> None:
    with pytest.raises(InputError, match="only 4"):
        HardTriplets(SMALL, [0, 0, 1, 1], 0).load_state_dict(started().state_dict())


def test_when_all_keep_the_margin_there_is_nothing_to_mine() -> None:
    triplets = HardTriplets(SMALL, [0, 0, 1, 1], 0)
    assert triplets.refresh(np.float32([[1, 0], [1, 0], [0, 1], [0, 1]])) == 0
    assert triplets.next().shape == (0, 3)


def test_names_are_labels_too() -> None:
    named = HardTriplets(SMALL, [f"label {label:02}" for label in LABELS], 0)
    named.refresh(unit(1, 60)[named.candidates()])
    assert named.next().tolist() == started().next().tolist()


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [0]])
def test_labels_without_a_triplet_are_refused(labels: list[int]) -> None:
    with pytest.raises(InputError, match="two pictures and a second label"):
        HardTriplets(SMALL, labels, 0)


def test_descriptors_that_do_not_fit_the_candidates_are_refused() -> None:
    triplets = HardTriplets(SMALL, LABELS, 0)
    with pytest.raises(ShapeError, match=r"each of 40 pictures.*\(60, 6\)"):
        triplets.refresh(unit(1, 60))
    with pytest.raises(ShapeError, match="NaN or infinity"):
        triplets.refresh(np.full((40, 6), np.nan, np.float32))
    with pytest.raises(ShapeError, match="each of 3 pictures"):
        mine_triplets(unit(1, 4), [0, 0, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"candidates": 2},
        {"candidates": 0},
        {"hardest": 0},
        {"refresh": 0},
        {"triplets": -1},
        {"margin": 0.0},
        {"margin": float("nan")},
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="got"):
        HardTripletConfig(**options)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(OptionError, match="got -1"):
        HardTriplets(SMALL, LABELS, -1)


@given(seed=st.integers(0, 1 << 16), count=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_hard_negatives_are_those_of_a_walk_down_the_ranking(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    queries, pool = unit(seed, 3), unit(seed + 1, 30)
    clusters, own = np.concatenate([np.arange(6), rng.integers(6, size=24)]), rng.integers(8, size=3)
    found = hard_negatives.mine(queries, pool, clusters, own, count)
    for query in range(3):
        walked: list[int] = []
        for picture in np.argsort(-(queries @ pool.T)[query]):
            taken = {clusters[one] for one in walked} | {own[query]}
            if clusters[picture] not in taken and len(walked) < count:
                walked.append(int(picture))
        assert found[query].tolist() == walked


def test_more_queries_than_fit_at_once_are_mined_alike() -> None:
    queries, pool, clusters = unit(1, 150), unit(2, 40), np.arange(40) % 10
    own = np.arange(150) % 10
    together = hard_negatives.mine(queries, pool, clusters, own, 3)
    alone = hard_negatives.mine(queries[149:], pool, clusters, own[149:], 3)
    assert together.shape == (150, 3)
    assert together[149].tolist() == alone[0].tolist()


def test_a_pool_of_other_sets_is_named() -> None:
    pool = np.float32([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1]])
    found = hard_negatives.mine(pool[:1], pool, ["a/x", "b/x", "b/x", "b/y"], ["a/x"], 2)
    assert found.tolist() == [[1, 3]]


def test_a_pool_with_too_few_clusters_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 negatives.*only 1 other clusters"):
        hard_negatives.mine(unit(1, 1), unit(2, 4), [0, 0, 1, 1], [0], 2)
    with pytest.raises(InputError, match=r"3 negatives.*only 2 other"):
        hard_negatives.mine(unit(1, 1), unit(2, 4), [0, 0, 1, 1], [7], 3)


@pytest.mark.parametrize(
    ("queries", "pool", "said"),
    [
        (unit(1, 2), unit(2, 4), "each query"),
        (unit(1, 1), unit(2, 3), "each picture of the pool"),
        (unit(1, 1), unit(2, 4, 5), "6 values and the pool of 5"),
        (np.full((1, 6), np.nan), unit(2, 4), "of a query is NaN"),
        (unit(1, 1)[0], unit(2, 4), "each query"),
    ],
)
def test_descriptors_that_do_not_belong_together_are_refused(queries: np.ndarray, pool: np.ndarray, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        hard_negatives.mine(queries, pool, [0, 1, 2, 3], [0], 1)


def test_no_negative_at_all_is_refused() -> None:
    with pytest.raises(OptionError, match="got 0"):
        hard_negatives.mine(unit(1, 1), unit(2, 4), [0, 1, 2, 3], [0], 0)
