"""review puts the pictures of an inbox into clusters, and adds those that a person names."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import deepir.runtime.inbox as inbox_module
from deepir.card import ModelCard
from deepir.image import Image, read_image
from deepir.runtime import Extractor, Index
from deepir.runtime.index_review_cli import review_command
from deepir.runtime.threshold import Threshold

Rows = NDArray[np.float32]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]

BLANK = 255
WAITING = {"a": 30, "b": 32, "c": 34, "far": 170, "near": 2, "next": 4}


def at_angles(*degrees: float) -> Rows:
    """Descriptors in a plane: the similarity of two is the cosine of the angle between them."""
    angles = np.radians(degrees)
    rows_nd = np.zeros((len(degrees), 8), np.float32)
    rows_nd[:, 0], rows_nd[:, 1] = np.cos(angles), np.sin(angles)
    return rows_nd


def pictured(degrees: int, seed: int = 0) -> Image:
    """A picture that the model below describes by this direction: it is as red as that."""
    image = np.random.default_rng(1000 * seed + degrees).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    image[:, :, 0] = degrees
    return image


@pytest.fixture(autouse=True)
def red_is_the_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe(extractor: Extractor, images: Sequence[Image]) -> Rows:
        degrees = [int(image[0, 0, 0]) for image in images]
        rows_nd = at_angles(*degrees)
        rows_nd[[one == BLANK for one in degrees]] = 0
        return rows_nd

    monkeypatch.setattr(Extractor, "describe", describe)


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *words, typed="": CliRunner().invoke(review_command, [str(word) for word in words], input=typed)


@pytest.fixture
def plane(tmp_path: Path, model: Path, make_card: Callable[..., ModelCard]) -> Path:
    """Two labels at 0 and 90 degrees; what is within ten degrees is known, and alike."""
    index = Index.create(make_card(), model, dtype="f32")
    index.add("zero", at_angles(0), ["zero.png"])
    index.add("right/angle", at_angles(90), ["right.png"])
    index.set(threshold=Threshold(float(np.cos(np.radians(10))), 0.01, 2, "unknown"), margin=0.02)
    index.save(tmp_path / "plane.usearch")
    return tmp_path / "plane.usearch"


@pytest.fixture
def inbox(tmp_path: Path, write_picture: WritePicture) -> Path:
    for name, degrees in WAITING.items():
        write_picture(tmp_path / "inbox" / f"{name}.png", pictured(degrees))
    return tmp_path / "inbox"


def table_of(inbox: Path) -> list[dict[str, str]]:
    with (inbox / "clusters.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def fill_in(inbox: Path, labels: dict[str, str]) -> Path:
    rows = [{**row, "label": labels.get(row["picture"], "")} for row in table_of(inbox)]
    with (inbox / "clusters.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return inbox / "clusters.csv"


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def facts_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def test_alike_pictures_fall_into_one_cluster_with_a_suggestion(plane: Path, inbox: Path, run: Command) -> None:
    clusters = facts_of(run(plane, inbox, "--json"))["clusters"]
    # the largest first; of the pictures the most typical
    assert [one["pictures"] for one in clusters] == [["b.png", "a.png", "c.png"], ["near.png", "next.png"], ["far.png"]]
    assert [(one["cluster"], one["suggestion"], one["status"]) for one in clusters] == [
        (1, "zero", "unknown"),
        (2, "zero", "match"),
        (3, "right/angle", "unknown"),
    ]
    assert clusters[0]["similarity"] == pytest.approx(np.cos(np.radians(32)), abs=1e-4)


def test_the_table_has_a_row_for_each_picture_and_room_for_a_label(plane: Path, inbox: Path, run: Command) -> None:
    result = run(plane, inbox)
    assert result.exit_code == 0, result.stderr
    rows = table_of(inbox)
    assert list(rows[0]) == ["cluster", "picture", "suggestion", "similarity", "label"]
    assert [(row["cluster"], row["picture"]) for row in rows] == [
        ("1", "b.png"),
        ("1", "a.png"),
        ("1", "c.png"),
        ("2", "near.png"),
        ("2", "next.png"),
        ("3", "far.png"),
    ]
    assert {row["label"] for row in rows} == {""}
    assert f"--labels {inbox / 'clusters.csv'}" in result.stderr
    assert files_of(inbox) == sorted([*(f"{name}.png" for name in WAITING), "clusters.csv"])


def test_people_read_a_line_for_each_cluster(plane: Path, inbox: Path, run: Command) -> None:
    lines = run(plane, inbox).stdout.splitlines()
    assert lines[0].split() == ["1", "3", "pictures", "0.848", "unknown", "zero", "b.png"]
    assert len(lines) == 3


def test_a_lower_similarity_makes_larger_clusters(plane: Path, inbox: Path, run: Command) -> None:
    clusters = facts_of(run(plane, inbox, "--json", "--similarity", 0.8))["clusters"]
    assert [len(one["pictures"]) for one in clusters] == [5, 1]


def test_blank_and_unreadable_files_are_left_out_and_said(
    plane: Path, inbox: Path, run: Command, write_picture: WritePicture
) -> None:
    blank = write_picture(inbox / "blank.png", pictured(BLANK))
    (inbox / "torn.jpg").write_bytes(b"not a picture")
    result = run(plane, inbox, "--json")
    facts = facts_of(result)
    assert (facts["blank"], facts["unreadable"]) == ([str(blank)], [str(inbox / "torn.jpg")])
    assert facts["clusters"][0]["pictures"] == ["b.png", "a.png", "c.png"]
    assert sum(len(one["pictures"]) for one in facts["clusters"]) == 6
    assert f"left out 1 blank pictures, the first is {blank}" in result.stderr
    assert "torn.jpg" in result.stderr


def test_a_name_that_is_not_utf_8_is_left_out(plane: Path, inbox: Path, run: Command) -> None:
    strange = os.fsencode(inbox) + b"/\xff.png"
    shutil.copyfile(inbox / "a.png", strange)
    result = run(plane, inbox)
    assert result.exit_code == 0, result.output
    assert "left out 1 files that are no pictures, or whose names are not UTF-8" in result.stderr
    assert len(table_of(inbox)) == 6


def test_a_large_inbox_is_reviewed_in_parts(
    plane: Path, inbox: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MOST_ROWS", 4)
    result = run(plane, inbox, "--json")
    assert facts_of(result)["waiting"] == 2
    assert "2 more pictures wait" in result.stderr
    assert len(table_of(inbox)) == 4


def test_an_assigned_cluster_becomes_views_and_moves(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    before = (inbox / "b.png").read_bytes()
    result = run(plane, inbox, "--assign", "1=tea/green")
    assert result.exit_code == 0, result.stderr
    assert "tea/green (new): 3 views" in result.stderr
    index = Index.open(plane)
    assert index.labels == {"right/angle": 1, "tea/green": 3, "zero": 1}
    assert (inbox / "done" / "tea" / "green" / "b.png").read_bytes() == before
    assert sorted(path.name for path in inbox.glob("*.png")) == ["far.png", "near.png", "next.png"]
    for item in index.views_of("tea/green"):
        assert (plane.parent / item.source).is_file()
    assert index.search(at_angles(34)[0], 1)[0].view == "c.png"


def test_the_numbers_of_the_other_clusters_stay(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    assert run(plane, inbox, "--assign", "1=tea").exit_code == 0
    assert [(row["cluster"], row["picture"]) for row in table_of(inbox)] == [
        ("2", "near.png"),
        ("2", "next.png"),
        ("3", "far.png"),
    ]
    assert run(plane, inbox, "--assign", "3=cup", "--assign", "2=zero").exit_code == 0
    assert Index.open(plane).labels == {"cup": 1, "right/angle": 1, "tea": 3, "zero": 3}
    assert table_of(inbox) == []


def test_a_label_in_the_first_row_names_its_cluster(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    table = fill_in(inbox, {"b.png": "tea", "c.png": "-", "next.png": "cup"})
    facts = facts_of(run(plane, inbox, "--labels", table, "--json"))
    # the second row of cluster 2 speaks for itself alone
    assert sorted(facts["moved"]) == ["a.png", "b.png", "next.png"]
    assert Index.open(plane).labels == {"cup": 1, "right/angle": 1, "tea": 2, "zero": 1}
    assert [row["picture"] for row in table_of(inbox)] == ["c.png", "near.png", "far.png"]
    assert facts["waiting"] == 3
    # what was left out does not stand in the way of the next review
    assert run(plane, inbox).exit_code == 0


def test_what_a_person_wrote_is_not_overwritten(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    table = fill_in(inbox, {"b.png": "tea"})
    before = table.read_bytes()
    result = run(plane, inbox)
    assert (result.exit_code, table.read_bytes()) == (3, before)
    assert "labels that were not used yet, the first is 'tea'" in result.stderr
    assert run(plane, inbox, "--labels", table).exit_code == 0
    assert run(plane, inbox).exit_code == 0


def test_questions_are_answered_one_for_each_cluster(plane: Path, inbox: Path, run: Command) -> None:
    result = run(plane, inbox, "--ask", "--json", typed="tea\n=\n\n")
    facts = facts_of(result)
    assert [(one["label"], one["new"], one["views"]) for one in facts["labels"]] == [
        ("tea", True, 3),
        ("zero", False, 2),
    ]
    assert result.stderr.count("label?") == 3
    assert "cluster 2, 2 pictures such as near.png, most like zero (0.999, match); label?" in result.stderr
    assert [row["picture"] for row in table_of(inbox)] == ["far.png"]


def test_what_is_no_label_is_asked_again(plane: Path, inbox: Path, run: Command) -> None:
    result = run(plane, inbox, "--ask", typed="tea//green\ntea/green\n")
    assert result.exit_code == 0, result.stderr
    assert "an empty part" in result.stderr
    assert Index.open(plane).labels["tea/green"] == 3


def test_no_answer_names_nothing(plane: Path, inbox: Path, run: Command) -> None:
    before = plane.read_bytes()
    result = run(plane, inbox, "--ask")
    assert result.exit_code == 0, result.stderr
    assert "nothing was named" in result.stderr
    assert (plane.read_bytes(), len(table_of(inbox))) == (before, 6)


def test_a_name_that_is_taken_among_the_done_gets_a_number(
    plane: Path, inbox: Path, run: Command, write_picture: WritePicture
) -> None:
    old = write_picture(inbox / "done" / "tea" / "a.png", pictured(150)).read_bytes()
    assert run(plane, inbox).exit_code == 0
    assert run(plane, inbox, "--assign", "1=tea").exit_code == 0
    assert files_of(inbox / "done") == ["tea/a-2.png", "tea/a.png", "tea/b.png", "tea/c.png"]
    assert (inbox / "done" / "tea" / "a.png").read_bytes() == old


def test_pictures_not_worth_a_view_move_all_the_same(
    plane: Path, inbox: Path, run: Command, write_picture: WritePicture
) -> None:
    shutil.copyfile(inbox / "a.png", inbox / "again.png")
    assert run(plane, inbox).exit_code == 0
    result = run(plane, inbox, "--assign", "1=tea")
    assert "tea (new): 3 views, left out 1 repeated" in result.stderr
    assert "done/tea/again.png" in files_of(inbox)


def test_without_second_names_a_picture_is_copied(
    plane: Path, inbox: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert run(plane, inbox).exit_code == 0
    before = (inbox / "far.png").read_bytes()
    assert run(plane, inbox, "--assign", "3=cup").exit_code == 0
    assert (inbox / "done" / "cup" / "far.png").read_bytes() == before
    assert not (inbox / "far.png").exists()


def test_a_link_in_the_inbox_moves_and_its_picture_stays(
    plane: Path, inbox: Path, tmp_path: Path, run: Command
) -> None:
    (inbox / "far.png").rename(tmp_path / "elsewhere.png")
    (inbox / "far.png").symlink_to(tmp_path / "elsewhere.png")
    assert run(plane, inbox).exit_code == 0
    assert run(plane, inbox, "--assign", "3=cup").exit_code == 0
    moved = inbox / "done" / "cup" / "far.png"
    assert (moved.is_symlink(), read_image(moved)[0, 0, 0]) == (True, 170)
    assert (tmp_path / "elsewhere.png").is_file()
    assert not os.path.lexists(inbox / "far.png")


def test_a_label_that_fails_takes_nothing_with_it(
    plane: Path, inbox: Path, run: Command, write_picture: WritePicture
) -> None:
    assert run(plane, inbox).exit_code == 0
    write_picture(inbox / "next.png", pictured(BLANK))
    table = fill_in(inbox, {"b.png": "tea", "near.png": "cup"})
    result = run(plane, inbox, "--labels", table)
    assert result.exit_code == 3
    assert "next.png has length 0" in result.stderr
    # the label before it is whole, of this one nothing happened
    assert Index.open(plane).labels == {"right/angle": 1, "tea": 3, "zero": 1}
    assert files_of(inbox) == sorted(
        ["clusters.csv", *(f"done/tea/{name}.png" for name in "abc"), "far.png", "near.png", "next.png"]
    )


def test_a_file_that_is_no_picture_stays(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    (inbox / "c.png").write_bytes(b"torn since")
    result = run(plane, inbox, "--assign", "1=tea")
    assert result.exit_code == 0, result.stderr
    assert "1 files are no pictures and stayed" in result.stderr
    assert files_of(inbox / "done") == ["tea/a.png", "tea/b.png"]
    assert (inbox / "c.png").is_file()


def test_pictures_that_are_gone_are_said(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    (inbox / "a.png").unlink()
    result = run(plane, inbox, "--assign", "1=tea")
    assert (result.exit_code, "1 pictures are not in" in result.stderr) == (0, True), result.stderr
    assert Index.open(plane).labels["tea"] == 2


def test_small_copies_are_kept_as_the_index_keeps_them(
    tmp_path: Path, inbox: Path, model: Path, make_card: Callable[..., ModelCard], run: Command
) -> None:
    index = Index.create(make_card(), model, dtype="f32")
    index.setup(thumbnails=64)
    index.add("zero", at_angles(0), ["zero.png"])
    index.save(tmp_path / "small.usearch")
    assert run(tmp_path / "small.usearch", inbox, "--similarity", 0.98).exit_code == 0
    assert run(tmp_path / "small.usearch", inbox, "--assign", "1=tea").exit_code == 0
    views = Index.open(tmp_path / "small.usearch").views_of("tea")
    assert len(views) == 3
    for view in views:
        assert (tmp_path / "small.usearch.thumbnails" / str(view.metadata["thumbnail"])).is_file()


def test_the_sheet_shows_a_row_for_each_cluster(plane: Path, inbox: Path, tmp_path: Path, run: Command) -> None:
    result = run(plane, inbox, "--sheet", tmp_path / "inbox.html")
    assert result.exit_code == 0, result.stderr
    html = (tmp_path / "inbox.html").read_text(encoding="utf-8")
    assert (html.count("<section"), html.count("<img")) == (3, 6)
    assert "<h2>1: 3 pictures</h2>" in html
    assert "most like right/<wbr>angle, 0.174 (unknown)" in html


def test_what_lies_among_the_done_waits_no_more(plane: Path, inbox: Path, run: Command) -> None:
    (inbox / "done").mkdir()
    for path in inbox.glob("*.png"):
        path.rename(inbox / "done" / path.name)
    result = run(plane, inbox)
    assert (result.exit_code, "nothing waits in" in result.stderr) == (3, True)


def cases_of(plane: Path, inbox: Path) -> list[tuple[tuple[object, ...], int, str]]:
    table = inbox / "clusters.csv"
    bad = inbox / "bad.csv"
    return [
        ((inbox, "--assign", "9=tea"), 2, "no cluster 9: the table has 1 to 3"),
        ((inbox, "--assign", "tea"), 2, "N=LABEL"),
        ((inbox, "--assign", "1="), 2, "N=LABEL"),
        ((inbox, "--assign", "1=tea", "--assign", "1=cup"), 2, "two labels"),
        ((inbox, "--assign", "1=../tea"), 3, "the part '..'"),
        ((inbox, "--assign", "1=/tea"), 3, "empty part"),
        ((inbox, "--assign", "1=tea", "--ask"), 2, "--assign and --ask"),
        ((inbox, "--assign", "1=tea", "--sheet", "x.html"), 2, "leave it out with --assign"),
        ((inbox, "--labels", table), 3, "holds no label yet"),
        ((inbox, "--labels", bad), 3, "bad.csv line 3: expected a picture inside the inbox, got '../a.png'"),
        ((inbox, "--labels", inbox / "no.csv"), 3, "cannot read"),
        ((inbox / "nowhere",), 3, "no such folder"),
        ((inbox, "--sheet", inbox), 3, "it is a folder"),
        ((inbox, "--similarity", "much"), 2, "auto or a similarity"),
        ((inbox, "--similarity", 3), 2, "auto or a similarity"),
    ]


def test_what_cannot_be_is_one_sentence_and_changes_nothing(plane: Path, inbox: Path, run: Command) -> None:
    assert run(plane, inbox).exit_code == 0
    (inbox / "bad.csv").write_text("cluster,picture,label\n1,a.png,tea\n1,../a.png,tea\n", encoding="utf-8")
    before = (plane.read_bytes(), files_of(inbox))
    for words, exit_code, part in cases_of(plane, inbox):
        result = run(plane, *words)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (words, result.output)
        assert part in result.stderr, (words, result.stderr)
    assert (plane.read_bytes(), files_of(inbox)) == before


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("picture,label\na.png,tea\n", "line 1: no column cluster"),
        ("cluster,picture,label\nx,a.png,tea\n", "line 2: expected the number of a cluster, got 'x'"),
        ("cluster,picture,label\n1,/etc/passwd,tea\n", "line 2: expected a picture inside"),
        ("cluster,picture,label\n1,,tea\n", "line 2: expected a picture inside"),
        ("cluster,picture,label\n1,a.png,tea//x\n", "line 2: the label 'tea//x'"),
        ("cluster,picture,label\n1,no.png,tea\n", "none of the 1 pictures is in"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(text: str, part: str, plane: Path, inbox: Path, run: Command) -> None:
    (inbox / "mine.csv").write_text(text, encoding="utf-8")
    result = run(plane, inbox, "--labels", inbox / "mine.csv")
    assert (result.exit_code, part in result.stderr) == (3, True), result.stderr


def test_clusters_have_no_numbers_before_they_were_made(plane: Path, inbox: Path, run: Command) -> None:
    result = run(plane, inbox, "--assign", "1=tea")
    assert (result.exit_code, "review without --assign first" in result.stderr) == (3, True)


def test_an_index_without_a_threshold_needs_a_similarity(
    tmp_path: Path, inbox: Path, model: Path, make_card: Callable[..., ModelCard], run: Command
) -> None:
    index = Index.create(make_card(), model)
    index.add("only", at_angles(0), ["only.png"])
    index.save(tmp_path / "one.usearch")
    result = run(tmp_path / "one.usearch", inbox)
    assert (result.exit_code, "--similarity 0.7" in result.stderr) == (2, True)
    assert run(tmp_path / "one.usearch", inbox, "--similarity", 0.98).exit_code == 0
