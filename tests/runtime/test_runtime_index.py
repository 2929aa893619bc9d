"""The index against numpy, usearch itself, and what people do to it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import deepir.runtime.index as module
from deepir.card import ModelCard
from deepir.errors import IndexFileError, IndexModelError, InputError, OptionError, ShapeError
from deepir.runtime.index import DescriptorIndex
from deepir.runtime.index_file import backup_of

Rows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]

DIM = 8
HALF_PRECISION = 2e-3


@pytest.fixture
def empty(model: Path, make_card: MakeCard) -> DescriptorIndex:
    return DescriptorIndex.create(make_card(), model)


def fill(index: DescriptorIndex, rows_nd: NDArray[np.float32], labels: list[str]) -> None:
    for number, label in enumerate(labels):
        index.add(label, rows_nd[number : number + 1], [f"{number}.jpg"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 40), count=st.integers(1, 50))
def test_search_gives_what_comparing_with_every_descriptor_gives(
    seed: int, size: int, count: int, tmp_path_factory: pytest.TempPathFactory, make_card: MakeCard, unit_rows: Rows
) -> None:
    model = tmp_path_factory.mktemp("model") / "any.onnx"
    model.write_bytes(b"only its hash matters")
    rng = np.random.default_rng(seed)
    rows_nd, query_1d = unit_rows(rng, size), unit_rows(rng, 1)[0]
    index = DescriptorIndex.create(make_card(), model)
    fill(index, rows_nd, [str(number) for number in range(size)])
    hits = index.search(query_1d, count)
    expected = np.sort(rows_nd @ query_1d)[::-1][:count]
    np.testing.assert_allclose([hit.similarity for hit in hits], expected, atol=HALF_PRECISION)
    assert len({hit.key for hit in hits}) == min(count, size)
    for hit in hits:
        assert hit.similarity == pytest.approx(float(rows_nd[int(hit.label)] @ query_1d), abs=HALF_PRECISION)


def test_the_graph_search_of_large_indexes_finds_the_stored_descriptor(
    empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_EXACT", 10)
    rows_nd = unit_rows(rng, 200)
    empty.add("many", rows_nd, [f"{number}.jpg" for number in range(200)])
    assert [hits[0].view for hits in empty.search_many(rows_nd[:20], 3)] == [f"{number}.jpg" for number in range(20)]


def test_an_empty_index_finds_nothing(empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows) -> None:
    assert empty.search_many(unit_rows(rng, 2), 5) == [[], []]
    assert empty.search_labels(unit_rows(rng, 1)[0], 5) == []
    assert empty.threshold is None


def test_search_labels_gives_each_label_once_with_its_best_view(
    empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 12)
    labels = ["a", "b", "c"] * 4
    fill(empty, rows_nd, labels)
    query_1d = unit_rows(rng, 1)[0]
    similarity_n = rows_nd @ query_1d
    best = {label: max(similarity_n[number::3]) for number, label in enumerate("abc")}
    found = {hit.label: hit.similarity for hit in empty.search_labels(query_1d, 3)}
    assert list(found) == sorted(best, key=lambda label: -best[label])
    assert found == pytest.approx(best, abs=HALF_PRECISION)


def test_an_index_read_back_answers_as_before(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    fill(empty, unit_rows(rng, 9), list("aaabbbccc"))
    empty.save(tmp_path / "shop.usearch")
    opened = DescriptorIndex.open(tmp_path / "shop.usearch")
    query_1d = unit_rows(rng, 1)[0]
    assert opened.search(query_1d, 9) == empty.search(query_1d, 9)
    assert (opened.labels, opened.threshold, len(opened)) == (empty.labels, empty.threshold, 9)


def test_usearch_opens_the_file_by_itself(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 5)
    fill(empty, rows_nd, list("abcde"))
    empty.save(tmp_path / "shop.usearch")
    from usearch.index import Index

    plain = Index.restore(str(tmp_path / "shop.usearch"))
    assert plain is not None
    assert len(plain) == 5
    assert plain.search(rows_nd[2], 1, exact=True).keys[0] == 3


def test_a_plain_usearch_file_is_refused(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    fill(empty, unit_rows(rng, 3), list("abc"))
    path = tmp_path / "plain.usearch"
    path.write_bytes(empty._store.to_bytes())
    with pytest.raises(IndexFileError, match="has no deepir footer"):
        DescriptorIndex.open(path)


def test_a_removed_label_leaves_no_bytes_in_the_file(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 6)
    secret = rows_nd[4].astype(np.float16).tobytes()
    fill(empty, rows_nd, ["kept", "kept", "kept", "kept", "secret-label", "kept"])
    path = tmp_path / "shop.usearch"
    empty.save(path)
    assert secret in path.read_bytes()
    assert empty.remove("secret-label") == 1
    empty.save(path)
    content = path.read_bytes()
    assert secret not in content
    assert b"secret-label" not in content
    opened = DescriptorIndex.open(path)
    assert (opened.labels, opened.search(rows_nd[3], 1)[0].view) == ({"kept": 5}, "3.jpg")


def test_keys_are_never_used_twice(empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 3)
    empty.add("a", rows_nd[:1], ["a.jpg"])
    empty.remove("a")
    empty.add("b", rows_nd[1:2], ["b.jpg"])
    assert [hit.key for hit in empty.search(rows_nd[1], 5)] == [2]


def test_removing_an_unknown_label_lists_the_known_ones(
    empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows
) -> None:
    fill(empty, unit_rows(rng, 2), ["cup", "plate"])
    with pytest.raises(InputError, match=r"no label 'fork'.*cup, plate"):
        empty.remove("fork")


def test_descriptors_of_another_size_are_refused_with_both_sizes(empty: DescriptorIndex) -> None:
    with pytest.raises(ShapeError, match=r"descriptors of 8 values, got 16.*another model"):
        empty.add("a", np.eye(16, dtype=np.float32)[:1], ["a.jpg"])
    with pytest.raises(ShapeError, match="descriptors of 8 values, got 16"):
        empty.search(np.eye(16, dtype=np.float32)[0], 1)


@pytest.mark.parametrize("factor", [0.0, 0.99, 1.01, np.nan, np.inf])
def test_descriptors_not_of_length_one_are_refused_with_their_image(empty: DescriptorIndex, factor: float) -> None:
    rows_nd = np.eye(DIM, dtype=np.float32)[:2]
    rows_nd[1, 1] = factor
    with pytest.raises(ShapeError, match=r"dark\.jpg has length"):
        empty.add("a", rows_nd, ["bright.jpg", "dark.jpg"])
    with pytest.raises(ShapeError, match="query 0 has length"):
        empty.search(rows_nd[1], 1)
    assert len(empty) == 0


def test_each_descriptor_needs_a_name_and_a_label(empty: DescriptorIndex) -> None:
    with pytest.raises(ShapeError, match="got 1 for 2"):
        empty.add("a", np.eye(DIM, dtype=np.float32)[:2], ["a.jpg"])
    with pytest.raises(InputError, match="label cannot be empty"):
        empty.add(" ", np.eye(DIM, dtype=np.float32)[:1], ["a.jpg"])


def test_another_model_is_refused_with_both_fingerprints(empty: DescriptorIndex, make_card: MakeCard) -> None:
    other = make_card("b")
    with pytest.raises(IndexModelError, match=f"{make_card().spec.fingerprint}.*{other.spec.fingerprint}") as caught:
        empty.check_model(other)
    assert caught.value.exit_code == 8
    assert "deepir-index build" in str(caught.value)
    empty.check_model(make_card())


def test_a_share_of_false_accepts_out_of_range_is_refused_at_once(model: Path, make_card: MakeCard) -> None:
    with pytest.raises(OptionError, match=r"between 0 and 1, got 1\.5"):
        DescriptorIndex.create(make_card(), model, far=1.5)


def test_a_change_that_somebody_else_made_meanwhile_is_not_overwritten(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    path = tmp_path / "shop.usearch"
    rows_nd = unit_rows(rng, 3)
    fill(empty, rows_nd[:1], ["a"])
    empty.save(path)
    mine, theirs = DescriptorIndex.open(path), DescriptorIndex.open(path)
    theirs.add("b", rows_nd[1:2], ["b.jpg"])
    theirs.save(path)
    mine.add("c", rows_nd[2:], ["c.jpg"])
    with pytest.raises(IndexFileError, match="generation 1, now 2"):
        mine.save(path)
    assert DescriptorIndex.open(path).labels == {"a": 1, "b": 1}


def test_a_reader_is_not_disturbed_by_a_writer(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    path = tmp_path / "shop.usearch"
    rows_nd = unit_rows(rng, 3)
    fill(empty, rows_nd, list("abc"))
    empty.save(path)
    reader = DescriptorIndex.open(path)
    path.write_bytes(b"")
    assert reader.search(rows_nd[1], 1)[0].label == "b"


def test_a_writer_killed_before_the_rename_leaves_the_old_index(
    empty: DescriptorIndex, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    path = tmp_path / "shop.usearch"
    fill(empty, unit_rows(rng, 2), ["a", "b"])
    empty.save(path)
    program = (
        "import os, signal\n"
        "from deepir.runtime import DescriptorIndex\n"
        f"index = DescriptorIndex.open({str(path)!r})\n"
        "index.remove('a')\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"index.save({str(path)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert DescriptorIndex.open(path).labels == {"a": 1, "b": 1}
    assert not backup_of(path).exists()


def test_the_threshold_follows_every_change(empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 4)
    fill(empty, rows_nd[:2], ["a", "b"])
    alike = float(rows_nd[0] @ rows_nd[1])
    assert empty.threshold is not None
    assert empty.threshold.value == pytest.approx(alike, abs=HALF_PRECISION)
    empty.remove("b")
    assert empty.threshold is None


def test_a_threshold_from_unknown_pictures_stays_when_items_are_added(
    empty: DescriptorIndex, rng: np.random.Generator, unit_rows: Rows, tmp_path: Path
) -> None:
    empty.add("a", unit_rows(rng, 3), ["1", "2", "3"])
    fitted = empty.fit_threshold_to_unknown(unit_rows(rng, 20), far=0.2)
    empty.add("b", unit_rows(rng, 3), ["1", "2", "3"])
    empty.save(tmp_path / "i.usearch")
    assert DescriptorIndex.open(tmp_path / "i.usearch").threshold == fitted
