"""A whitening of the index's own: against PCA by hand, and that stored and query descriptors go through the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import normalise
from deepir.errors import OptionError, ShapeError
from deepir.runtime.index import Index
from deepir.runtime.index_whitening import MOST_DIM, IndexWhitening, WhitenConfig, fit_index_whitening
from deepir.runtime.threshold import fit_threshold

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


def test_the_threshold_is_that_of_the_whitened_views(
    empty: Index, rng: np.random.Generator, unit_rows: Rows
) -> None:
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
    assert fitted.value == pytest.approx(np.quantile(best, 0.8), abs=FLOATS)


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


def test_an_index_that_holds_items_is_not_whitened(
    empty: Index, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 12)
    empty.add("a", rows_nd[:1], ["a"])
    with pytest.raises(OptionError, match="this one has 1: build it anew"):
        empty.whiten(fit_index_whitening([rows_nd], 0.25))
    assert empty.whitening is None


def test_an_index_that_was_saved_is_not_whitened(empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows) -> None:
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


def test_a_model_that_whitens_is_whitened_again_with_less_power(make_card: MakeCard) -> None:
    bare = make_card().spec
    whitened = replace(bare, whitening="pca dim 8")
    assert WhitenConfig().power_for(bare) > WhitenConfig().power_for(whitened) > 0
    assert WhitenConfig(power=0.0).power_for(bare) == 0


@pytest.mark.parametrize("options", [{"dim": 0}, {"power": -0.1}, {"power": 0.6}, {"power": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        WhitenConfig(**options)
