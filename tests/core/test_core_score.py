"""Average precision, ranking, precision and recall: goldens of the Oxford protocol, worked by hand and by loops."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from deepir.datasets import Query, RetrievalSet
from deepir.errors import InputError, OptionError, ShapeError
from deepir.score import AP_CONVENTIONS, PRECISION_RANKS, average_precision, rank, score

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


@pytest.mark.parametrize(("convention", "value"), [("trapezoid", 0.655556), ("voc", 0.733333), ("step", 0.7)])
def test_every_convention_gives_its_own_value_for_the_same_hits(convention: str, value: float) -> None:
    assert average_precision(relevance("+--++"), 3, convention=convention) == pytest.approx(value, abs=1e-6)


def test_an_unknown_convention_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match="one of trapezoid, voc, step, got 'interpolated'"):
        score(OXFORD, ONE_QUERY, falling(), convention="interpolated")


@pytest.mark.parametrize("convention", AP_CONVENTIONS)
def test_a_perfect_ranking_scores_one(convention: str) -> None:
    assert average_precision(relevance("+++--"), 3, convention=convention) == 1


@pytest.mark.parametrize("convention", AP_CONVENTIONS)
def test_a_ranking_without_hits_scores_zero(convention: str) -> None:
    assert average_precision(relevance("---"), 2, convention=convention) == 0


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_the_step_convention_is_that_of_scikit_learn(relevant: list[bool]) -> None:
    expected = average_precision_score(relevant, -np.arange(len(relevant)))
    assert average_precision(np.array(relevant), sum(relevant), convention="step") == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any), st.integers(0, 3))
def test_the_interpolated_value_is_the_best_precision_at_every_recall_reached(
    relevant: list[bool], absent: int
) -> None:
    precisions = [sum(relevant[: rank + 1]) / (rank + 1) for rank in range(len(relevant))]
    best = [max(precisions[rank:]) for rank, hit in enumerate(relevant) if hit]
    positives = sum(relevant) + absent
    assert average_precision(np.array(relevant), positives, convention="voc") == pytest.approx(sum(best) / positives)


def test_a_positive_absent_from_the_ranking_costs_its_share() -> None:
    assert average_precision(relevance("+--"), 2) == 0.5


def test_a_query_without_positives_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least one positive"):
        average_precision(relevance("--"), 0)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 3), st.sampled_from(AP_CONVENTIONS))
def test_average_precision_lies_between_zero_and_one(relevant: list[bool], absent: int, convention: str) -> None:
    positives = max(1, sum(relevant) + absent)
    assert 0 <= average_precision(np.array(relevant), positives, convention=convention) <= 1


def test_junk_takes_no_rank() -> None:
    order = rank(0, OXFORD, falling()[:, 0])
    assert [RANKING[row] for row in order] == ["q0", "n0", "p0", "n1", "p1", "n2", "p2", "n3"]


def test_the_querys_own_image_is_ranked_unless_it_is_junk() -> None:
    assert rank(0, retrieval_set("q0", {"p0"}, set()), falling()[:, 0])[0] == 0
    assert 0 not in rank(0, retrieval_set("q0", {"p0"}, {"q0"}), falling()[:, 0])


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


def test_a_query_without_positives_is_refused_by_score_too() -> None:
    with pytest.raises(ShapeError, match="at least one positive"):
        score(retrieval_set("elsewhere", set(), set()), ONE_QUERY, falling())


def test_a_set_without_queries_is_refused() -> None:
    with pytest.raises(ShapeError, match="toy has no queries"):
        score(RetrievalSet("toy", (Path("a"),), ()), np.empty((0, 1), np.float32), falling(1))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["queries", "database", "distractors"])
def test_values_that_are_not_finite_are_refused_with_their_row(side: str, wrong: float) -> None:
    descriptors = {"queries": ONE_QUERY.copy(), "database": falling(), "distractors": falling(3)}
    descriptors[side][-1] = wrong
    with pytest.raises(ShapeError, match=rf"{side}.*: 1 of .* hold NaN or infinity, row"):
        score(OXFORD, descriptors["queries"], descriptors["database"], distractors=[descriptors["distractors"]])


def test_descriptors_of_different_models_are_refused() -> None:
    with pytest.raises(ShapeError, match="queries have 1 values and the database 2"):
        score(OXFORD, ONE_QUERY, np.ones((10, 2), np.float32))


def test_distractors_that_do_not_come_in_chunks_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"the distractors: expected descriptors of shape \(N, D\), got \(1,\)"):
        score(OXFORD, ONE_QUERY, falling(), distractors=falling(3))


def test_a_picture_twice_in_the_database_is_refused() -> None:
    with pytest.raises(InputError, match="toy names b 2 times"):
        retrieval_set("elsewhere", {"b"}, set(), ("a", "b", "b"))


def test_precision_looks_no_further_than_the_last_positive() -> None:
    three = retrieval_set("elsewhere", {"a", "c", "d"}, set(), tuple("abcdefghijkl"))
    scores = score(three, ONE_QUERY, falling(12))
    assert scores.precision_at == {1: 1, 5: 0.75, 10: 0.75}
    assert scores.r_precision == pytest.approx(2 / 3)


def test_a_query_whose_positives_are_all_absent_scores_zero_throughout() -> None:
    scores = score(retrieval_set("elsewhere", {"away"}, set()), ONE_QUERY, falling())
    assert (scores.mean_ap, scores.r_precision) == (0, 0)
    assert set(scores.precision_at.values()) | set(scores.recall_at.values()) == {0}


# whole numbers in every descriptor make similarities exact, and equal ones frequent
def random_task(seed: int) -> tuple[RetrievalSet, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    database = [Path(f"{row}.jpg") for row in range(rng.integers(1, 25))]
    queries = []
    for number in range(rng.integers(1, 4)):
        kinds = rng.choice(["positive", "junk", "both", ""], len(database), p=[0.3, 0.2, 0.05, 0.45])
        positives, junk = (
            frozenset(path for path, kind in zip(database, kinds, strict=True) if kind in {name, "both"})
            for name in ("positive", "junk")
        )
        queries.append(Query(str(number), Path("elsewhere"), positives | {Path("absent")}, junk))
    task = RetrievalSet("random", tuple(database), tuple(queries))
    return task, *(rng.integers(-2, 3, (len(side), 3)).astype(np.float32) for side in (queries, database))


def ranking_by_loops(task: RetrievalSet, query: int, similarity_n: np.ndarray) -> list[bool]:
    order = sorted(range(len(task.database)), key=lambda row: -similarity_n[row])
    paths = [task.database[row] for row in order if task.database[row] not in task.queries[query].junk]
    return [path in task.queries[query].positives for path in paths]


@given(st.integers(0, 1 << 32))
def test_score_equals_the_plain_loops(seed: int) -> None:
    task, queries, database = random_task(seed)
    rankings = [ranking_by_loops(task, query, database @ queries[query]) for query in range(len(queries))]
    scores = score(task, queries, database)
    counts = [len(query.positives) for query in task.queries]
    expected = [average_precision(np.array(row), count) for row, count in zip(rankings, counts, strict=True)]
    assert scores.average_precisions == pytest.approx(expected)
    firsts = [sum(row[:count]) / count for row, count in zip(rankings, counts, strict=True)]
    assert scores.r_precision == pytest.approx(np.mean(firsts))
    for k in PRECISION_RANKS:
        assert scores.recall_at[k] == np.mean([any(row[:k]) for row in rankings])
        # the last True of a ranking ends it
        ends = [len(row) - row[::-1].index(True) if any(row) else 0 for row in rankings]
        shares = [sum(row[:k]) / min(k, end) if end else 0 for row, end in zip(rankings, ends, strict=True)]
        assert scores.precision_at[k] == pytest.approx(np.mean(shares))


@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 9), max_size=4), st.sampled_from(AP_CONVENTIONS))
def test_distractors_score_as_if_they_stood_at_the_end_of_the_database(
    seed: int, chunks: list[int], convention: str
) -> None:
    task, queries, database = random_task(seed)
    rng = np.random.default_rng(seed)
    distractors = [rng.integers(-2, 3, (count, 3)).astype(np.float32) for count in chunks]
    longer = (*task.database, *(Path(f"distractor {number}") for number in range(sum(chunks))))
    appended = RetrievalSet("appended", longer, task.queries)
    expected = score(appended, queries, np.concatenate([database, *distractors]), convention=convention)
    assert score(task, queries, database, convention=convention, distractors=iter(distractors)) == expected


def test_no_more_than_two_chunks_of_distractors_are_held() -> None:
    given_before: list[weakref.ref] = []

    def chunks() -> Iterator[np.ndarray]:
        for _ in range(6):
            # the one before is still the caller's variable
            assert all(chunk() is None for chunk in given_before[:-1])
            chunk = falling(4)
            given_before.append(weakref.ref(chunk))
            yield chunk
            del chunk

    score(OXFORD, ONE_QUERY, falling(), distractors=chunks())
    assert len(given_before) == 6


def test_the_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [random_task(seed) for seed in range(20)]
    whole = [score(*task, distractors=[task[2]]) for task in tasks]
    monkeypatch.setattr("deepir.score._CELLS", 1)
    assert [score(*task, distractors=[task[2]]) for task in tasks] == whole


def test_no_more_similarities_than_the_limit_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def spy(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        held.append(len(queries) * len(rows))
        return queries @ rows.T

    queries = tuple(Query(str(n), Path("elsewhere"), frozenset({Path("p0")}), frozenset()) for n in range(9))
    many = RetrievalSet("toy", tuple(map(Path, RANKING)), queries)
    monkeypatch.setattr("deepir.score.similarities", spy)
    monkeypatch.setattr("deepir.score._CELLS", 40)
    score(many, np.ones((9, 1), np.float32), falling(), distractors=[falling(20)])
    assert held == [40, 40, 10, 40, 40, 40, 40, 20]
