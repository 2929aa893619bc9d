"""A whitening of the index's own: against PCA by hand, and that stored and query descriptors go through the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import normalise
from deepir.errors import OptionError, ShapeError
from deepir.runtime.index import Index
from deepir.runtime.index_whitening import MOST_DIM, IndexWhitening, MapKind, WhitenConfig, fit_index_whitening
from deepir.runtime.threshold import fit_threshold, threshold_from_unknown

Rows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]

DIM = 8
FLOATS = 1e-5
CODES = 0.02
"""Of a similarity: what rounding eight values to whole numbers from -127 to 127 may cost at most."""


@pytest.fixture
def empty(model: Path, make_card: MakeCard) -> Index:
    return Index.create(make_card(), model)


def by_hand(whitening: IndexWhitening, rows_nd: NDArray[np.float32]) -> NDArray[np.float32]:
    mapped = rows_nd @ whitening.map.weight_dc.T + whitening.map.bias_d
    return mapped / np.linalg.norm(mapped, axis=1, keepdims=True)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), references=st.integers(10, 40), photographs=st.integers(10, 400))
def test_full_power_gives_every_value_the_same_variance_with_equal_weight_for_each_group(
    seed: int, references: int, photographs: int, unit_rows: Rows
) -> None:
    rng = np.random.default_rng(seed)
    groups = [unit_rows(rng, references), normalise(unit_rows(rng, photographs) + np.float32(0.5))]
    whitening = fit_index_whitening(groups, 0.5)
    mapped = [group @ whitening.map.weight_dc.T + whitening.map.bias_d for group in groups]
    mean = sum(rows.mean(axis=0) for rows in mapped) / 2
    covariance = sum((rows - mean).T @ (rows - mean) / len(rows) for rows in mapped) / 2
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(covariance, np.eye(DIM), atol=1e-2)
    assert whitening.note.pictures == (references, photographs)


def test_no_power_only_turns_and_moves(rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 30)
    weight_dc = fit_index_whitening([rows_nd], 0.0).map.weight_dc
    np.testing.assert_allclose(weight_dc @ weight_dc.T, np.eye(DIM), atol=1e-5)


def test_photographs_given_twice_weigh_no_more(rng: np.random.Generator, unit_rows: Rows) -> None:
    references, photographs = unit_rows(rng, 12), unit_rows(rng, 9)
    once = fit_index_whitening([references, photographs], 0.25)
    twice = fit_index_whitening([references, np.concatenate([photographs, photographs])], 0.25)
    np.testing.assert_allclose(once.map.weight_dc, twice.map.weight_dc, atol=1e-4)


def test_as_many_values_are_kept_as_the_pictures_carry(rng: np.random.Generator, unit_rows: Rows) -> None:
    five = unit_rows(rng, 5)
    assert fit_index_whitening([five], 0.25).note.dim == 4
    assert fit_index_whitening([np.tile(five, (9, 1))], 0.25).note.dim == 4
    assert fit_index_whitening([unit_rows(rng, 50)], 0.25).note.dim == DIM
    assert fit_index_whitening([unit_rows(rng, 50)], 0.25, 3).note.dim == 3
    assert fit_index_whitening([unit_rows(rng, 300, 200)], 0.25).note.dim == MOST_DIM


def test_more_values_than_the_pictures_carry_are_refused(rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(ShapeError, match=r"the 5 pictures to whiten with carry 4 .*fewer than 5.*--whiten-images"):
        fit_index_whitening([unit_rows(rng, 5)], 0.25, 5)
    same = np.tile(unit_rows(rng, 1), (6, 1))
    for groups in ([], [unit_rows(rng, 1)], [same], [unit_rows(rng, 5), unit_rows(rng, 0)]):
        with pytest.raises(ShapeError):
            fit_index_whitening(groups, 0.25)


def test_what_does_not_vary_is_not_amplified(rng: np.random.Generator, unit_rows: Rows) -> None:
    flat = np.concatenate([unit_rows(rng, 40, 3), 1e-7 * rng.normal(size=(40, 5))], axis=1).astype(np.float32)
    assert fit_index_whitening([flat], 0.5).note.dim == 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(6, 40))
def test_a_whitened_index_ranks_as_whitening_by_hand_does(
    seed: int, size: int, tmp_path_factory: pytest.TempPathFactory, make_card: MakeCard, unit_rows: Rows
) -> None:
    folder = tmp_path_factory.mktemp("index")
    (folder / "any.onnx").write_bytes(b"only its hash matters")
    rng = np.random.default_rng(seed)
    rows_nd, photographs, query_1d = unit_rows(rng, size), unit_rows(rng, 9), unit_rows(rng, 1)[0]
    index = Index.create(make_card(), folder / "any.onnx")
    whitening = fit_index_whitening([rows_nd, photographs], 0.25, 4)
    index.whiten(whitening)
    for number, row in enumerate(rows_nd):
        index.add(str(number), row[None], [f"{number}.jpg"])
    similarity_n = by_hand(whitening, rows_nd) @ by_hand(whitening, query_1d[None])[0]
    expected = np.sort(similarity_n)[::-1]
    unsaved = index.search(query_1d, size)
    index.save(folder / "shop.usearch")
    read_back = Index.open(folder / "shop.usearch").search(query_1d, size)
    for hits, tolerance in ((unsaved, FLOATS), (index.search(query_1d, size), CODES), (read_back, CODES)):
        np.testing.assert_allclose([hit.similarity for hit in hits], expected, atol=tolerance)
        assert hits[0].similarity == pytest.approx(similarity_n[int(hits[0].label)], abs=tolerance)


def test_items_added_to_an_opened_index_go_through_its_whitening(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 12)
    whitening = fit_index_whitening([rows_nd], 0.25, 5)
    empty.whiten(whitening)
    empty.add("old", rows_nd[:6], ["old"] * 6)
    empty.save(tmp_path / "shop.usearch")
    with Index.open(tmp_path / "shop.usearch", write=True) as opened:
        assert (opened.dim, opened.model_dim, opened.whitening) == (5, DIM, whitening.note)
        opened.add("new", rows_nd[6:7], ["new"])
        for index in (opened, Index.open(tmp_path / "shop.usearch")):
            hit = index.search(rows_nd[6], 1)[0]
            assert (hit.label, hit.similarity) == ("new", pytest.approx(1, abs=CODES))
        opened.remove("old")
        opened.save()
    assert Index.open(tmp_path / "shop.usearch").search(rows_nd[6], 5)[0].label == "new"


def test_the_threshold_is_that_of_the_whitened_views(empty: Index, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd, unknown = unit_rows(rng, 10), unit_rows(rng, 10)
    labels = list("aabbccddee")
    whitening = fit_index_whitening([rows_nd], 0.25)
    empty.whiten(whitening)
    for label, row in zip(labels, rows_nd, strict=True):
        empty.add(label, row[None], ["view"])
    expected = fit_threshold(by_hand(whitening, rows_nd), labels)
    assert (empty.threshold is not None, expected is not None) == (True, True)
    assert empty.threshold.value == pytest.approx(expected.value, abs=FLOATS)
    best = (by_hand(whitening, unknown) @ by_hand(whitening, rows_nd).T).max(axis=1)
    fitted = empty.fit_threshold_to_unknown(unknown, 0.2)
    assert fitted.value == pytest.approx(threshold_from_unknown(best, 0.2).value, abs=FLOATS)


def test_only_the_models_descriptors_go_in(empty: Index, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 12)
    empty.whiten(fit_index_whitening([rows_nd], 0.25, 5))
    already_whitened = unit_rows(rng, 1, 5)
    with pytest.raises(ShapeError, match=r"descriptors of 8 values, got 5"):
        empty.add("a", already_whitened, ["a.jpg"])
    with pytest.raises(ShapeError, match="descriptors of 8 values, got 5"):
        empty.search(already_whitened[0], 1)


def test_a_picture_that_is_the_mean_of_all_has_no_direction(empty: Index) -> None:
    rows_nd = np.zeros((2, DIM), np.float32)
    rows_nd[:, 0], rows_nd[:, 1] = 0.8, (0.6, -0.6)
    empty.whiten(fit_index_whitening([rows_nd], 0.25))
    mean = np.eye(DIM, dtype=np.float32)[:1]
    mean[0, 0] = 1
    with pytest.raises(ShapeError, match=r"mean\.jpg has length"):
        empty.add("a", mean * np.float32(1), ["mean.jpg"])


def test_an_index_that_holds_items_is_not_whitened(empty: Index, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 12)
    empty.add("a", rows_nd[:1], ["a"])
    with pytest.raises(OptionError, match="this one has 1: build it anew"):
        empty.whiten(fit_index_whitening([rows_nd], 0.25))
    assert empty.whitening is None


def test_an_index_that_was_saved_is_not_whitened(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    whitening = fit_index_whitening([unit_rows(rng, 12)], 0.25)
    path = tmp_path / "shop.usearch"
    empty.save(path)
    with Index.open(path, write=True) as opened:
        for index in (empty, opened, Index.open(path)):
            with pytest.raises(OptionError, match="was saved without: build it anew"):
                index.whiten(whitening)
    assert Index.open(path).dim == DIM


def test_usearch_opens_a_whitened_file_by_itself(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    from usearch.index import Index as PlainIndex

    rows_nd = unit_rows(rng, 12)
    empty.whiten(fit_index_whitening([rows_nd], 0.25, 5))
    empty.add("a", rows_nd, ["a"] * 12)
    empty.save(tmp_path / "shop.usearch")
    plain = PlainIndex.restore(str(tmp_path / "shop.usearch"))
    assert plain is not None
    assert (len(plain), plain.ndim) == (12, 5)


def test_the_weights_are_kept_as_little_endian_float32(rng: np.random.Generator, unit_rows: Rows) -> None:
    whitening = fit_index_whitening([unit_rows(rng, 12)], 0.25, 3)
    content = whitening.to_bytes()
    assert len(content) == whitening.note.size == (3 * DIM + 3) * 4
    np.testing.assert_array_equal(np.frombuffer(content, "<f4")[:DIM], whitening.map.weight_dc[0])
    np.testing.assert_array_equal(IndexWhitening.from_bytes(whitening.note, content).map.bias_d, whitening.map.bias_d)


def test_a_model_that_whitens_is_whitened_again_with_less_power(
    make_card: MakeCard, rng: np.random.Generator, unit_rows: Rows
) -> None:
    bare, groups = make_card().spec, [unit_rows(rng, 12)]
    whitened = replace(bare, whitening="pca dim 8")
    powers = [WhitenConfig().fit(groups, spec).note.power for spec in (bare, whitened)]
    assert powers[0] > powers[1] > 0
    assert WhitenConfig(power=0.0).fit(groups, bare).note.power == 0
    assert WhitenConfig(dim=3).fit(groups, bare).note.dim == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, DIM), photographs=st.integers(8, 60))
def test_pca_keeps_as_much_of_the_descriptors_as_so_many_values_can(
    seed: int, dim: int, photographs: int, make_card: MakeCard, unit_rows: Rows
) -> None:
    rng = np.random.default_rng(seed)
    groups = [unit_rows(rng, 12), normalise(unit_rows(rng, photographs) + np.float32(0.5))]
    reduction = WhitenConfig(kind="pca", dim=dim).fit(groups, make_card().spec)
    weighted = np.concatenate([group / np.sqrt(len(group)) for group in groups])
    expected = (np.linalg.svd(weighted, compute_uv=False)[:dim] ** 2).sum()
    kept = ((weighted @ reduction.map.weight_dc.T) ** 2).sum()
    assert kept == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(reduction.map.weight_dc @ reduction.map.weight_dc.T, np.eye(dim), atol=1e-5)
    np.testing.assert_array_equal(reduction.map.bias_d, np.zeros(dim))


def test_pca_that_keeps_all_values_keeps_all_similarities(
    make_card: MakeCard, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 30)
    mapped = WhitenConfig(kind="pca", dim=DIM).fit([rows_nd], make_card().spec)(rows_nd)
    np.testing.assert_allclose(mapped @ mapped.T, rows_nd @ rows_nd.T, atol=1e-5)


def test_a_prefix_is_the_first_values_made_as_long_as_one(
    make_card: MakeCard, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 5)
    reduction = WhitenConfig(kind="prefix", dim=3).fit([rows_nd], make_card().spec)
    expected = rows_nd[:, :3] / np.linalg.norm(rows_nd[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(reduction(rows_nd), expected, atol=1e-6)
    assert str(reduction.note) == "8 to 3 values by prefix, fitted on 5 references, no photographs"


@pytest.mark.parametrize(("kind", "dim"), [("prefix", 9), ("pca", 9), ("pca", 6)])
def test_more_values_than_there_are_cannot_be_kept(
    kind: MapKind, dim: int, make_card: MakeCard, rng: np.random.Generator, unit_rows: Rows
) -> None:
    with pytest.raises(ShapeError, match=rf"cannot be reduced to {dim} by {kind}"):
        WhitenConfig(kind=kind, dim=dim).fit([unit_rows(rng, 5)], make_card().spec)


@pytest.mark.parametrize("kind", ["pca", "prefix"])
def test_an_index_keeps_its_reduction(
    kind: MapKind, empty: Index, tmp_path: Path, make_card: MakeCard, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 12)
    reduction = WhitenConfig(kind=kind, dim=5).fit([rows_nd], make_card().spec)
    empty.whiten(reduction)
    empty.add("a", rows_nd, [""] * 12)
    empty.save(tmp_path / "shop.usearch")
    opened = Index.open(tmp_path / "shop.usearch")
    assert opened.whitening == reduction.note
    np.testing.assert_allclose(opened.descriptors(), by_hand(reduction, rows_nd), atol=CODES)
    np.testing.assert_allclose(opened.mapped(rows_nd), by_hand(reduction, rows_nd), atol=FLOATS)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"power": -0.1},
        {"power": 0.6},
        {"power": float("nan")},
        {"kind": "lda"},
        {"kind": "pca"},
        {"kind": "prefix"},
        {"kind": "pca", "dim": 3, "power": 0.1},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        WhitenConfig(**options)
