"""Indexes for other programs and theirs as indexes: as a library and through deepir-index export and import."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import MissingDependency
from deepir.runtime.exchange import export_index, import_index
from deepir.runtime.exchange_faiss import labels_beside
from deepir.runtime.index import Index
from deepir.runtime.index_exchange_cli import export_command, import_command
from deepir.runtime.index_whitening import fit_index_whitening
from deepir.runtime.store import load_usearch

UnitRows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]

HAS_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed: pip install 'deepir[faiss]'")
FORMATS = ["npz", "jsonl", pytest.param("faiss", marks=needs_faiss)]
DIM = 8


def invoke(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def hits(index: Index, queries: NDArray[np.float32]) -> list[list[tuple[int, str, float]]]:
    return [
        [(hit.key, hit.label, round(hit.similarity, 5)) for hit in found] for found in index.search_many(queries, 5)
    ]


@pytest.fixture
def shop(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    """Keys with gaps, a label that moved, metadata, and a change in the journal."""
    path = tmp_path / "shop.usearch"
    index = Index.create(make_card(), model, far=0.2)
    for label, count in {"soap": 4, "tea/black": 3, "tea/green": 5}.items():
        names = [f"{label}/{number}.png" for number in range(count)]
        index.add(
            label, unit_rows(rng, count), names, metadata=[{"price": number, "on": "Ø"} for number in range(count)]
        )
    index.set(margin=0.05)
    index.save(path)
    with Index.open(path, write=True) as opened:
        opened.remove([2, 6])
        opened.relabel([3], "brush")
        opened.add("salt", unit_rows(rng, 2), ["s0.png", "s1.png"])
        assert opened.pending
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_exported_and_imported_gives_the_same_answers(
    shop: Path, model: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator, form: str
) -> None:
    out, again = tmp_path / f"shop.{form}", tmp_path / "again.usearch"
    exported = invoke(export_command, shop, "-o", out)
    assert (exported.exit_code, exported.stdout) == (0, ""), exported.stderr
    assert "12 descriptors of 8 values" in exported.stderr
    assert f"next: deepir-index import {out} NEW.usearch --model MODEL.onnx" in exported.stderr
    result = invoke(import_command, out, again, "--model", model)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert "warning" not in result.stderr
    assert f"next: deepir-index info {again}" in result.stderr
    one, other, queries = Index.open(shop), Index.open(again), unit_rows(rng, 20)
    assert list(other.items()) == list(one.items())
    assert hits(other, queries) == hits(one, queries)


@pytest.mark.parametrize("dtype", ["i8", "f16", "f32", "b1"])
def test_an_npz_keeps_the_form_and_how_answers_are_judged(
    model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator, tmp_path: Path, dtype: Any
) -> None:
    index = Index.create(make_card(), model, far=0.2, dtype=dtype)
    for label in ("soap", "tea"):
        index.add(label, unit_rows(rng, 4), ["x.png"] * 4)
    index.fit_threshold_to_unknown(unit_rows(rng, 20), 0.1)
    index.set(margin=0.05)
    index.save(tmp_path / "shop.usearch")
    export_index(tmp_path / "shop.usearch", tmp_path / "shop.npz")
    again, mended = import_index(tmp_path / "shop.npz", make_card(), model, tmp_path / "again.usearch")
    assert mended == []
    assert (again.footer.codes, again.threshold) == (index.footer.codes, index.threshold)
    assert (again.margin, again.footer.far) == (0.05, 0.1)


def test_keys_that_were_removed_are_not_given_out_again(
    shop: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator, tmp_path: Path
) -> None:
    with Index.open(shop, write=True) as index:
        newest = index.newest_key
        index.remove([newest])
    export_index(shop, tmp_path / "shop.npz")
    again, _ = import_index(tmp_path / "shop.npz", make_card(), model, tmp_path / "again.usearch")
    assert again.add("new", unit_rows(rng, 1), ["x.png"]) == [newest + 1]


def test_an_npz_is_plain_numpy(shop: Path, tmp_path: Path) -> None:
    export_index(shop, tmp_path / "shop.npz")
    index = Index.open(shop)
    with np.load(tmp_path / "shop.npz", allow_pickle=False) as arrays:
        assert arrays["keys"].tolist() == [item.key for item in index.items()]
        assert arrays["labels"].tolist() == [item.label for item in index.items()]
        assert arrays["names"].tolist() == [item.source for item in index.items()]
        assert json.loads(str(arrays["metadata"])) == [item.metadata for item in index.items()]
        assert arrays["descriptors"].dtype == np.float32
        np.testing.assert_array_equal(arrays["descriptors"], index.descriptors())
        np.testing.assert_allclose(np.linalg.norm(arrays["descriptors"], axis=1), 1, atol=1e-6)


def test_json_lines_hold_one_object_for_each_view(shop: Path, tmp_path: Path) -> None:
    export_index(shop, tmp_path / "shop.jsonl")
    lines = (tmp_path / "shop.jsonl").read_text(encoding="utf-8").splitlines()
    index = Index.open(shop)
    assert len(lines) == len(index)
    first = json.loads(lines[0])
    np.testing.assert_array_equal(np.array(first.pop("descriptor"), np.float32), index.descriptors([1])[0])
    fingerprint = index.model.fingerprint
    metadata = {"price": 0, "on": "Ø"}
    assert first == {"key": 1, "label": "soap", "source": "soap/0.png", "metadata": metadata, "model": fingerprint}


@needs_faiss
def test_faiss_finds_the_same_neighbours_under_the_same_keys(
    shop: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    import faiss

    export_index(shop, tmp_path / "shop.faiss")
    queries, index = unit_rows(rng, 50), Index.open(shop)
    similarities, keys = faiss.read_index(str(tmp_path / "shop.faiss")).search(queries, 5)
    assert keys.tolist() == [[hit.key for hit in found] for found in index.search_many(queries, 5)]
    expected = [[hit.similarity for hit in found] for found in index.search_many(queries, 5)]
    np.testing.assert_allclose(similarities, expected, atol=1e-5)
    listed = [json.loads(line) for line in labels_beside(tmp_path / "shop.faiss").read_text().splitlines()]
    assert {one["key"]: one["label"] for one in listed} == {item.key: item.label for item in index.items()}


def test_without_faiss_the_error_says_what_to_install(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    result = invoke(export_command, shop, "-o", tmp_path / "shop.faiss")
    assert result.exit_code == MissingDependency.exit_code
    assert "pip install 'deepir[faiss]'" in result.stderr


def test_pictures_are_named_from_each_new_folder(shop: Path, model: Path, make_card: MakeCard, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    export_index(shop, tmp_path / "away" / "shop.npz")
    again, _ = import_index(tmp_path / "away" / "shop.npz", make_card(), model, tmp_path / "again.usearch")
    assert [item.source for item in again.items()] == [item.source for item in Index.open(shop).items()]


@pytest.fixture
def white(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    """A whitened index whose descriptors have as many values as the model's."""
    path, rows = tmp_path / "white.usearch", unit_rows(rng, 30)
    index = Index.create(make_card(), model)
    index.whiten(fit_index_whitening([rows], 0.25, DIM))
    index.add("soap", rows[:15], ["a.png"] * 15)
    index.add("tea", rows[15:], ["b.png"] * 15)
    index.save(path)
    return path


