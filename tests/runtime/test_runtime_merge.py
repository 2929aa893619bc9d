"""Several indexes become one: as a library and through deepir-index merge."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import IndexModelError, InputError, OptionError
from deepir.runtime.index import Index
from deepir.runtime.index_merge_cli import merge_command
from deepir.runtime.index_whitening import IndexWhitening, fit_index_whitening
from deepir.runtime.merge import Part, merge, repeated
from deepir.runtime.pictures import keep_thumbnail, thumbnails_of

UnitRows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]
Make = Callable[..., Path]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(merge_command, [str(word) for word in words])


@pytest.fixture
def make(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Make:
    """make(name, {label: rows}) writes an index; a number stands for so many random rows."""

    def write(
        name: str,
        labels: dict[str, int | NDArray[np.float32]],
        whitening: IndexWhitening | None = None,
        weights: str = "a",
        dtype: str = "i8",
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        index = Index.create(make_card(weights), model, dtype=dtype)
        if whitening is not None:
            index.whiten(whitening)
        for label, rows in labels.items():
            rows_nd = unit_rows(rng, rows) if isinstance(rows, int) else rows
            names = [f"{label}/{number}.png" for number in range(len(rows_nd))]
            index.add(label, rows_nd, names, metadata=[{"of": path.stem}] * len(names))
        index.save(path)
        return path

    return write


def test_the_views_of_both_are_found_in_the_one(make: Make, tmp_path: Path, unit_rows: UnitRows) -> None:
    rows = unit_rows(np.random.default_rng(3), 4)
    north = make("north.usearch", {"soap": rows[:2], "tea": 3})
    south = make("south.usearch", {"soap": rows[2:], "salt": 2})
    result = invoke(north, south, "-o", tmp_path / "all.usearch")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{south}: 4 views, left out 0" in result.stderr
    assert f"next: deepir-index ls {tmp_path / 'all.usearch'} --tree" in result.stderr
    index = Index.open(tmp_path / "all.usearch")
    assert index.labels == {"salt": 2, "soap": 4, "tea": 3}
    hits = [index.search(row, 1)[0] for row in rows]
    assert [(hit.label, round(hit.similarity, 2)) for hit in hits] == [("soap", 1.0)] * 4
    assert [hit.metadata["of"] for hit in hits] == ["north", "north", "south", "south"]


def test_views_of_the_first_keep_their_keys_and_the_others_get_new_ones(make: Make, tmp_path: Path) -> None:
    north, south = make("north.usearch", {"soap": 2, "tea": 2}), make("south.usearch", {"salt": 2})
    with Index.open(north, write=True) as index:
        index.remove([4])
    merged = merge([Part(north), Part(south)], tmp_path / "all.usearch").index
    assert [(item.key, item.label) for item in merged.items()] == [
        (1, "soap"),
        (2, "soap"),
        (3, "tea"),
        (5, "salt"),
        (6, "salt"),
    ]


def test_three_indexes_become_one_with_keys_of_their_own(make: Make, tmp_path: Path) -> None:
    parts = [Part(make(f"{name}.usearch", {name: 2})) for name in ("soap", "tea", "salt")]
    merged = merge(parts, tmp_path / "all.usearch").index
    assert [item.key for item in merged.items()] == [1, 2, 3, 4, 5, 6]
    assert merged.add("oil", merged.descriptors([1]), ["x.png"]) == [7]


def test_changes_in_the_journals_take_part(make: Make, tmp_path: Path) -> None:
    north, south = make("north.usearch", {"soap": 2, "tea": 2}), make("south.usearch", {"salt": 2})
    with Index.open(south, write=True) as index:
        index.relabel("salt", "sugar")
        assert index.pending
    assert merge([Part(north), Part(south)], tmp_path / "all.usearch").index.labels == {"soap": 2, "sugar": 2, "tea": 2}


def test_a_picture_that_is_in_both_is_taken_once_and_counted(
    make: Make, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng, 3)
    north, south = make("north.usearch", {"soap": rows}), make("south.usearch", {"soap": rows[:2], "tea": rows[2:]})
    facts = json.loads(invoke(north, south, "-o", tmp_path / "all.usearch", "--json").stdout)
    assert [(part["taken"], part["repeated"]) for part in facts["parts"]] == [(3, 0), (1, 2)]
    # the same picture under another label is no repetition
    assert Index.open(tmp_path / "all.usearch").labels == {"soap": 3, "tea": 1}


def test_repeated_finds_what_a_comparison_of_all_pairs_finds(unit_rows: UnitRows, rng: np.random.Generator) -> None:
    rows = unit_rows(rng, 40)[rng.integers(40, size=300)]
    labels = [str(number) for number in rng.integers(3, size=300)]
    expected, kept = [], []
    for row, label in zip(rows, labels, strict=True):
        again = any(label == other and row @ one >= 0.999 for one, other in kept)
        expected.append(again)
        kept += [] if again else [(row, label)]
    assert repeated(rows, labels).tolist() == expected


def test_a_view_that_resembles_only_one_left_out_is_kept() -> None:
    angles = np.array([0.0, 0.04, 0.08])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert repeated(rows, ["soap"] * 3).tolist() == [False, True, False]


def test_labels_go_below_a_branch_of_their_source(make: Make, tmp_path: Path) -> None:
    north, south = make("north.usearch", {"soap": 2}), make("south.usearch", {"soap": 3})
    out = tmp_path / "all.usearch"
    result = invoke(north, south, "-o", out, "--under", f"{north}=shops/1", "--under", f"{south}=shops/2/")
    assert result.exit_code == 0, result.stderr
    assert Index.open(out).labels == {"shops/1/soap": 2, "shops/2/soap": 3}


def test_one_of_the_indexes_can_take_in_the_others(make: Make) -> None:
    north, south = make("north.usearch", {"soap": 2}), make("south.usearch", {"tea": 3})
    before = north.read_bytes()
    assert invoke(north, south, "-o", north).exit_code == 0
    assert Index.open(north).labels == {"soap": 2, "tea": 3}
    assert north.with_name("north.usearch.bak").read_bytes() == before


def test_pictures_are_named_from_the_new_folder(
    make: Make, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    north, south = make("a/north.usearch", {"soap": 1}), make("b/south.usearch", {"tea": 1})
    with Index.open(south, write=True) as index:
        index.add("salt", unit_rows(rng, 3), ["just a name", "here.png", "/far/away.png"])
    (tmp_path / "b" / "here.png").write_bytes(b"")
    inside = merge([Part(north), Part(south)], tmp_path / "all.usearch").index
    named = ["a/soap/0.png", "b/tea/0.png", "just a name", "b/here.png", "/far/away.png"]
    assert [item.source for item in inside.items()] == named
    (tmp_path / "c").mkdir()
    beside = merge([Part(north), Part(south)], tmp_path / "c" / "all.usearch").index
    assert [item.source for item in beside.items()][:2] == [
        str(tmp_path / "a/soap/0.png"),
        str(tmp_path / "b/tea/0.png"),
    ]


def test_kept_pictures_come_along(make: Make, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator) -> None:
    north, south = make("a/north.usearch", {"soap": 1}), make("b/south.usearch", {"tea": 1})
    name = keep_thumbnail(south, b"a small picture")
    with Index.open(south, write=True) as index:
        index.add("salt", unit_rows(rng, 1), ["x.png"], metadata=[{"thumbnail": name}])
    out = tmp_path / "all.usearch"
    assert invoke(north, south, "-o", out).exit_code == 0
    assert (thumbnails_of(out) / name).read_bytes() == b"a small picture"


def test_form_and_limits_are_those_of_the_first_and_a_threshold_from_unknown_is_missed(
    make: Make, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    north, south = make("n.usearch", {"soap": 2, "oil": 2}, dtype="f16"), make("s.usearch", {"tea": 2, "salt": 2})
    with Index.open(north, write=True) as index:
        index.set(margin=0.07)
    with Index.open(south, write=True) as index:
        index.fit_threshold_to_unknown(unit_rows(rng, 20), 0.1)
    out = tmp_path / "all.usearch"
    result = invoke(north, south, "-o", out)
    assert f"warning: the threshold comes from the stored views now; the one of {south}" in result.stderr
    index = Index.open(out)
    assert (index.footer.codes.dtype, index.margin) == ("f16", 0.07)
    assert index.threshold is not None
    assert (index.threshold.basis, index.threshold.far, index.threshold.impostors) == ("views", 0.01, 8)


def test_whitened_indexes_of_the_same_map_are_merged(
    make: Make, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng, 30)
    whitening = fit_index_whitening([rows], 0.25, 3)
    north = make("north.usearch", {"north": rows[20:]}, whitening)
    south = make("south.usearch", {"south": rows[:20]}, whitening)
    index = merge([Part(north), Part(south)], tmp_path / "all.usearch").index
    assert (index.dim, index.model_dim) == (3, 8)
    assert [index.search(rows[row], 1)[0].label for row in (5, 25)] == ["south", "north"]


def test_descriptors_that_cannot_be_compared_are_refused_in_one_sentence(
    make: Make, tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng, 30)
    plain = make("plain.usearch", {"soap": 2})
    white = make("white.usearch", {"soap": 2}, fit_index_whitening([rows], 0.25, 8))
    whiter = make("whiter.usearch", {"soap": 2}, fit_index_whitening([unit_rows(rng, 30)], 0.25, 8))
    other = make("other.usearch", {"soap": 2}, weights="b")
    same = fit_index_whitening([rows], 0.25, 8)
    noted = make("noted.usearch", {"soap": 2}, replace(same, note=replace(same.note, power=0.3)))
    cases = [
        ((plain, other), "the model"),
        ((plain, white), "no map"),
        ((white, whiter), "cannot be compared"),
        ((white, noted), "power 0.3"),
    ]
    for paths, part in cases:
        result = invoke(*paths, "-o", tmp_path / "all.usearch")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (8, "", 1), result.output
        assert part in result.stderr
    assert not (tmp_path / "all.usearch").exists()
    with pytest.raises(IndexModelError):
        merge([Part(plain), Part(other)], tmp_path / "all.usearch")


def test_every_wrong_word_is_one_sentence_with_its_exit_code(make: Make, tmp_path: Path) -> None:
    one, two, out = make("one.usearch", {"soap": 2}), make("two.usearch", {"tea": 2}), tmp_path / "all.usearch"
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((one, "-o", out), 2, "two indexes or more"),
        ((one, tmp_path / "no.usearch", "-o", out), 3, "cannot read the index"),
        ((one, two, "-o", tmp_path / "no" / "all.usearch"), 3, "does not exist"),
        ((one, two, "-o", out, "--under", "shop1"), 2, "INDEX=BRANCH"),
        ((one, two, "-o", out, "--under", f"{out}=shop1"), 2, "one of the indexes"),
        ((one, two, "-o", out, "--under", f"{one}=a//b"), 3, "an empty part"),
        ((one, two, "-o", out, "--under", f"{one}={'long' * 50}"), 3, "at most 200"),
    ]
    for words, exit_code, part in cases:
        result = invoke(*words)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (exit_code, "", 1), (
            words,
            result.output,
        )
        assert part in result.stderr, words
    assert not out.exists()
    with pytest.raises(OptionError):
        merge([Part(one)], out)
    with pytest.raises(InputError):
        merge([Part(one, "a//b"), Part(two)], out)
