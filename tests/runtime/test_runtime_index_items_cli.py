"""deepir-index ls, remove, relabel and compact, through the commands."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.runtime import index_saving
from deepir.runtime.index import Index
from deepir.runtime.index_items_cli import compact_command, ls_command, relabel_command, remove_command
from deepir.runtime.index_saving import finish, still_holding
from deepir.runtime.pictures import keep_thumbnail, thumbnails_of

UnitRows = Callable[..., NDArray[np.float32]]

LABELS = {"soap": 2, "tea/black": 1, "tea/green/100g": 3, "tea/green/250g": 2}


def invoke(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def shop(
    tmp_path: Path, model: Path, make_card: Callable[..., ModelCard], unit_rows: UnitRows, rng: np.random.Generator
) -> Path:
    path = tmp_path / "shop.usearch"
    index = Index.create(make_card(), model)
    for label, count in LABELS.items():
        names = [f"pictures/{label}/{number}.png" for number in range(count)]
        index.add(label, unit_rows(rng, count), names, metadata=[{"price": number} for number in range(count)])
    index.save(path)
    return path


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large, so that changes stay in the journal."""
    monkeypatch.setattr(index_saving, "_SMALL", 0)


def test_ls_gives_each_label_with_its_number_of_views(shop: Path) -> None:
    result = invoke(ls_command, shop)
    assert result.exit_code == 0, result.stderr
    listed = [line.split() for line in result.stdout.splitlines()]
    assert {label: int(count) for count, label in listed} == LABELS
    assert "8 views of 4 labels" in result.stderr
    assert f"next: deepir-index ls {shop} soap --views" in result.stderr


def test_ls_of_a_branch_gives_what_lies_in_it(shop: Path) -> None:
    facts = json.loads(invoke(ls_command, shop, "tea/green/", "--json").stdout)
    assert facts == {"path": str(shop), "items": 5, "labels": {"tea/green/100g": 3, "tea/green/250g": 2}}


def test_a_label_that_only_begins_like_a_branch_is_not_in_it(shop: Path) -> None:
    assert invoke(relabel_command, shop, "soap", "tea/greenish").exit_code == 0
    assert list(json.loads(invoke(ls_command, shop, "tea/green/", "--json").stdout)["labels"]) == [
        "tea/green/100g",
        "tea/green/250g",
    ]


def test_ls_of_a_label_is_that_label_alone(shop: Path) -> None:
    assert invoke(ls_command, shop, "tea/black").stdout.split() == ["1", "tea/black"]


def test_a_tree_counts_the_views_of_whole_branches(shop: Path) -> None:
    lines = invoke(ls_command, shop, "--tree").stdout.splitlines()
    assert lines == [
        "     2 soap",
        "     6 tea/",
        "     1   black",
        "     5   green/",
        "     3     100g",
        "     2     250g",
    ]
    assert json.loads(invoke(ls_command, shop, "--tree", "--json").stdout)["branches"] == {"tea": 6, "tea/green": 5}


def test_a_branch_that_is_a_label_too_says_how_many_are_its_own(shop: Path) -> None:
    assert invoke(relabel_command, shop, "soap", "tea").exit_code == 0
    assert invoke(ls_command, shop, "--tree").stdout.splitlines()[0] == "     8 tea/  (2 of its own)"


def test_views_are_listed_with_key_picture_and_metadata(shop: Path) -> None:
    views = json.loads(invoke(ls_command, shop, "soap", "--views", "--json").stdout)["views"]
    assert views == [
        {"key": 1, "label": "soap", "view": "0.png", "source": "pictures/soap/0.png", "metadata": {"price": 0}},
        {"key": 2, "label": "soap", "view": "1.png", "source": "pictures/soap/1.png", "metadata": {"price": 1}},
    ]
    lines = invoke(ls_command, shop, "soap", "--views").stdout.splitlines()
    assert lines[1] == '     2 soap  pictures/soap/1.png  {"price": 1}'


def test_remove_forgets_a_label_and_says_where_it_still_stands(shop: Path) -> None:
    result = invoke(remove_command, shop, "soap")
    assert (result.exit_code, result.stdout) == (0, "")
    backup = shop.with_name("shop.usearch.bak")
    assert f"removed 2 items of soap; {backup}, {backup}.journal still hold them" in result.stderr
    assert f"next: deepir-index compact {shop}" in result.stderr
    assert "soap" not in Index.open(shop).labels
    assert invoke(remove_command, shop, "soap").exit_code == 3


def test_remove_forgets_a_branch_and_nothing_beside_it(shop: Path) -> None:
    facts = json.loads(invoke(remove_command, shop, "tea/green/", "--json").stdout)
    assert (facts["removed"], facts["items"], facts["labels"], facts["pending"]) == (5, 3, 2, 0)
    assert Index.open(shop).labels == {"soap": 2, "tea/black": 1}


def test_remove_by_key_forgets_single_views(shop: Path) -> None:
    result = invoke(remove_command, shop, "--key", 1, "--key", 4)
    assert "removed 2 items by key (1, 4)" in result.stderr
    assert [item.key for item in Index.open(shop).items()] == [2, 3, 5, 6, 7, 8]


def test_a_key_beside_a_label_must_be_one_of_its_views(shop: Path) -> None:
    before = shop.read_bytes()
    for command, words in ((remove_command, ("soap",)), (relabel_command, ("soap", "brush"))):
        result = invoke(command, shop, *words, "--key", 3)
        assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
        assert "the view 3 is not one of soap" in result.stderr
    assert shop.read_bytes() == before
    assert json.loads(invoke(remove_command, shop, "soap", "--key", 2, "--json").stdout)["removed"] == 1


