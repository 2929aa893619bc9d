"""Labels as paths: what is refused, branches, the common ancestor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import InputError
from deepir.label_tree import (
    MOST_CHARACTERS,
    Branch,
    branch_counts,
    check_label,
    common_ancestor,
    is_below,
    parent,
    parse_selection,
    parts,
)

names = st.text("ab. é茶", min_size=1, max_size=4).filter(lambda name: name.strip() not in {"", ".", ".."})
labels = st.lists(names, min_size=1, max_size=4).map("/".join)


@given(labels)
def test_a_label_is_given_back_as_it_is(label: str) -> None:
    assert check_label(label) == label
    assert "/".join(parts(label)) == label


@pytest.mark.parametrize("label", ["", "/", "a//b", "/a", "a/", "a/ /b", " ", "a/\u2003"])
def test_an_empty_part_is_refused(label: str) -> None:
    with pytest.raises(InputError, match="an empty part"):
        check_label(label)


@pytest.mark.parametrize("label", ["..", "a/../b", "./a", "a/ .. "])
def test_a_part_that_means_another_folder_is_refused(label: str) -> None:
    with pytest.raises(InputError, match="the part"):
        check_label(label)


@pytest.mark.parametrize("label", ["a\nb", "a\0", "\x1b[31m", "a\x7f", "a\u2028b", "a\x85", "caf\udce9"])
def test_control_characters_are_refused_and_named(label: str) -> None:
    with pytest.raises(InputError, match="control character") as caught:
        check_label(label)
    assert str(caught.value).isprintable()
    str(caught.value).encode("utf-8")


def test_a_label_may_have_two_hundred_characters_and_no_more() -> None:
    assert check_label("茶" * MOST_CHARACTERS)
    with pytest.raises(InputError, match="has 201") as caught:
        check_label("茶" * (MOST_CHARACTERS + 1))
    assert len(str(caught.value)) < MOST_CHARACTERS


def test_letters_of_every_script_are_allowed() -> None:
    assert check_label("Müller & Söhne/茶 (绿)/½ l 🍵") == "Müller & Söhne/茶 (绿)/½ l 🍵"


def test_the_parent_is_the_label_above() -> None:
    assert [parent(label) for label in ("a/b/c", "a/b", "a")] == ["a/b", "a", None]


def test_below_is_inside_and_not_a_longer_name() -> None:
    assert is_below("brand/product/500g", "brand")
    assert is_below("brand/product", "brand")
    assert not is_below("brand", "brand")
    assert not is_below("brandy", "brand")
    assert not is_below("brand", "brand/product")


def test_a_slash_at_the_end_of_an_argument_means_the_branch() -> None:
    assert parse_selection("brand/product/") == Branch("brand/product")
    assert parse_selection("brand/product") == "brand/product"


@pytest.mark.parametrize("argument", ["", "/", "//", "a//", "/a/", "a\n/"])
def test_an_argument_that_names_no_label_is_refused(argument: str) -> None:
    with pytest.raises(InputError):
        parse_selection(argument)


def test_a_branch_holds_its_own_label_and_all_below() -> None:
    held = [
        label for label in ("brand", "brand/a", "brand/a/b", "brandy", "other/brand") if Branch("brand").holds(label)
    ]
    assert held == ["brand", "brand/a", "brand/a/b"]


@pytest.mark.parametrize(
    ("several", "common"),
    [
        (["brand/product/500g", "brand/product/1kg"], "brand/product"),
        (["brand/product", "brand/product/1kg"], "brand/product"),
        (["brand/a/x", "brand/b/x", "brand/a/y"], "brand"),
        (["brand/a", "brand/a"], "brand/a"),
        (["brand/a"], "brand/a"),
        (["brand/ab", "brand/ac"], "brand"),
        (["tea/green", "milk/green"], None),
        (["tea", "milk"], None),
        (["tea", "teapot"], None),
        ([], None),
    ],
)
def test_the_common_ancestor_is_the_deepest(several: list[str], common: str | None) -> None:
    assert common_ancestor(several) == common


@given(st.lists(labels, min_size=1, max_size=5))
def test_every_label_is_the_common_ancestor_or_below_it_and_nothing_deeper_is(several: list[str]) -> None:
    above = {"/".join(parts(several[0])[:depth]) for depth in range(1, 5)}
    shared = [branch for branch in above if all(Branch(branch).holds(label) for label in several)]
    assert common_ancestor(several) == max(shared, key=len, default=None)


def test_a_branch_counts_the_views_of_all_labels_in_it() -> None:
    views = {"tea": 1, "tea/green/50g": 2, "tea/green/100g": 3, "tea/black": 4, "milk": 5}
    assert branch_counts(views) == {"tea": 10, "tea/green": 5}
    assert list(branch_counts({"b/x": 1, "a/x": 1})) == ["a", "b"]


@given(st.dictionaries(labels, st.integers(1, 9), max_size=6))
def test_the_count_of_a_branch_is_that_of_the_labels_it_holds(views: dict[str, int]) -> None:
    counts = branch_counts(views)
    assert set(counts) == {"/".join(parts(label)[:depth]) for label in views for depth in range(1, len(parts(label)))}
    for branch, count in counts.items():
        assert count == sum(number for label, number in views.items() if Branch(branch).holds(label))