def test_a_whitened_index_goes_through_an_npz_with_its_map(
    white: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator, tmp_path: Path
) -> None:
    result = invoke(export_command, white, "-o", tmp_path / "white.npz", "--json")
    assert "warning: these descriptors went through the map" in result.stderr
    assert json.loads(result.stdout)["whitened"] is True
    again, _ = import_index(tmp_path / "white.npz", make_card(), model, tmp_path / "again.usearch")
    queries = unit_rows(rng, 10)
    again.save(tmp_path / "again.usearch")
    assert hits(again, queries) == hits(Index.open(white), queries)


def test_whitened_descriptors_without_their_map_are_refused(white: Path, model: Path, tmp_path: Path) -> None:
    export_index(white, tmp_path / "white.jsonl")
    result = invoke(import_command, tmp_path / "white.jsonl", tmp_path / "again.usearch", "--model", model)
    assert (result.exit_code, result.stderr.count("\n")) == (8, 1)
    assert ".npz, which holds the map" in result.stderr


def test_descriptors_of_another_model_are_refused(
    shop: Path, tmp_path: Path, write_model: Callable[..., Path], make_card: MakeCard
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    for name in ("shop.npz", "shop.jsonl"):
        export_index(shop, tmp_path / name)
        result = invoke(import_command, tmp_path / name, tmp_path / "again.usearch", "--model", other)
        assert (result.exit_code, result.stderr.count("\n")) == (8, 1)
        assert make_card("b").spec.fingerprint in result.stderr
    assert not (tmp_path / "again.usearch").exists()


def test_a_file_of_another_program_needs_only_descriptors_and_labels(
    model: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng, 3).astype(np.float64)
    np.savez(tmp_path / "theirs.npz", descriptors=rows, labels=np.array(["b", "a", "b"]))
    lines = [json.dumps({"label": "a", "descriptor": row.tolist()}) for row in rows]
    (tmp_path / "theirs.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    for name, labels in (("theirs.npz", {"a": 1, "b": 2}), ("theirs.jsonl", {"a": 3})):
        result = invoke(import_command, tmp_path / name, tmp_path / "ours.usearch", "--model", model, "--dtype", "f32")
        assert result.exit_code == 0, result.stderr
        index = Index.open(tmp_path / "ours.usearch")
        assert ([item.key for item in index.items()], index.labels) == ([1, 2, 3], labels)
        np.testing.assert_allclose(index.descriptors(), rows, atol=1e-6)


def test_lengths_and_keys_from_zero_are_mended_with_a_warning(
    model: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng, 4)
    long = (rows * np.array([[1], [2], [3], [1]])).astype(np.float32)
    np.savez(tmp_path / "t.npz", descriptors=long, labels=np.array(list("abab")), keys=np.array([9, 0, 4, 2]))
    result = invoke(import_command, tmp_path / "t.npz", tmp_path / "o.usearch", "--model", model, "--json")
    assert "warning: 2 of 4 descriptors had lengths from 2 to 3 instead of 1" in result.stderr
    assert "warning: the keys begin at 0" in result.stderr
    assert len(json.loads(result.stdout)["mended"]) == 2
    index = Index.open(tmp_path / "o.usearch")
    assert [(item.key, item.label) for item in index.items()] == [(1, "b"), (3, "b"), (5, "a"), (10, "a")]
    np.testing.assert_allclose(index.descriptors([10, 1, 5, 3]), rows, atol=0.01)


def test_a_plain_usearch_file_becomes_an_index(
    model: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng, 5)
    theirs = load_usearch().Index(ndim=DIM, metric="cos", dtype="f32")
    theirs.add(np.arange(3, 8, dtype=np.uint64), 2 * rows)
    theirs.save(str(tmp_path / "theirs.usearch"))
    words = (tmp_path / "theirs.usearch", tmp_path / "ours.usearch", "--model", model)
    result = invoke(import_command, *words)
    assert result.exit_code == 0, result.stderr
    assert "5 of 5 descriptors had lengths from 2 to 2" in result.stderr
    index = Index.open(tmp_path / "ours.usearch")
    assert list(index.labels) == ["key 3", "key 4", "key 5", "key 6", "key 7"]
    assert [index.search(row, 1)[0].key for row in rows] == [3, 4, 5, 6, 7]
    lines = [{"key": key, "label": "tea", "source": f"{key}.png", "metadata": {"n": key}} for key in range(3, 8)]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert invoke(import_command, *words, "--labels", labels).exit_code == 0
    named = [(item.label, item.source, item.metadata) for item in Index.open(tmp_path / "ours.usearch").items()]
    assert named[0] == ("tea", "3.png", {"n": 3})


@needs_faiss
def test_a_faiss_index_of_another_program_takes_labels_from_a_list(
    model: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    import faiss

    rows = unit_rows(rng, 3)
    theirs = faiss.IndexFlatL2(DIM)
    theirs.add(rows)
    faiss.write_index(theirs, str(tmp_path / "theirs.faiss"))
    words = (tmp_path / "theirs.faiss", tmp_path / "ours.usearch", "--model", model)
    missing = invoke(import_command, *words)
    assert (missing.exit_code, "--labels FILE" in missing.stderr) == (3, True)
    labels = tmp_path / "labels.jsonl"
    labels.write_text("\n".join(json.dumps({"key": key, "label": f"l{key}"}) for key in range(3)), encoding="utf-8")
    assert invoke(import_command, *words, "--labels", labels).exit_code == 0
    index = Index.open(tmp_path / "ours.usearch")
    assert [index.search(row, 1)[0].label for row in rows] == ["l0", "l1", "l2"]


def spoilt(tmp_path: Path, rows: NDArray[np.float32]) -> list[tuple[str, int, str]]:
    """Files that cannot be imported: their names, exit codes, and a part of the sentence."""
    bad, zero = rows.copy(), rows.copy()
    bad[1, 2], zero[2] = np.nan, 0
    labels = np.array(list("aba"))
    arrays: dict[str, tuple[dict[str, Any], int, str]] = {
        "nan": ({"descriptors": bad, "labels": labels}, 3, "NaN or infinity, first in row 1"),
        "zero": ({"descriptors": zero, "labels": labels}, 3, "row 2 of"),
        "size": ({"descriptors": rows[:, :5], "labels": labels}, 3, "(3, 5)"),
        "whole": ({"descriptors": rows.astype(int), "labels": labels}, 3, "int64"),
        "flat": ({"descriptors": rows[0], "labels": labels}, 3, "(8,)"),
        "short": ({"descriptors": rows, "labels": labels[:2]}, 3, "2 labels"),
        "keyed": ({"descriptors": rows, "labels": labels, "keys": np.arange(4)}, 3, "4 keys"),
        "twice": ({"descriptors": rows, "labels": labels, "keys": np.array([1, 1, 2])}, 8, "same key"),
        "column": ({"descriptors": rows, "labels": labels, "keys": np.array([[1], [2], [3]])}, 3, "(3, 1)"),
        "large": ({"descriptors": rows, "labels": labels, "keys": np.array([1, 2, 2**63], np.uint64)}, 8, "larger"),
        "unlabelled": ({"descriptors": rows}, 3, "--labels FILE"),
        "label": ({"descriptors": rows, "labels": np.array(["a", "b//c", "d"])}, 3, "an empty part"),
        "objects": ({"descriptors": rows, "labels": np.array([{}, 1, "a"], dtype=object)}, 3, "allow_pickle"),
        "empty": ({"labels": labels}, 3, "no array named descriptors"),
        "metadata": ({"descriptors": rows, "labels": labels, "metadata": np.array('{"a": 1}')}, 3, "not a list"),
        "entries": ({"descriptors": rows, "labels": labels, "metadata": np.array("[1, 2, 3]")}, 3, "object of JSON"),
        "footer": ({"descriptors": rows, "labels": labels, "footer": np.array("{}")}, 3, "footer cannot be read"),
    }
    for name, (fields, _, _) in arrays.items():
        np.savez(tmp_path / f"{name}.npz", **fields)
    np.save(tmp_path / "single.npy", rows)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    content = (tmp_path / "unlabelled.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(content[:-40])
    place = content.index(rows.tobytes())
    (tmp_path / "flipped.npz").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    good = json.dumps({"label": "a", "descriptor": rows[0].tolist()})
    lines = {
        "json": ("{", 3, "line 2 of"),
        "list": ("[1]", 3, "not an object with a label"),
        "other": ('{"label": 5, "descriptor": []}', 3, "has 5 as label"),
        "lacking": ('{"label": "a"}', 3, "no descriptor"),
        "longer": (json.dumps({"label": "a", "descriptor": [1.0] * 9}), 3, "9 values"),
        "words": (json.dumps({"label": "a", "descriptor": ["x"] * 8}), 3, "a list of numbers"),
        "infinite": ('{"label": "a", "descriptor": [Infinity, 0, 0, 0, 0, 0, 0, 0]}', 3, "NaN or infinity"),
        "models": (
            json.dumps({**json.loads(good), "model": "x"}) + '\n{"label": "a", "model": "y"}',
            3,
            "no descriptor",
        ),
    }
    for name, (line, _, _) in lines.items():
        (tmp_path / f"{name}.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    return [
        *((f"{name}.npz", code, part) for name, (_, code, part) in arrays.items()),
        ("single.npz", 3, "single array"),
        ("torn.npz", 3, "truncated"),
        ("flipped.npz", 3, "truncated"),
        ("no.npz", 3, "No such file"),
        ("no.jsonl", 3, "No such file"),
        ("no.usearch", 3, "cannot read"),
        *((f"{name}.jsonl", code, part) for name, (_, code, part) in lines.items()),
    ]


def test_what_cannot_be_imported_is_one_sentence_with_its_exit_code(
    model: Path, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    for name, exit_code, part in spoilt(tmp_path, unit_rows(rng, 3)):
        result = invoke(import_command, tmp_path / name, tmp_path / "ours.usearch", "--model", model)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (name, result.output, result.exception)
        assert result.stderr.startswith("error: "), name
        assert (result.stderr.count("\n"), part in result.stderr) == (1, True), (name, result.stderr)
    assert not (tmp_path / "ours.usearch").exists()


def test_a_list_of_labels_must_name_every_key_once(shop: Path, model: Path, tmp_path: Path) -> None:
    export_index(shop, tmp_path / "shop.npz")
    labels = tmp_path / "labels.jsonl"
    for text, part in (
        ('{"key": 1, "label": "a"}', "no label for the key 3"),
        ('{"key": 1, "label": "a"}\n{"key": 1, "label": "b"}', "line 2"),
        ('{"label": "a"}', "has no key"),
    ):
        labels.write_text(text, encoding="utf-8")
        words = (tmp_path / "shop.npz", tmp_path / "o.usearch", "--model", model, "--labels", labels)
        result = invoke(import_command, *words)
        assert (result.exit_code, part in result.stderr) == (3, True), result.stderr


def test_the_formats_are_named_where_none_is(shop: Path, model: Path, tmp_path: Path) -> None:
    result = invoke(export_command, shop, "-o", tmp_path / "shop.csv")
    assert (result.exit_code, ".npz, .jsonl, .faiss" in result.stderr) == (2, True)
    assert invoke(export_command, shop, "-o", tmp_path / "shop.csv", "--format", "jsonl").exit_code == 0
    assert json.loads((tmp_path / "shop.csv").read_text(encoding="utf-8").splitlines()[0])["key"] == 1
    again = invoke(import_command, shop, tmp_path / "o.usearch", "--model", model)
    assert (again.exit_code, "an index of deepir already" in again.stderr) == (3, True)


def test_an_empty_index_goes_and_comes(model: Path, make_card: MakeCard, tmp_path: Path) -> None:
    Index.create(make_card(), model).save(tmp_path / "none.usearch")
    for form in ("npz", "jsonl"):
        export_index(tmp_path / "none.usearch", tmp_path / f"none.{form}")
        again, mended = import_index(tmp_path / f"none.{form}", make_card(), model, tmp_path / "again.usearch")
        assert (len(again), mended) == (0, [])