def test_relabel_moves_a_label_and_joins_one_that_is_there(shop: Path) -> None:
    result = invoke(relabel_command, shop, "soap", "tea/black")
    assert "relabelled 2 items of soap as tea/black, which had 1 already" in result.stderr
    assert f"next: deepir-index ls {shop} tea/black" in result.stderr
    assert Index.open(shop).labels == {"tea/black": 3, "tea/green/100g": 3, "tea/green/250g": 2}


def test_relabel_moves_a_branch_with_all_that_is_in_it(shop: Path) -> None:
    facts = json.loads(invoke(relabel_command, shop, "tea/green/", "sencha/", "--json").stdout)
    assert (facts["relabelled"], facts["old"], facts["new"], facts["labels"]) == (5, "tea/green/", "sencha/", 4)
    assert Index.open(shop).labels == {"sencha/100g": 3, "sencha/250g": 2, "soap": 2, "tea/black": 1}


def test_relabel_by_key_moves_single_views(shop: Path) -> None:
    assert invoke(relabel_command, shop, "soap", "brush", "--key", 2).exit_code == 0
    assert [(item.key, item.label) for item in Index.open(shop).items()][:2] == [(1, "soap"), (2, "brush")]


def test_compact_leaves_no_trace_of_what_was_removed(shop: Path) -> None:
    with Index.open(shop) as index:
        removed = index.footer.codes.encode(index.descriptors([1])).tobytes()
    assert removed in shop.read_bytes()
    for word in ("soap", "tea/black"):
        invoke(remove_command, shop, word)
    result = invoke(compact_command, shop)
    assert result.exit_code == 0, result.stderr
    assert f"next: deepir-index verify {shop}" in result.stderr
    files = [path for path in shop.parent.iterdir() if path.suffix != ".onnx"]
    assert {path.name for path in files} == {"shop.usearch", ".shop.usearch.lock"}
    assert not any(removed in path.read_bytes() for path in files)
    with Index.open(shop) as index:
        assert (len(index), still_holding(index)) == (5, [])


def test_compact_deletes_kept_pictures_that_no_view_names(
    shop: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    names = [keep_thumbnail(shop, content) for content in (b"one", b"two")]
    with Index.open(shop, write=True) as index:
        index.add("new", unit_rows(rng, 2), ["a.png", "b.png"], metadata=[{"thumbnail": name} for name in names])
        key = index.newest_key
    assert str(thumbnails_of(shop)) not in invoke(remove_command, shop, "--key", 1).stderr
    result = invoke(remove_command, shop, "--key", key)
    assert str(thumbnails_of(shop)) in result.stderr
    facts = json.loads(invoke(compact_command, shop, "--json").stdout)
    assert (facts["pictures_deleted"], facts["items"]) == (1, 8)
    assert [path.name for path in thumbnails_of(shop).iterdir()] == [names[0]]


@pytest.mark.usefixtures("large")
def test_a_change_of_a_large_file_stays_in_the_journal_and_says_so(shop: Path) -> None:
    before = shop.read_bytes()
    result = invoke(remove_command, shop, "soap")
    journal = shop.with_name("shop.usearch.journal")
    assert f"changes of 2 views stand in {journal}" in result.stderr
    assert f"removed 2 items of soap; {shop}, {journal} still hold them" in result.stderr
    assert shop.read_bytes() == before
    assert "soap" not in Index.open(shop).labels


@pytest.mark.usefixtures("large")
def test_many_pending_changes_are_written_into_the_file(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_saving, "_MOST_PENDING", 2)
    with Index.open(shop, write=True) as index:
        index.remove("soap")
        finish(index)
        assert index.pending == 2
        index.remove("tea/black")
        assert finish(index).startswith(f"wrote {shop}")
        assert (index.pending, index.generation) == (0, 2)


def test_an_index_without_a_change_stays_as_it_is(shop: Path) -> None:
    with Index.open(shop, write=True) as index:
        assert finish(index) == f"{shop} stays as it is"
        assert index.generation == 1


def test_two_writers_cannot_change_an_index_at_once(shop: Path) -> None:
    with Index.open(shop, write=True):
        for command, words in (
            (remove_command, ("soap",)),
            (relabel_command, ("soap", "brush")),
            (compact_command, ()),
        ):
            result = invoke(command, shop, *words, "--wait", 0)
            assert (result.exit_code, result.stderr.count("\n")) == (8, 1), result.stderr
            assert f"{shop} is open for writing" in result.stderr
    assert invoke(ls_command, shop).exit_code == 0


def test_every_wrong_word_is_one_sentence_with_its_exit_code(shop: Path, tmp_path: Path) -> None:
    cases: list[tuple[click.Command, tuple[object, ...], int, str]] = [
        (ls_command, (shop, "purple"), 3, "it has soap, tea/black, tea/green/100g, tea/green/250g"),
        (ls_command, (shop, "soap//"), 3, "an empty part"),
        (ls_command, (shop, "--tree", "--views"), 2, "give one of them"),
        (ls_command, (tmp_path / "no.usearch",), 3, "cannot read the index"),
        (remove_command, (shop,), 2, "say what to remove"),
        (remove_command, (shop, "tea"), 3, "no label 'tea'"),
        (remove_command, (shop, "--key", 99), 3, "no view with the key 99"),
        (relabel_command, (shop, "purple", "red"), 3, "no label 'purple'"),
        (relabel_command, (shop, "soap", "a//b"), 3, "an empty part"),
        (relabel_command, (shop, "tea/", "drinks"), 3, "drinks/"),
    ]
    before = shop.read_bytes()
    for command, words, exit_code, part in cases:
        result = invoke(command, *words)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (words, result.output)
        assert result.stderr.startswith("error: "), words
        assert (result.stderr.count("\n"), part in result.stderr) == (1, True), (words, result.stderr)
    assert shop.read_bytes() == before
