"""deepir-index info: what is said of an index, to people and to programs, and what is measured on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.runtime import store as store_module
from deepir.runtime.index import Index, reference_to
from deepir.runtime.index_file_cli import info_command
from deepir.runtime.index_home import Home
from deepir.runtime.index_measure import measure
from deepir.runtime.index_report import describe_index, index_facts
from deepir.runtime.index_whitening import fit_index_whitening
from deepir.runtime.pictures import keep_thumbnail
from deepir.runtime.store import load_usearch

UnitRows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]


def info(*words: object) -> Result:
    return CliRunner().invoke(info_command, [str(word) for word in words])


@pytest.fixture
def shop(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    path = tmp_path / "shop.usearch"
    index = Index.create(make_card(), model)
    for label in ("soap", "tea", "salt"):
        index.add(label, unit_rows(rng, 10), [f"{label}/{number}.png" for number in range(10)])
    index.save(path)
    return path


def test_people_and_programs_are_told_the_same(shop: Path, model: Path) -> None:
    result = info(shop, "--json")
    facts = json.loads(result.stdout)
    assert (facts["items"], facts["labels"], facts["generation"], facts["dim"]) == (
        30,
        {"salt": 10, "soap": 10, "tea": 10},
        1,
        8,
    )
    assert facts["model"]["found"] == str(model)
    text = info(shop).stdout
    assert "30 of 3 labels, descriptors of 8 values" in text
    assert f"model      {facts['model']['fingerprint']}, {model}" in text
    assert f"next: deepir-index verify {shop}" in result.stderr


def test_bytes_for_each_item_are_those_of_the_whole_file(shop: Path) -> None:
    facts = index_facts(shop)
    assert facts["bytes_per_item"] == round(shop.stat().st_size / 30, 1)
    assert f"{facts['bytes_per_item']:.0f} bytes of the file for each item" in describe_index(facts)


@pytest.mark.parametrize(
    ("dtype", "words"), [("i8", "8-bit whole"), ("f16", "16-bit"), ("f32", "32-bit"), ("b1", "signs")]
)
def test_the_form_of_descriptors_is_told(
    tmp_path: Path, model: Path, make_card: MakeCard, dtype: Any, words: str
) -> None:
    Index.create(make_card(), model, dtype=dtype).save(tmp_path / "none.usearch")
    facts = index_facts(tmp_path / "none.usearch")
    assert (facts["dtype"], facts["bytes_per_item"], facts["recall"]) == (dtype, None, None)
    assert words in describe_index(facts)


def test_the_recall_of_the_making_is_told_with_what_it_was_measured_on(shop: Path) -> None:
    facts = index_facts(shop)
    assert (facts["recall"]["queries"], facts["recall"]["items"], facts["measured"]) == (30, 30, None)
    assert f"{facts['recall']['value']:.3f} of what exact" in describe_index(facts)
    assert "with 30 of 30 views when the index was made" in describe_index(facts)


def test_an_exact_search_measured_now_finds_all(shop: Path) -> None:
    measured = json.loads(info(shop, "--measure", "--json").stdout)["measured"]
    assert (measured["recall"], measured["queries"], measured["items"]) == (1.0, 30, 30)
    assert "with 30 of 30 views now" in info(shop, "--measure").stdout


def test_a_measurement_agrees_with_a_count_by_hand(
    tmp_path: Path,
    model: Path,
    make_card: MakeCard,
    unit_rows: UnitRows,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = Index.create(make_card(), model)
    index.add("tea", unit_rows(rng, 300), ["x.png"] * 300)
    index.save(tmp_path / "tea.usearch")
    _, contents = Home.open(tmp_path / "tea.usearch", write=False, wait=0)
    # a search that sees only odd keys finds about half of what there is
    monkeypatch.setattr(contents.store, "search", lambda query_1d, count: odd_only(contents, query_1d, count))
    descriptors_nd = contents.store.descriptors(contents.items.keys)
    shares = []
    for row in np.unique(np.linspace(0, 299, 200).round().astype(int)):
        order = [one for one in np.argsort(-descriptors_nd @ descriptors_nd[row], kind="stable") if one != row][:10]
        shares.append(sum(int(contents.items.keys[one]) % 2 for one in order) / 10)
    measured = measure(contents)
    assert measured is not None
    assert (measured.queries, measured.items) == (200, 300)
    assert measured.recall == pytest.approx(float(np.mean(shares)))


def odd_only(contents: Any, query_1d: NDArray[np.float32], count: int) -> store_module.Neighbours:
    keys = contents.items.keys
    keys = keys[keys % 2 == 1]
    similarity_n = contents.store.descriptors(keys) @ query_1d
    order = np.argsort(-similarity_n)[:count]
    return store_module.Neighbours(keys[order], similarity_n[order])


def test_a_graph_is_told_from_an_exact_search(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert index_facts(shop)["search"] == "exact"
    monkeypatch.setattr(store_module, "_MOST_EXACT", 10)
    facts = index_facts(shop, measuring=True)
    assert facts["search"] == "graph"
    assert "search     along a graph" in describe_index(facts)
    assert 0.5 <= facts["measured"]["recall"] <= 1


def test_changes_in_the_journal_are_counted(shop: Path) -> None:
    assert "journal    " not in info(shop).stdout
    with Index.open(shop, write=True) as index:
        index.relabel("soap", "brush")
        index.remove([1, 2])
    facts = json.loads(info(shop, "--json").stdout)
    assert (facts["pending"], facts["items"], facts["labels"]["brush"], facts["removed"]) == (12, 28, 8, 2)
    result = info(shop)
    assert "journal    changes of 12 views" in result.stdout
    assert "removed    2 views whose values are in the file" in result.stdout
    assert f"next: deepir-index compact {shop}" in result.stderr


def test_threshold_and_margin_are_told_with_their_origin(
    shop: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    assert "for 1.00% false accepts, from 30 stored views, extrapolated from so few" in info(shop).stdout
    with Index.open(shop, write=True) as index:
        index.fit_threshold_to_unknown(unit_rows(rng, 40), 0.05)
        index.set(margin=0.07)
    text = info(shop).stdout
    assert "for 5.00% false accepts, from 40 pictures of unknown things" in text
    assert "margin     0.070" in text


def test_kept_pictures_are_counted(tmp_path: Path, model: Path, make_card: MakeCard) -> None:
    path = tmp_path / "shop.usearch"
    index = Index.create(make_card(), model)
    index.setup(thumbnails=384)
    index.save(path)
    keep_thumbnail(path, b"a picture")
    folder = str(tmp_path / "shop.usearch.thumbnails")
    assert index_facts(path)["thumbnails"] == {"side": 384, "folder": folder, "files": 1}
    assert f"pictures   1 kept in {folder}, of 384 pixels" in info(path).stdout


def test_the_map_of_an_index_is_told(
    tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator, shop: Path
) -> None:
    index = Index.create(make_card(), model)
    index.whiten(fit_index_whitening([unit_rows(rng, 30)], 0.25, 3))
    index.save(tmp_path / "white.usearch")
    assert "whitening  8 to 3 values" in info(tmp_path / "white.usearch").stdout
    assert index_facts(tmp_path / "white.usearch")["whitening"]["dim"] == 3
    assert "whitening" not in info(shop).stdout
    assert index_facts(shop)["whitening"] is None


def test_a_model_that_is_gone_is_named_as_such(shop: Path, model: Path) -> None:
    model.unlink()
    assert index_facts(shop)["model"]["found"] is None
    assert f"{model} (not there)" in info(shop).stdout


def test_another_model_in_its_place_is_not_the_one_found(
    shop: Path, model: Path, make_card: MakeCard, write_model: Callable[..., Path]
) -> None:
    write_model(model, card=make_card("b"), seed=2)
    assert index_facts(shop)["model"]["found"] is None


def test_references_by_another_model_are_named(
    tmp_path: Path, model: Path, make_card: MakeCard, write_model: Callable[..., Path]
) -> None:
    teacher = write_model(tmp_path / "teacher.onnx", card=make_card("t"), seed=5)
    index = Index.create(make_card(), model)
    index.setup(references=reference_to(make_card("t"), teacher))
    index.save(tmp_path / "shop.usearch")
    facts = index_facts(tmp_path / "shop.usearch")
    assert (facts["references"]["fingerprint"], facts["references"]["found"]) == (
        make_card("t").spec.fingerprint,
        str(teacher),
    )
    assert f"references {make_card('t').spec.fingerprint}, {teacher}" in describe_index(facts)


def test_many_labels_are_cut_for_people_and_not_for_programs(
    tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    index = Index.create(make_card(), model)
    for number in range(25):
        index.add(f"label {number:02}", unit_rows(rng, 1), ["x.png"])
    index.save(tmp_path / "many.usearch")
    text = info(tmp_path / "many.usearch").stdout
    assert "label 19" in text
    assert "label 20" not in text
    assert "and 5 more labels" in text
    assert len(index_facts(tmp_path / "many.usearch")["labels"]) == 25


def test_a_plain_usearch_file_says_what_is_not_known(
    tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    theirs = load_usearch().Index(ndim=8, metric="cos", dtype="f32")
    theirs.add(np.arange(1, 6, dtype=np.uint64), unit_rows(rng, 5))
    theirs.save(str(tmp_path / "theirs.usearch"))
    result = info(tmp_path / "theirs.usearch")
    assert result.exit_code == 0, result.stderr
    assert "5 of 5 labels" in result.stdout
    assert "model      not known: it has no deepir footer" in result.stdout


def test_what_is_no_index_is_one_sentence_with_its_exit_code(shop: Path, tmp_path: Path, model: Path) -> None:
    (tmp_path / "torn.usearch").write_bytes(shop.read_bytes()[:100])
    for path, exit_code, part in (
        (tmp_path / "no.usearch", 3, "cannot read the index"),
        (model, 8, "not a usable index"),
        (tmp_path / "torn.usearch", 8, "not a usable index"),
    ):
        result = info(path)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (exit_code, "", 1), result.output
        assert part in result.stderr
