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

from deepir.card import ModelCard
from deepir.errors import (
    IndexBusyError,
    IndexFileError,
    IndexModelError,
    InputError,
    OptionError,
    ShapeError,
)
from deepir.runtime import index_contents, store
from deepir.runtime.codes import DTYPES, Dtype
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of
from deepir.runtime.journal import journal_of
from deepir.runtime.threshold import Threshold, fit_threshold

Rows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]

DIM = 8
FLOATS = 1e-5
CODES = 0.02
"""Of a similarity: what rounding eight values to whole numbers from -127 to 127 may cost at most."""


@pytest.fixture
def empty(model: Path, make_card: MakeCard) -> Index:
    return Index.create(make_card(), model)


@pytest.fixture
def rows_nd(rng: np.random.Generator, unit_rows: Rows) -> NDArray[np.float32]:
    return unit_rows(rng, 12)


def fill(index: Index, rows_nd: NDArray[np.float32], labels: list[str]) -> None:
    for number, label in enumerate(labels):
        index.add(label, rows_nd[number : number + 1], [f"{number}.jpg"])


def saved(index: Index, path: Path) -> Path:
    index.save(path)
    return path


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 50)),
    dtype=st.sampled_from(DTYPES),
)
def test_search_gives_what_comparing_with_every_descriptor_gives(
    seed: int,
    sizes: tuple[int, int],
    dtype: Dtype,
    tmp_path_factory: pytest.TempPathFactory,
    make_card: MakeCard,
    unit_rows: Rows,
) -> None:
    size, count = sizes
    model = tmp_path_factory.mktemp("model") / "any.onnx"
    model.write_bytes(b"only its hash matters")
    rng = np.random.default_rng(seed)
    rows_nd, query_1d = unit_rows(rng, size), unit_rows(rng, 1)[0]
    index = Index.create(make_card(), model, dtype=dtype)
    fill(index, rows_nd, [str(number) for number in range(size)])
    expected = np.sort(rows_nd @ query_1d)[::-1][:count]
    for tolerance in (FLOATS, CODES):
        hits = index.search(query_1d, count)
        np.testing.assert_allclose([hit.similarity for hit in hits], expected, atol=tolerance)
        assert len({hit.key for hit in hits}) == min(count, size)
        for hit in hits:
            assert hit.similarity == pytest.approx(float(rows_nd[int(hit.label)] @ query_1d), abs=tolerance)
        # what is in a file is in the form of the file, in this index too
        index.save(model.with_name("shop.usearch"))


