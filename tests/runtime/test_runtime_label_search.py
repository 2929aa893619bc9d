"""From views to labels, against comparing every view by hand."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.runtime.index import Index
from deepir.runtime.label_search import TIE, Hit, best_of_labels, settle_ties

Rows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]

Views = Mapping[str, Sequence[float]]
"""The similarities of the views of each label."""

steps = st.sampled_from([0.0, 0.0005, 0.001, 0.0041, 0.0061, 0.02, 0.3])
"""Between similarities, so that ties are frequent and none is exactly TIE wide."""


@st.composite
def views_of_labels(draw: st.DrawFn) -> Views:
    count = draw(st.integers(1, 25))
    similarity_n = 0.9 - np.cumsum(draw(st.lists(steps, min_size=count, max_size=count)))
    views = defaultdict[str, list[float]](list)
    for similarity in similarity_n.tolist():
        views[draw(st.sampled_from("abcdefg"))].append(similarity)
    return views


def all_hits(views: Views) -> list[Hit]:
    """A hit for each view, best first, and by label where equal."""
    pairs = sorted((-similarity, label) for label, some in views.items() for similarity in some)
    return [Hit(key, label, f"{key}.jpg", -similarity) for key, (similarity, label) in enumerate(pairs, 1)]


def by_hand(views: Views, count: int) -> list[str]:
    """Labels by their best view; those within TIE of the first of them by the mean of their best m <= 3 views."""
    best = {label: max(some) for label, some in views.items()}
    rest = sorted(best, key=lambda label: (-best[label], label))[:count]
    order: list[str] = []
    while rest:
        tied = [label for label in rest if best[rest[0]] - best[label] <= TIE]
        rest = rest[len(tied) :]
        m = min(3, *(len(views[label]) for label in tied)) if len(tied) > 1 else 1
        means = {label: round(sum(sorted(views[label])[-m:]) / m, 6) for label in tied}
        order += sorted(tied, key=lambda label: (-means[label], tied.index(label)))
    return order


@settings(max_examples=300, deadline=None)
@given(views=views_of_labels(), count=st.integers(1, 9))
def test_the_best_view_of_each_label_comes_however_many_views_the_first_labels_have(views: Views, count: int) -> None:
    hits = all_hits(views)
    found = best_of_labels(lambda wanted: hits[:wanted], len(hits), count)
    first = {label: next(hit for hit in hits if hit.label == label) for label in views}
    assert found == sorted(first.values(), key=lambda hit: hit.key)[:count]


@settings(max_examples=300, deadline=None)
@given(views=views_of_labels())
def test_labels_that_are_as_good_as_equal_are_ordered_by_the_mean_of_their_best_views(views: Views) -> None:
    hits = all_hits(views)
    best = best_of_labels(lambda wanted: hits[:wanted], len(hits), len(views))
    settled = settle_ties(best, lambda label: np.array(views[label], np.float64))
    assert [hit.label for hit in settled] == by_hand(views, len(views))
    assert sorted(hit.key for hit in settled) == sorted(hit.key for hit in best)


@pytest.mark.parametrize(
    ("views", "order"),
    [
        ({"a": [0.9, 0.1], "b": [0.899, 0.8]}, "ba"),
        ({"a": [0.9, 0.1], "b": [0.899]}, "ab"),
        ({"a": [0.9, 0.8, 0.7, 0.1], "b": [0.899, 0.8, 0.7, 0.6]}, "ab"),
        ({"a": [0.9, 0.7, 0.7], "b": [0.899, 0.7, 0.705]}, "ba"),
        ({"a": [0.9, 0.1], "b": [0.894, 0.8]}, "ab"),
        ({"a": [0.9, 0.1], "b": [0.896, 0.2], "c": [0.8905, 0.8]}, "bac"),
        ({"a": [0.9, 0.1], "b": [0.8, 0.1], "c": [0.799, 0.2]}, "acb"),
    ],
    ids=[
        "the second view decides",
        "a label with one view is compared by one",
        "a fourth view counts nothing",
        "the third view decides",
        "too far behind to be a tie",
        "ties do not chain",
        "a tie for the second place",
    ],
)
def test_ties_are_settled_as_by_hand(views: Views, order: str) -> None:
    best = best_of_labels(lambda wanted: all_hits(views)[:wanted], len(all_hits(views)), len(views))
    settled = settle_ties(best, lambda label: np.array(views[label], np.float32))
    assert "".join(hit.label for hit in settled) == order == "".join(by_hand(views, len(views)))


def test_the_views_are_looked_at_only_where_labels_tie() -> None:
    views = {"a": [0.9], "b": [0.8], "c": [0.7999], "d": [0.5]}
    looked_at: list[str] = []

    def similarities_of(label: str) -> NDArray[np.float32]:
        looked_at.append(label)
        return np.array(views[label], np.float32)

    settle_ties(all_hits(views), similarities_of)
    assert looked_at == ["b", "c"]
    assert settle_ties([], similarities_of) == []


def test_the_search_grows_until_there_are_labels_enough_and_no_further() -> None:
    hits = [Hit(key, "a" if key <= 100 else "b", "", 1 - key / 1000) for key in range(1, 1001)]
    asked: list[int] = []

    def search(wanted: int) -> list[Hit]:
        asked.append(wanted)
        return hits[:wanted]

    assert [hit.key for hit in best_of_labels(search, 1000, 2)] == [1, 101]
    assert asked == [16, 64, 256]
    asked.clear()
    assert [hit.key for hit in best_of_labels(search, 1000, 3)] == [1, 101]
    assert asked == [24, 96, 384, 1000]
    asked.clear()
    assert [hit.key for hit in best_of_labels(lambda wanted: search(wanted)[:170], 170, 12)] == [1, 101]
    assert asked == [96, 170]
    assert best_of_labels(lambda wanted: [], 0, 3) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.tuples(st.integers(1, 60), st.integers(1, 12)), near=st.booleans())
def test_an_index_names_the_labels_that_comparing_every_view_names(
    seed: int,
    sizes: tuple[int, int],
    near: bool,
    tmp_path_factory: pytest.TempPathFactory,
    make_card: MakeCard,
    unit_rows: Rows,
) -> None:
    size, labels = sizes
    folder: Path = tmp_path_factory.mktemp("index")
    (folder / "any.onnx").write_bytes(b"only its hash matters")
    rng = np.random.default_rng(seed)
    rows_nd, query_1d = unit_rows(rng, size), unit_rows(rng, 1)[0]
    if near:
        # all within a few TIE of the query
        rows_nd = query_1d + np.float32(0.1) * rows_nd
        rows_nd /= np.linalg.norm(rows_nd, axis=1, keepdims=True)
    index = Index.create(make_card(), folder / "any.onnx")
    names = rng.integers(0, labels, size)
    for name, row_1d in zip(names, rows_nd, strict=True):
        index.add(f"{name:02}", row_1d[None], [""])
    index.save(folder / "shop.usearch")
    similarity_n = index.descriptors() @ query_1d
    views = {f"{name:02}": similarity_n[names == name].tolist() for name in np.unique(names)}
    best = np.array([max(some) for some in views.values()])
    means = np.array([np.mean(sorted(some)[-m:]) for m in (1, 2, 3) for some in views.values() if len(some) >= m])
    # where rounding decides, either order is right
    assume((np.abs(np.abs(best[:, None] - best) - TIE) > 1e-5).all())
    assume((np.diff(np.sort(means)) > 1e-6).all() or len(set(names)) == 1)
    for count in (1, 3, 12):
        found = index.search_labels(query_1d, count)
        # one more label than is wanted may take part in the last tie
        assert [hit.label for hit in found] == by_hand(views, count + 1)[:count]
        for hit in found:
            assert hit.similarity == pytest.approx(max(views[hit.label]), abs=1e-6)
