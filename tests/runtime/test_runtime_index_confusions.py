"""confusions finds the pairs of labels whose views are most alike, and says what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import deepir.runtime.view_blocks as module
from deepir.card import ModelCard
from deepir.errors import InputError, OptionError
from deepir.image import Image
from deepir.runtime import Index
from deepir.runtime.confusions import find_confusions
from deepir.runtime.index_confusions_cli import confusions_command
from deepir.runtime.threshold import Threshold

Rows = NDArray[np.float32]
Picture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]
MakeCard = Callable[..., ModelCard]

STORED: dict[str, tuple[float, ...]] = {
    "tea/green/100g": (0, 3),
    "tea/green/200g": (12, 40),
    "cup": (52,),
    "plate": (90, 91),
    "copy": (170, 173),
    "again": (150, 170.5),
}


def at_angles(*degrees: float) -> Rows:
    """Descriptors in a plane: the similarity of two is the cosine of the angle between them."""
    angles = np.radians(degrees)
    rows_nd = np.zeros((len(degrees), 8), np.float32)
    rows_nd[:, 0], rows_nd[:, 1] = np.cos(angles), np.sin(angles)
    return rows_nd


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


@pytest.fixture
def run() -> Command:
    return lambda *words: CliRunner().invoke(confusions_command, [str(word) for word in words])


@pytest.fixture
def plane(tmp_path: Path, model: Path, make_card: MakeCard) -> Path:
    index = Index.create(make_card(), model, dtype="f32")
    for label, degrees in STORED.items():
        index.add(label, at_angles(*degrees), [f"stored/{one}.png" for one in degrees])
    index.set(threshold=Threshold(0.95, 0.01, 5, "unknown"), margin=0.02)
    index.save(tmp_path / "plane.usearch")
    return tmp_path / "plane.usearch"


def pairs_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    pairs: list[dict[str, Any]] = json.loads(result.stdout)["pairs"]
    return pairs


def test_the_most_alike_pairs_come_first_with_their_nearest_views(plane: Path, run: Command) -> None:
    pairs = pairs_of(run(plane, "--json", "--most", 4))
    found = [(*one["labels"], *(view["view"] for view in one["views"]), one["similarity"]) for one in pairs]
    assert found == [
        ("again", "copy", "170.5.png", "170.png", pytest.approx(cosine(0.5), abs=1e-4)),
        ("tea/green/100g", "tea/green/200g", "3.png", "12.png", pytest.approx(cosine(9), abs=1e-4)),
        ("cup", "tea/green/200g", "52.png", "40.png", pytest.approx(cosine(12), abs=1e-4)),
        ("cup", "plate", "52.png", "90.png", pytest.approx(cosine(38), abs=1e-4)),
    ]


def test_each_view_is_compared_with_its_own_label(plane: Path, run: Command) -> None:
    pairs = pairs_of(run(plane, "--json"))
    green = next(one for one in pairs if one["labels"] == ["tea/green/100g", "tea/green/200g"])
    assert [one["own"] for one in green["views"]] == [
        pytest.approx(cosine(3), abs=1e-4),
        pytest.approx(cosine(28), abs=1e-4),
    ]
    # 3 degrees from its own view, 9 from the other label: nearer, but not by the margin
    assert green["at_risk"] == ["tea/green/100g", "tea/green/200g"]
    cup = next(one for one in pairs if one["labels"] == ["cup", "tea/green/200g"])
    assert cup["views"][0]["own"] is None
    assert (cup["views"][0]["views"], cup["at_risk"]) == (1, ["cup", "tea/green/200g"])
    plate = next(one for one in pairs if one["labels"] == ["cup", "plate"])
    assert plate["at_risk"] == ["cup"]


def test_the_advice_fits_the_pair(plane: Path, run: Command) -> None:
    advice = {tuple(one["labels"]): one["advice"] for one in pairs_of(run(plane, "--json"))}
    assert "if one is under the wrong label, remove it (--key 11 or 8)" in advice["again", "copy"]
    assert "relabel both as tea/green" in advice["tea/green/100g", "tea/green/200g"]
    assert "add views of cup" in advice["cup", "tea/green/200g"]
    assert "apart" in advice["cup", "plate"]


def test_pairs_above_the_threshold_are_marked_and_counted(plane: Path, run: Command) -> None:
    result = run(plane, "--json")
    assert [one["above_threshold"] for one in pairs_of(result)[:4]] == [True, True, True, False]
    assert "3 above the threshold 0.950" in result.stderr
    assert f"next: deepir-index add {plane} again IMAGE..." in result.stderr


def test_people_read_pairs_views_and_advice(plane: Path, run: Command) -> None:
    lines = run(plane, "--most", 1).stdout.splitlines()
    assert lines[0].split() == ["1.000", "again", "|", "copy"]
    assert lines[1].strip() == f"again: 170.5.png (key 11, own {cosine(20.5):.3f}, 2 views)"
    assert lines[2].strip() == f"copy: 170.png (key 8, own {cosine(3):.3f}, 2 views)"
    assert len(lines) == 4


def plain_pairs(index: Index, most: int) -> list[tuple[float, str, str]]:
    items, rows_nd = list(index.items()), index.descriptors()
    best: dict[tuple[str, str], float] = {}
    for one, row in zip(items, rows_nd, strict=True):
        for other, second in zip(items, rows_nd, strict=True):
            if one.label < other.label:
                pair = (one.label, other.label)
                best[pair] = max(best.get(pair, -2.0), float(row @ second))
    return sorted(((value, *pair) for pair, value in best.items()), reverse=True)[:most]


@pytest.fixture(params=[(4096, 1024), (5, 3), (1, 1)], ids=str)
def parted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The views in blocks and batches of other sizes."""
    rows, at_once = request.param
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_SAMPLED_AT_ONCE", at_once)