def test_the_graph_search_of_large_indexes_finds_the_stored_descriptor(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MOST_EXACT", 10)
    rows_nd = unit_rows(rng, 200)
    empty.add("many", rows_nd, [f"{number}.jpg" for number in range(200)])
    empty.save(tmp_path / "shop.usearch")
    assert [hits[0].view for hits in empty.search_many(rows_nd[:20], 3)] == [f"{number}.jpg" for number in range(20)]


def test_an_empty_index_finds_nothing(empty: Index, rng: np.random.Generator, unit_rows: Rows) -> None:
    assert empty.search_many(unit_rows(rng, 2), 5) == [[], []]
    assert empty.search_labels(unit_rows(rng, 1)[0], 5) == []
    assert empty.threshold is None


@pytest.mark.parametrize("count", [0, -1, -100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_views_are_found_where_none_are_wanted(
    model: Path, tmp_path: Path, make_card: MakeCard, rows_nd: NDArray[np.float32], dtype: Dtype, count: int
) -> None:
    index = Index.create(make_card(), model, dtype=dtype)
    fill(index, rows_nd, ["a", "b", "c"] * 4)
    for _ in range(2):
        assert (index.search(rows_nd[0], count), index.search_labels(rows_nd[0], count)) == ([], [])
        index.save(tmp_path / "shop.usearch")


def test_search_labels_gives_each_label_once_with_its_best_view(
    empty: Index, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 12)
    labels = ["a", "b", "c"] * 4
    fill(empty, rows_nd, labels)
    query_1d = unit_rows(rng, 1)[0]
    similarity_n = rows_nd @ query_1d
    best = {label: max(similarity_n[number::3]) for number, label in enumerate("abc")}
    found = {hit.label: hit.similarity for hit in empty.search_labels(query_1d, 3)}
    assert list(found) == sorted(best, key=lambda label: -best[label])
    assert found == pytest.approx(best, abs=FLOATS)


def test_a_hit_says_what_was_stored(empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]) -> None:
    empty.add("brand/tea", rows_nd[:2], ["a/front.jpg", "back.jpg"], metadata=[{"price": 1.5, "größe": ["500 g"]}, {}])
    for index in (empty, Index.open(saved(empty, tmp_path / "shop.usearch"))):
        first, second = index.search(rows_nd[0], 2)
        assert (first.key, first.label, first.view) == (1, "brand/tea", "front.jpg")
        assert (first.metadata, second.metadata) == ({"price": 1.5, "größe": ["500 g"]}, {})
        assert [item.source for item in index.items()] == ["a/front.jpg", "back.jpg"]


def test_what_a_program_writes_into_the_metadata_of_a_hit_stays_its_own(
    empty: Index, rows_nd: NDArray[np.float32]
) -> None:
    empty.add("a", rows_nd[:2], ["1", "2"], metadata=[{"price": 1}, {}])
    for hit in empty.search(rows_nd[0], 2):
        hit.metadata["seen"] = True  # type: ignore[index]
    assert [item.metadata for item in empty.items()] == [{"price": 1}, {}]


def test_an_index_keeps_what_it_was_given_when_the_memory_is_used_again(
    empty: Index, rows_nd: NDArray[np.float32]
) -> None:
    buffer = rows_nd[:1].copy()
    empty.add("a", buffer, ["1"])
    buffer[:] = 0
    assert empty.search(rows_nd[0], 1)[0].similarity == pytest.approx(1, abs=FLOATS)


def test_an_index_read_back_answers_as_before(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    fill(empty, unit_rows(rng, 9), list("aaabbbccc"))
    empty.save(tmp_path / "shop.usearch")
    opened = Index.open(tmp_path / "shop.usearch")
    query_1d = unit_rows(rng, 1)[0]
    assert opened.search(query_1d, 9) == empty.search(query_1d, 9)
    assert (opened.labels, opened.threshold, len(opened)) == (empty.labels, empty.threshold, 9)


def test_stored_descriptors_come_back_in_the_order_in_which_they_are_asked_for(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    fill(empty, rows_nd, ["a"] * 12)
    for tolerance in (FLOATS, CODES):
        np.testing.assert_allclose(empty.descriptors(), rows_nd, atol=tolerance)
        np.testing.assert_allclose(empty.descriptors([7, 2, 7]), rows_nd[[6, 1, 6]], atol=tolerance)
        empty.save(tmp_path / "shop.usearch")
    with pytest.raises(InputError, match="no view with the key 13"):
        empty.descriptors([1, 13])


def test_views_are_listed_by_their_keys_and_by_their_labels(empty: Index, rows_nd: NDArray[np.float32]) -> None:
    fill(empty, rows_nd[:6], ["cup", "tea", "cup", "pan", "tea", "cup"])
    empty.remove("pan")
    assert [item.key for item in empty.items([5, 1, 5])] == [5, 1, 5]
    assert [item.key for item in empty.views_of("cup")] == [1, 3, 6]
    assert empty.views_of("pan") == []
    assert {label: keys.tolist() for label, keys in empty.keys_by_label().items()} == {"cup": [1, 3, 6], "tea": [2, 5]}
    assert list(empty.keys_by_label()) == ["cup", "tea"]
    with pytest.raises(InputError, match="no view with the key 4"):
        empty.items([1, 4])
    empty.remove([1, 2, 3, 5, 6])
    assert empty.keys_by_label() == {}


def test_the_recall_is_measured_when_the_codes_are_chosen(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    fill(empty, rows_nd, ["a"] * 12)
    assert empty.recall is None
    empty.save(tmp_path / "shop.usearch")
    recall = Index.open(tmp_path / "shop.usearch").recall
    assert recall is not None
    assert (recall.queries, recall.items) == (12, 12)
    assert recall.value > 0.95


def test_usearch_opens_the_file_by_itself(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 5)
    fill(empty, rows_nd, list("abcde"))
    empty.save(tmp_path / "shop.usearch")
    from usearch.index import Index as PlainIndex

    plain = PlainIndex.restore(str(tmp_path / "shop.usearch"))
    assert plain is not None
    assert len(plain) == 5
    codes_1d = np.rint(rows_nd[2] / np.abs(rows_nd[2]).max() * 127).astype(np.int8)
    assert plain.search(codes_1d, 1, exact=True).keys[0] == 3


def test_a_file_whose_footer_was_cut_off_is_refused(empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]) -> None:
    fill(empty, rows_nd[:3], list("abc"))
    path = saved(empty, tmp_path / "shop.usearch")
    path.write_bytes(path.read_bytes()[: len(empty._contents.settled().to_bytes())])
    with pytest.raises(IndexFileError, match="what deepir wrote behind the descriptors is cut short"):
        Index.open(path)


def test_a_usearch_file_of_another_program_can_be_read_and_not_changed(
    tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    from usearch.index import Index as PlainIndex

    plain = PlainIndex(ndim=DIM, dtype="f32")
    plain.add(np.arange(5, 17), rows_nd)
    path = tmp_path / "plain.usearch"
    plain.save(str(path))
    index = Index.open(path)
    assert "written by another program" in index.foreign
    assert [(hit.key, hit.label) for hit in index.search(rows_nd[3], 1)] == [(8, "key 8")]
    with pytest.raises(OptionError, match="opened for reading"):
        index.remove("key 8")
    with pytest.raises(IndexFileError, match="make an index of your own with deepir-index import"):
        Index.open(path, write=True)


def secret_of(index: Index, key: int) -> bytes:
    """The bytes of a stored descriptor."""
    return index._contents.settled().get(np.array([key], np.uint64)).tobytes()


def test_a_removed_label_leaves_nothing_in_the_next_file_of_a_small_index(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    path = tmp_path / "shop.usearch"
    fill(empty, rows_nd[:6], ["kept", "kept", "kept", "kept", "secret-label", "kept"])
    empty.save(path)
    secret = secret_of(empty, 5)
    assert secret in path.read_bytes()
    with Index.open(path, write=True) as opened:
        assert opened.remove("secret-label") == 1
        opened.save()
    content = path.read_bytes()
    assert secret not in content
    assert b"secret-label" not in content
    # the generation before is kept until the next save, or until compact
    assert secret in backup_of(path).read_bytes()
    again = Index.open(path)
    assert (again.labels, again.search(rows_nd[3], 1)[0].view) == ({"kept": 5}, "3.jpg")


def test_what_is_removed_from_a_large_index_stays_in_its_bytes_until_compact(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_contents, "_CHEAP", 3)
    path = tmp_path / "shop.usearch"
    fill(empty, rows_nd[:6], ["kept", "kept", "kept", "kept", "secret", "kept"])
    empty.save(path)
    secret = secret_of(empty, 5)
    with Index.open(path, write=True) as opened:
        opened.remove("secret")
        opened.save()
        assert secret in path.read_bytes()
        assert opened.footer.removed == 1
        opened.compact()
        assert opened.footer.removed == 0
    assert [file.name for file in tmp_path.iterdir() if secret in file.read_bytes()] == []
    assert not backup_of(path).exists()
    assert not journal_of(backup_of(path)).exists()
    assert Index.open(path).labels == {"kept": 5}


def test_keys_are_never_used_twice(empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 3)
    assert empty.add("a", rows_nd[:1], ["a.jpg"]) == [1]
    empty.remove("a")
    assert empty.add("b", rows_nd[1:2], ["b.jpg"]) == [2]
    empty.remove("b")
    empty.save(tmp_path / "shop.usearch")
    with Index.open(tmp_path / "shop.usearch", write=True) as opened:
        assert opened.add("c", rows_nd[1:], ["c.jpg", "d.jpg"]) == [3, 4]
        opened.remove([4])
        assert opened.add("c", rows_nd[:1], ["e.jpg"]) == [5]


def test_removing_an_unknown_label_lists_the_known_ones(
    empty: Index, rng: np.random.Generator, unit_rows: Rows
) -> None:
    fill(empty, unit_rows(rng, 2), ["cup", "plate"])
    with pytest.raises(InputError, match=r"no label 'fork'.*cup, plate"):
        empty.remove("fork")


def test_a_branch_is_removed_with_all_below_it_and_nothing_beside_it(
    empty: Index, rows_nd: NDArray[np.float32]
) -> None:
    fill(empty, rows_nd[:6], ["tea", "tea/green", "tea/green/1kg", "teapot", "tea/black", "cup"])
    assert empty.remove("tea/green/") == 2
    assert empty.labels == {"cup": 1, "tea": 1, "tea/black": 1, "teapot": 1}
    assert empty.remove("tea/") == 2
    assert empty.remove("teapot") == 1
    assert empty.labels == {"cup": 1}


def test_views_are_removed_by_their_keys_each_counted_once(empty: Index, rows_nd: NDArray[np.float32]) -> None:
    fill(empty, rows_nd[:4], list("aabb"))
    assert empty.remove([4, 1, 4]) == 2
    assert [item.key for item in empty.items()] == [2, 3]
    assert empty.remove([]) == 0
    with pytest.raises(InputError, match="no view with the key 4"):
        empty.remove([2, 4])
    assert len(empty) == 2


def test_relabelling_moves_a_label_a_branch_or_views(empty: Index, rows_nd: NDArray[np.float32]) -> None:
    fill(empty, rows_nd[:5], ["tea", "tea/green", "cup", "tea/green/1kg", "cup"])
    assert empty.relabel("tea/", "drinks/tea/") == 3
    assert empty.labels == {"cup": 2, "drinks/tea": 1, "drinks/tea/green": 1, "drinks/tea/green/1kg": 1}
    assert empty.relabel([5], "mug") == 1
    assert empty.relabel("cup", "mug") == 1
    assert empty.labels["mug"] == 2
    assert empty.search(rows_nd[4], 1)[0].label == "mug"
    with pytest.raises(InputError, match="the new name must be one too"):
        empty.relabel("drinks/", "tea")
    with pytest.raises(InputError, match="no label"):
        empty.relabel("soap/", "wash/")


def test_a_branch_can_be_moved_below_itself(empty: Index, rows_nd: NDArray[np.float32]) -> None:
    fill(empty, rows_nd[:3], ["tea", "tea/green", "tea/tea"])
    empty.relabel("tea/", "tea/tea/")
    assert empty.labels == {"tea/tea": 1, "tea/tea/green": 1, "tea/tea/tea": 1}


def test_descriptors_of_another_size_are_refused_with_both_sizes(empty: Index) -> None:
    with pytest.raises(ShapeError, match=r"descriptors of 8 values, got 16.*another model"):
        empty.add("a", np.eye(16, dtype=np.float32)[:1], ["a.jpg"])
    with pytest.raises(ShapeError, match="descriptors of 8 values, got 16"):
        empty.search(np.eye(16, dtype=np.float32)[0], 1)


@pytest.mark.parametrize("factor", [0.0, 0.99, 1.01, np.nan, np.inf])
def test_descriptors_not_of_length_one_are_refused_with_their_image(empty: Index, factor: float) -> None:
    rows_nd = np.eye(DIM, dtype=np.float32)[:2]
    rows_nd[1, 1] = factor
    with pytest.raises(ShapeError, match=r"dark\.jpg has length"):
        empty.add("a", rows_nd, ["bright.jpg", "dark.jpg"])
    with pytest.raises(ShapeError, match="query 0 has length"):
        empty.search(rows_nd[1], 1)
    assert len(empty) == 0


def test_each_descriptor_needs_a_source_and_a_label(empty: Index) -> None:
    with pytest.raises(ShapeError, match="got 1 and 1 for 2"):
        empty.add("a", np.eye(DIM, dtype=np.float32)[:2], ["a.jpg"])
    with pytest.raises(ShapeError, match="got 2 and 1 for 2"):
        empty.add("a", np.eye(DIM, dtype=np.float32)[:2], ["a.jpg", "b.jpg"], metadata=[{}])
    with pytest.raises(InputError, match="an empty part"):
        empty.add(" ", np.eye(DIM, dtype=np.float32)[:1], ["a.jpg"])


@pytest.mark.parametrize(
    "metadata", [{"price": float("nan")}, {"pose": np.eye(2)}, {(1, 2): 3}, {"set": {1}}, [], ["price"], 3, None]
)
def test_metadata_that_are_no_json_are_refused_before_anything_changes(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32], metadata: object
) -> None:
    path = saved(empty, tmp_path / "shop.usearch")
    with Index.open(path, write=True) as opened, pytest.raises(InputError, match="JSON values"):
        opened.add("a", rows_nd[:2], ["1", "2"], metadata=[{}, metadata])  # type: ignore[list-item]
    assert (len(opened), opened.search(rows_nd[0], 1)) == (0, [])
    assert len(Index.open(path)) == 0


def test_a_source_with_the_character_nul_is_refused_and_any_other_comes_back(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    with pytest.raises(InputError, match="the character NUL"):
        empty.add("a", rows_nd[:2], ["1", "a\0b"])
    assert len(empty) == 0
    # a file name in Latin-1 as Python reads it
    sources = [b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "茶.jpg", ""]
    empty.add("a", rows_nd[:3], sources)
    path = saved(empty, tmp_path / "shop.usearch")
    with Index.open(path, write=True) as opened:
        opened.add("b", rows_nd[:3], sources)
        assert [item.source for item in Index.open(path).items()] == [*sources, *sources]
        opened.save()
    assert [item.source for item in Index.open(path).items()] == [*sources, *sources]


def test_another_model_is_refused_with_both_fingerprints(empty: Index, make_card: MakeCard) -> None:
    other = make_card("b")
    with pytest.raises(IndexModelError, match=f"{make_card().spec.fingerprint}.*{other.spec.fingerprint}") as caught:
        empty.check_model(other)
    assert caught.value.exit_code == 8
    assert "deepir-index rebuild" in str(caught.value)
    empty.check_model(make_card())


def test_a_share_of_false_accepts_out_of_range_is_refused_at_once(
    empty: Index, model: Path, make_card: MakeCard
) -> None:
    with pytest.raises(OptionError, match=r"between 0 and 1, got 1\.5"):
        Index.create(make_card(), model, far=1.5)
    with pytest.raises(OptionError, match=r"between 0 and 1, got 1\.5"):
        empty.set(far=1.5)


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan")])
def test_a_margin_out_of_range_is_refused(empty: Index, margin: float) -> None:
    with pytest.raises(OptionError, match="margin must be between 0 and 1"):
        empty.set(margin=margin)


def test_each_change_is_seen_by_who_opens_the_file_next(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    path = saved(empty, tmp_path / "shop.usearch")
    with Index.open(path, write=True) as writer:
        for change in (
            lambda: writer.add("a/1", rows_nd[:2], ["1", "2"], metadata=[{"price": 1}, {}]),
            lambda: writer.add("b", rows_nd[2:3], ["3"]),
            lambda: writer.relabel("a/", "c/"),
            lambda: writer.remove([2]),
            lambda: writer.set(margin=0.5, far=0.2),
            lambda: writer.set(threshold=Threshold(0.75, 0.2, 3, "unknown")),
        ):
            change()
            reader = Index.open(path)
            assert list(reader.items()) == list(writer.items())
            assert reader.search(rows_nd[0], 5) == writer.search(rows_nd[0], 5)
            assert (reader.margin, reader.threshold) == (writer.margin, writer.threshold)
            assert (reader.footer.next_key, reader.pending) == (writer.footer.next_key, writer.pending)
        assert writer.pending == 8
        writer.save()
        assert (writer.pending, Index.open(path).pending) == (0, 0)
        assert list(Index.open(path).items()) == list(writer.items())
    assert reader.threshold == Threshold(0.75, 0.2, 3, "unknown")


def test_an_index_opened_for_reading_cannot_be_changed(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    fill(empty, rows_nd[:2], ["a", "b"])
    path = saved(empty, tmp_path / "shop.usearch")
    before = path.read_bytes()
    reader = Index.open(path)
    for change in (
        lambda: reader.add("c", rows_nd[2:3], ["c"]),
        lambda: reader.remove("a"),
        lambda: reader.relabel("a", "c"),
        lambda: reader.set(margin=0.5),
        reader.save,
        reader.compact,
    ):
        with pytest.raises(OptionError, match="opened for reading: open it with write=True"):
            change()
    assert (reader.labels, path.read_bytes()) == ({"a": 1, "b": 1}, before)
    # the lock stands there since the index was saved
    assert sorted(file.name for file in tmp_path.glob("*shop*")) == [f".{path.name}.lock", path.name]


def test_a_closed_index_can_be_asked_but_not_changed(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    fill(empty, rows_nd[:2], ["a", "b"])
    path = saved(empty, tmp_path / "shop.usearch")
    with Index.open(path, write=True) as closed:
        closed.remove("b")
    with Index.open(path, write=True, wait=0) as other:
        assert other.labels == closed.labels == {"a": 1}
        with pytest.raises(OptionError, match="open it with write=True"):
            closed.remove("a")


def test_a_second_writer_is_refused_while_the_first_has_the_file(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    path = saved(empty, tmp_path / "shop.usearch")
    with Index.open(path, write=True):
        with pytest.raises(IndexBusyError, match="close it there first"):
            Index.open(path, write=True, wait=0)
        assert len(Index.open(path)) == 0
    Index.open(path, write=True, wait=0).close()


def test_a_change_that_somebody_else_made_meanwhile_is_not_overwritten(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 3)
    fill(empty, rows_nd[:1], ["a"])
    path = saved(empty, tmp_path / "shop.usearch")
    with Index.open(path, write=True) as theirs:
        theirs.add("b", rows_nd[1:2], ["b.jpg"])
        theirs.save()
    empty.add("c", rows_nd[2:], ["c.jpg"])
    with pytest.raises(IndexFileError, match="was changed by another program since"):
        empty.save(path)
    assert Index.open(path).labels == {"a": 1, "b": 1}


def test_a_copy_saved_elsewhere_leaves_the_file_and_its_journal_as_they_are(
    empty: Index, tmp_path: Path, rows_nd: NDArray[np.float32]
) -> None:
    path, copy = saved(empty, tmp_path / "shop.usearch"), tmp_path / "copy.usearch"
    with Index.open(path, write=True) as index:
        index.add("a", rows_nd[:1], ["1"])
        index.save(copy)
        assert index.path == path
        index.add("b", rows_nd[1:2], ["2"])
        assert (Index.open(copy).labels, Index.open(path).labels) == ({"a": 1}, {"a": 1, "b": 1})
        index.save()
    assert Index.open(path).labels == {"a": 1, "b": 1}


def test_a_reader_is_not_disturbed_by_a_writer(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 3)
    fill(empty, rows_nd, list("abc"))
    path = saved(empty, tmp_path / "shop.usearch")
    reader = Index.open(path)
    path.write_bytes(b"")
    assert reader.search(rows_nd[1], 1)[0].label == "b"


def test_a_writer_killed_before_the_rename_leaves_the_old_index(
    empty: Index, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    fill(empty, unit_rows(rng, 2), ["a", "b"])
    path = saved(empty, tmp_path / "shop.usearch")
    program = (
        "import os, signal\n"
        "from deepir.runtime import Index\n"
        f"index = Index.open({str(path)!r}, write=True)\n"
        "index.remove('a')\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "index.save()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    # the removal was acknowledged, the new file was not
    opened = Index.open(path)
    assert (opened.labels, opened.generation, opened.pending) == ({"b": 1}, 1, 1)
    assert not backup_of(path).exists()


def test_the_threshold_follows_every_change(empty: Index, rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 4)
    fill(empty, rows_nd[:2], ["a", "b"])
    alike = float(rows_nd[0] @ rows_nd[1])
    assert empty.threshold is not None
    assert empty.threshold.value == pytest.approx(alike, abs=FLOATS)
    empty.remove("b")
    assert empty.threshold is None


def test_the_threshold_follows_the_wanted_share_of_false_accepts(
    empty: Index, rng: np.random.Generator, unit_rows: Rows
) -> None:
    rows_nd = unit_rows(rng, 40)
    labels = [str(number % 8) for number in range(40)]
    fill(empty, rows_nd, labels)
    assert empty.threshold == fit_threshold(empty.descriptors(), labels)
    empty.set(far=0.5)
    assert empty.threshold == fit_threshold(empty.descriptors(), labels, 0.5)
    empty.fit_threshold(0.2)
    assert empty.threshold == fit_threshold(empty.descriptors(), labels, 0.2)


def test_a_threshold_that_was_given_stays_when_another_share_is_wanted(
    empty: Index, rows_nd: NDArray[np.float32]
) -> None:
    fill(empty, rows_nd[:4], list("aabb"))
    given = Threshold(0.75, 0.2, 3, "unknown")
    empty.set(threshold=given, far=0.2)
    assert empty.threshold == given
    empty.set(far=0.3)
    assert empty.threshold == given


def test_a_threshold_from_unknown_pictures_stays_when_items_are_added(
    empty: Index, rng: np.random.Generator, unit_rows: Rows, tmp_path: Path
) -> None:
    empty.add("a", unit_rows(rng, 3), ["1", "2", "3"])
    fitted = empty.fit_threshold_to_unknown(unit_rows(rng, 20), far=0.2)
    empty.add("b", unit_rows(rng, 3), ["1", "2", "3"])
    empty.save(tmp_path / "i.usearch")
    assert Index.open(tmp_path / "i.usearch").threshold == fitted


def test_a_threshold_of_a_large_index_is_learnt_from_labels_that_have_views(
    empty: Index, rng: np.random.Generator, unit_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_contents, "_MOST_LEARNT_FROM", 20)
    fill(empty, unit_rows(rng, 50), [f"gone/{number}" for number in range(50)])
    empty.remove("gone/")
    empty.add("many", unit_rows(rng, 30), [""] * 30)
    empty.add("few", unit_rows(rng, 3), [""] * 3)
    assert empty.threshold is not None
    assert empty.threshold.impostors == 33
