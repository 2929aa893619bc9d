"""eval asks an index about pictures whose answer is known: counts by hand, ranks against deepir.score."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import deepir.runtime.index_score as score_module
import deepir.runtime.view_blocks as blocks_module
from deepir.card import ModelCard
from deepir.image import Image
from deepir.retrieval_set import Query, RetrievalSet
from deepir.runtime import Extractor, Index
from deepir.runtime.index_score_cli import eval_command
from deepir.runtime.threshold import Basis, Threshold
from deepir.runtime.view_blocks import labelled_views
from deepir.runtime.view_ranks import rank_views
from deepir.score import average_precision, score
from deepir.threshold_table import count_by_label

Rows = NDArray[np.float32]
Picture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]
MakeCard = Callable[..., ModelCard]

RECALLS = (1, 5, 10)
STORED = {"a": (0, 10), "b": (40, 100), "c": (45,)}
ASKED = {"a": (5, 42, 100), "b": (43,), "c": (70,)}
LACKING = {"d": (99,), "e": (75, 43)}


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
    return lambda *words: CliRunner().invoke(eval_command, [str(word) for word in words])


@pytest.fixture
def plane(tmp_path: Path, model: Path, make_card: MakeCard) -> Path:
    """An index of directions in a plane; 0.95 is known, and 0.02 tells labels apart."""
    index = Index.create(make_card(), model, dtype="f32")
    for label, degrees in STORED.items():
        index.add(label, at_angles(*degrees), [f"stored/{label}/{one}.png" for one in degrees])
    index.set(threshold=Threshold(0.95, 0.01, 5, "unknown"), margin=0.02)
    index.save(tmp_path / "plane.usearch")
    return tmp_path / "plane.usearch"


@pytest.fixture
def directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Picture, write_picture: WritePicture) -> Path:
    """Pictures that a model describes by the direction in their names; those named blank have none."""

    def describe_files(extractor: Extractor, paths: Sequence[Path]) -> Rows:
        rows_nd = at_angles(*(0 if path.stem == "blank" else float(path.stem) for path in paths))
        rows_nd[[path.stem == "blank" for path in paths]] = 0
        return rows_nd

    monkeypatch.setattr(Extractor, "describe_files", describe_files)
    rng = np.random.default_rng(1)
    for folder, labels in (("asked", ASKED), ("both", {**ASKED, **LACKING})):
        for label, degrees in labels.items():
            for one in degrees:
                write_picture(tmp_path / folder / label / f"{one}.png", picture("red", rng))
    for one in (99, 75, 43):
        write_picture(tmp_path / "other" / f"{one}.png", picture("blue", rng))
    return tmp_path


def facts_of(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.stderr
    facts: dict[str, object] = json.loads(result.stdout)
    return facts


def test_every_answer_is_counted_where_it_belongs(plane: Path, directions: Path, run: Command) -> None:
    facts = facts_of(run(plane, directions / "both", "--json"))
    assert facts["queries"] == {"known": 5, "unknown": 3, "blank": 0, "stored": 0}
    assert facts["lacking"] == {"d": 1, "e": 2}
    assert (facts["threshold"], facts["margin"]) == (0.95, 0.02)
    assert facts["outcomes"] == {
        "match_right": 1,  # 5 degrees
        "match_wrong": 1,  # 100 degrees is a view of b
        "ambiguous_right": 1,  # 43 degrees lies between b and c
        "ambiguous_wrong": 1,  # 42 too
        "unknown": 1,  # 70 degrees is 25 from the next view
        "false_match": 1,
        "false_ambiguous": 1,
        "true_unknown": 1,
    }


def test_views_are_ranked_for_each_query(plane: Path, directions: Path, run: Command) -> None:
    facts = facts_of(run(plane, directions / "asked", "--json"))
    # ranks of the right views by hand: 5 degrees 0 1; 42: 2 3; 100: 3 4; 43: 1 4; 70: 0
    precisions = [1, (1 / 3 + 1 / 3 + 2 / 4) / 4, (1 / 4 + 1 / 4 + 2 / 5) / 4, (1 / 2 + 1 / 4 + 2 / 5) / 4, 1]
    assert facts["mean_ap"] == pytest.approx(np.mean(precisions), abs=1e-4)
    assert facts["recall_at"] == {"1": 0.4, "5": 1.0, "10": 1.0}


@pytest.mark.parametrize(("basis", "far"), [("views", ""), ("unknown", " --far 0.05")])
def test_where_the_threshold_lets_little_through_the_next_step_is_to_calibrate(
    plane: Path, directions: Path, run: Command, basis: Basis, far: str
) -> None:
    with Index.open(plane, write=True) as index:
        index.set(threshold=Threshold(0.9999, 0.01, 5, basis))
    result = run(plane, directions / "asked")
    expected = "the threshold 1.000 lets little through: 4 of 5 queries of labels that the index has are unknown"
    assert expected in result.stderr
    assert f"next: deepir-index calibrate {plane} --unknown DIR{far}\n" in result.stderr


def test_where_answers_come_through_the_threshold_is_not_blamed(plane: Path, directions: Path, run: Command) -> None:
    result = run(plane, directions / "asked")
    assert "lets" not in result.stderr
    assert f"next: deepir-index confusions {plane}\n" in result.stderr


def test_it_works_without_unknown_things(plane: Path, directions: Path, run: Command) -> None:
    facts = facts_of(run(plane, directions / "asked", "--json"))
    assert facts["queries"] == {"known": 5, "unknown": 0, "blank": 0, "stored": 0}
    assert facts["accept_at"] == {"0.1": None, "0.01": None, "0.001": None}
    result = run(plane, directions / "asked")
    assert "true accepts at 0.1 false accepts: needs unknown queries" in result.stdout
    assert "as it should be" not in result.stdout
    assert "count as unknown things" not in result.stderr


def test_a_folder_of_unknown_things_counts_as_labels_that_the_index_lacks(
    plane: Path, directions: Path, run: Command
) -> None:
    labelled = facts_of(run(plane, directions / "both", "--json"))
    loose = facts_of(run(plane, directions / "asked", "--unknown", directions / "other", "--json"))
    for name in ("queries", "outcomes", "full_precision", "accept_at", "mean_ap"):
        assert labelled[name] == loose[name]
    assert loose["lacking"] == {}


def test_labels_that_the_index_lacks_are_named(plane: Path, directions: Path, run: Command) -> None:
    result = run(plane, directions / "both")
    assert "3 queries of labels that the index lacks count as unknown things: d, e" in result.stderr
    assert "true accepts at 0.1 false accepts: needs 10 unknown queries" in result.stdout


def test_a_csv_lists_queries_too(plane: Path, directions: Path, run: Command) -> None:
    rows = [f"both/{label}/{one}.png,{label}" for label, all_ in {**ASKED, **LACKING}.items() for one in all_]
    (directions / "asked.csv").write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    by_list, by_folder = (facts_of(run(plane, directions / name, "--json")) for name in ("asked.csv", "both"))
    assert {**by_list, "errors": []} == {**by_folder, "errors": []}


def test_true_accepts_and_full_precision_are_those_of_the_best_labels(
    plane: Path, directions: Path, run: Command, write_picture: WritePicture, picture: Picture
) -> None:
    rng = np.random.default_rng(3)
    for number in range(20):
        # from 15 to 25 degrees away from the views of a
        write_picture(directions / "more" / f"{-15 - number / 2}.png", picture("red", rng))
    (directions / "asked" / "a" / "42.png").unlink()
    (directions / "asked" / "a" / "100.png").unlink()
    facts = facts_of(run(plane, directions / "asked", "--unknown", directions / "more", "--json"))
    # two of twenty may pass, so the third best lies below: 5 degrees does not, 70 does, 43 names c for b
    assert facts["accept_at"] == {
        "0.1": {
            "true_accepts": pytest.approx(1 / 3),
            "false_accepts": pytest.approx(0.1),
            "threshold": pytest.approx(cosine(16), abs=1e-6),
        },
        "0.01": None,
        "0.001": None,
    }
    # 43 degrees is answered wrongly with the highest similarity of all
    assert facts["full_precision"] == {"recall": 0.0, "threshold": None}
    (directions / "asked" / "b" / "43.png").unlink()
    facts = facts_of(run(plane, directions / "asked", "--unknown", directions / "more", "--json"))
    assert facts["full_precision"] == {"recall": 0.5, "threshold": pytest.approx(cosine(5), abs=1e-6)}


def test_errors_are_listed_the_worst_first(plane: Path, directions: Path, run: Command) -> None:
    facts = facts_of(run(plane, directions / "both", "--json"))
    errors = facts["errors"]
    assert isinstance(errors, list)
    assert [one["outcome"] for one in errors] == [
        "match_wrong",
        "false_match",
        "ambiguous_wrong",
        "false_ambiguous",
        "unknown",
    ]
    assert errors[0]["query"].endswith("100.png")
    assert (errors[0]["answer"], errors[0]["similarity"]) == ("b", 1.0)
    assert (errors[0]["wrong"]["label"], errors[0]["wrong"]["view"]) == ("b", "100.png")
    assert (errors[0]["right"]["view"], errors[0]["right"]["similarity"]) == ("10.png", 0.0)
    assert errors[1]["right"] is None


def test_of_one_kind_the_largest_fault_comes_first(
    plane: Path, directions: Path, picture: Picture, write_picture: WritePicture, run: Command
) -> None:
    for name in ("a/-40", "b/0"):
        write_picture(directions / "asked" / f"{name}.png", picture("red", np.random.default_rng(5)))
    errors = facts_of(run(plane, directions / "asked", "--json"))["errors"]
    assert isinstance(errors, list)
    # 100 degrees is a right angle away from its label, 0 only 40; of what was missed -40 is 40 away and 70 is 25
    assert [Path(one["query"]).stem for one in errors] == ["100", "0", "42", "-40", "70"]


def test_the_sheet_shows_query_wrong_and_right_view(
    plane: Path, directions: Path, picture: Picture, write_picture: WritePicture, run: Command
) -> None:
    for label, degrees in STORED.items():
        for one in degrees:
            write_picture(directions / "stored" / label / f"{one}.png", picture("green", np.random.default_rng(one)))
    result = run(plane, directions / "both", "--sheet", directions / "errors.html")
    assert result.exit_code == 0, result.stderr
    assert f"wrote {directions / 'errors.html'}" in result.stderr
    html = (directions / "errors.html").read_text(encoding="utf-8")
    first = html[html.index("<section") : html.index("</section>")]
    assert "<h2>a taken for b</h2>" in first
    assert [re.sub("<.*?>", "", one) for one in re.findall("<figcaption>.*?</figcaption>", first)] == [
        "query: 100.png",
        "✗ 1.000 b: 100.png",
        "✓ 0.000 a: 10.png",
    ]
    assert first.count("<img") == 3
    assert html.count("<section") == 5


def test_the_table_counts_pairs_as_method_says(plane: Path, directions: Path, run: Command) -> None:
    facts = facts_of(run(plane, directions / "both", "--table", "--json"))
    labels = [label for label, all_ in {**ASKED, **LACKING}.items() for _ in all_]
    asked = [one for all_ in {**ASKED, **LACKING}.values() for one in all_]
    stored = [(label, one) for label, all_ in STORED.items() for one in all_]
    similarity_qn = at_angles(*asked) @ at_angles(*(one for _, one in stored)).T
    expected = count_by_label(similarity_qn, labels, [label for label, _ in stored])
    assert facts["table"] == [list(row) for row in expected.rows()]
    lines = run(plane, directions / "both", "--table").stdout.splitlines()
    assert "threshold  same label  unrelated" in lines
    assert lines[-1].split() == ["1.00", *map(str, list(expected.rows())[-1][1:])]


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_batches_make_no_difference(
    at_once: int, plane: Path, directions: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = facts_of(run(plane, directions / "both", "--table", "--json"))
    monkeypatch.setattr(score_module, "AT_ONCE", at_once)
    monkeypatch.setattr(blocks_module, "_ROWS", 2)
    assert facts_of(run(plane, directions / "both", "--table", "--json")) == whole


@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_ranks_are_those_of_deepir_score(
    rows: int,
    model: Path,
    make_card: MakeCard,
    rng: np.random.Generator,
    unit_rows: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks_module, "_ROWS", rows)
    index = Index.create(make_card(), model, dtype="f32")
    labels = [f"{number}" for number in rng.integers(0, 6, 60)]
    stored_nd, queries_qd = unit_rows(rng, 60), unit_rows(rng, 20)
    for label, row in zip(labels, stored_nd, strict=True):
        index.add(label, row[None], ["one.png"])
    asked = [labels[number] for number in range(20)]
    ranked = rank_views(index, labelled_views(index), queries_qd, asked)
    database = [Path(f"{number}") for number in range(60)]
    reference = score(
        RetrievalSet(
            "random",
            tuple(database),
            tuple(
                Query(
                    f"{number}",
                    Path("query"),
                    frozenset(path for path, one in zip(database, labels, strict=True) if one == label),
                    frozenset(),
                )
                for number, label in enumerate(asked)
            ),
        ),
        queries_qd,
        stored_nd,
    )
    for query, expected in zip(ranked.ranks, reference.average_precisions, strict=True):
        relevant = np.zeros(60, bool)
        relevant[query.ranks] = True
        assert average_precision(relevant, len(query.ranks)) == pytest.approx(expected)
    assert {k: np.mean([(one.ranks < k).any() for one in ranked.ranks]) for k in RECALLS} == reference.recall_at
    similarity_qn = queries_qd @ stored_nd.T
    for number, query in enumerate(ranked.ranks):
        wrong = max(value for value, one in zip(similarity_qn[number], labels, strict=True) if one != asked[number])
        assert query.wrong is not None
        assert query.wrong.similarity == pytest.approx(wrong, abs=1e-6)
        assert labels[query.wrong.key - 1] != asked[number]


def test_a_wrong_view_that_is_as_similar_comes_first(model: Path, make_card: MakeCard) -> None:
    index = Index.create(make_card(), model, dtype="f32")
    index.add("a", at_angles(10, 30), ["1.png", "2.png"])
    index.add("b", at_angles(10), ["3.png"])
    (query,) = rank_views(index, labelled_views(index), at_angles(11), ["a"]).ranks
    assert query.ranks.tolist() == [1, 2]


def test_blank_queries_are_not_recognised(
    plane: Path, directions: Path, picture: Picture, write_picture: WritePicture, run: Command
) -> None:
    before = facts_of(run(plane, directions / "asked", "--json"))
    blank = write_picture(directions / "asked" / "a" / "blank.png", np.zeros((9, 9, 3), np.uint8))
    result = run(plane, directions / "asked", "--json")
    after = facts_of(result)
    assert f"1 blank pictures are unknown to any index, the first is {blank}" in result.stderr
    assert after["outcomes"] == {**before["outcomes"], "unknown": 2}  # type: ignore[dict-item]
    assert after["mean_ap"] == pytest.approx(float(before["mean_ap"]) * 5 / 6, abs=1e-3)  # type: ignore[arg-type]


def test_pictures_of_the_index_itself_are_warned_of(shop: Path, catalogue: Path, run: Command) -> None:
    result = run(shop, catalogue, "--json")
    assert facts_of(result)["queries"] == {"known": 12, "unknown": 0, "blank": 0, "stored": 12}
    assert "12 queries are the very pictures that the index was made of" in result.stderr
    assert (
        f"next: deepir-index info {shop}" in result.stderr or f"next: deepir-index confusions {shop}" in result.stderr
    )


def test_ranked_pictures_are_copied_into_folders(
    plane: Path, directions: Path, picture: Picture, write_picture: WritePicture, run: Command
) -> None:
    for label, degrees in {"a": (0, 10), "b": (40,)}.items():
        for one in degrees:
            write_picture(directions / "stored" / label / f"{one}.png", picture("green", np.random.default_rng(one)))
    ranked = directions / "ranked"
    result = run(plane, directions / "both", "--folders", ranked, "--topk", 4)
    assert result.exit_code == 0, result.stderr
    assert len(list(ranked.iterdir())) == 8
    assert sorted(path.name for path in (ranked / "00004_b-43").iterdir()) == [
        "00000_43_query.png",
        f"00002_b-40_{cosine(3):.4f}_good.png",
        f"00003_a-10_{cosine(33):.4f}_bad.png",
        f"00004_a-0_{cosine(43):.4f}_bad.png",
    ]
    # of c, and of b at 100 degrees, there are no pictures
    assert "wrote 8 folders" in result.stderr
    assert "views whose pictures are gone" in result.stderr
    copied = (ranked / "00004_b-43" / f"00002_b-40_{cosine(3):.4f}_good.png").read_bytes()
    assert copied == (directions / "stored" / "b" / "40.png").read_bytes()


def test_unknown_things_without_a_label_are_neither_good_nor_bad(
    plane: Path, directions: Path, picture: Picture, write_picture: WritePicture, run: Command
) -> None:
    write_picture(directions / "stored" / "b" / "100.png", picture("green", np.random.default_rng(1)))
    ranked = directions / "ranked"
    words = (plane, directions / "asked", "--unknown", directions / "other", "--folders", ranked, "--topk", 1)
    assert run(*words).exit_code == 0
    names = [path.name for path in (ranked / "00008_99").iterdir()]
    assert sorted(names) == ["00000_99_query.png", f"00001_b-100_{cosine(1):.4f}.png"]


def test_what_cannot_be_is_one_sentence(plane: Path, directions: Path, model: Path, run: Command) -> None:
    (directions / "strange" / "purple").mkdir(parents=True)
    (directions / "both" / "a" / "5.png").rename(directions / "strange" / "purple" / "5.png")
    both = directions / "both"
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((plane, directions / "strange"), 3, "none of the 1 queries has a label of the index, the first is 'purple'"),
        ((plane, directions / "nowhere"), 3, "no such folder"),
        ((plane, directions / "other"), 3, "outside a label folder"),
        ((plane, both, "--unknown", directions / "nowhere"), 3, "no such folder"),
        ((plane, both, "--sheet", directions), 3, "it is a folder"),
        ((plane, both, "--folders", directions), 3, "not an empty folder"),
        ((plane, both, "--folders", directions / "new", "--topk", 0), 2, "got 0"),
        ((model, both), 8, ""),
    ]
    for words, exit_code, part in cases:
        result = run(*words)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (words, result.output)
        assert result.stderr.startswith("error: "), words
        assert part in result.stderr, (words, result.stderr)
    assert not (directions / "new").exists()