@pytest.mark.usefixtures("parted")
@pytest.mark.parametrize("most", [1, 4, 1000])
def test_no_pair_is_missed_however_the_views_are_parted(
    most: int,
    model: Path,
    make_card: MakeCard,
    rng: np.random.Generator,
    unit_rows: Callable[..., Rows],
) -> None:
    index = Index.create(make_card(), model, dtype="f32")
    for number in rng.integers(0, 12, 40):
        index.add(f"{number:02}", unit_rows(rng, 1), ["one.png"])
    found = [
        (one.similarity, one.first.item.label, one.second.item.label) for one in find_confusions(index, most).pairs
    ]
    expected = plain_pairs(index, most)
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
    assert [pair[0] for pair in found] == pytest.approx([pair[0] for pair in expected], abs=1e-6)


def test_of_many_views_a_sample_is_compared_and_said(
    plane: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_CELLS", 11 * 5)
    result = run(plane, "--json")
    assert "compared 5 of 11 views with all of them, evenly spread" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["compared"], facts["views"]) == (5, 11)


def test_the_sheet_shows_both_views_and_their_own(
    plane: Path, tmp_path: Path, picture: Picture, write_picture: WritePicture, run: Command
) -> None:
    for degrees in STORED.values():
        for one in degrees:
            write_picture(tmp_path / "stored" / f"{one}.png", picture("green", np.random.default_rng(int(one))))
    result = run(plane, "--sheet", tmp_path / "near.html", "--most", 2)
    assert result.exit_code == 0, result.stderr
    html = (tmp_path / "near.html").read_text(encoding="utf-8")
    assert html.count("<section") == 2
    second = html[html.rindex("<section") :]
    assert [re.sub("<.*?>", "", one) for one in re.findall("<figcaption>.*?</figcaption>", second)] == [
        "tea/green/100g: 3.png",
        f"✗ {cosine(9):.3f} tea/green/200g: 12.png",
        f"✓ {cosine(3):.3f} own: tea/green/100g: 0.png",
        f"✓ {cosine(28):.3f} own: tea/green/200g: 40.png",
    ]
    assert second.count("<img") == 4


def test_the_colours_of_a_real_index_are_compared(shop: Path, run: Command) -> None:
    pairs = pairs_of(run(shop, "--json"))
    assert len(pairs) == 6
    assert {label for one in pairs for label in one["labels"]} == {"red", "green", "blue", "yellow"}


def test_what_cannot_be_is_one_sentence(
    plane: Path, tmp_path: Path, model: Path, make_card: MakeCard, run: Command
) -> None:
    single = Index.create(make_card(), model)
    single.add("only", at_angles(1, 2), ["1.png", "2.png"])
    single.save(tmp_path / "single.usearch")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((tmp_path / "single.usearch",), 3, "1 labels, nothing to confuse"),
        ((plane, "--most", 0), 2, "got 0"),
        ((plane, "--most", 5000), 2, "got 5000"),
        ((plane, "--sheet", tmp_path), 3, "it is a folder"),
        ((tmp_path / "no.usearch",), 3, "cannot read"),
    ]
    for words, exit_code, part in cases:
        result = run(*words)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (words, result.output)
        assert part in result.stderr, (words, result.stderr)


def test_an_index_in_memory_is_refused_the_same_way(model: Path, make_card: MakeCard) -> None:
    index = Index.create(make_card(), model)
    with pytest.raises(InputError, match="0 labels"):
        find_confusions(index)
    with pytest.raises(OptionError, match="got -1"):
        find_confusions(index, -1)
