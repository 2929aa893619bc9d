"""The report shows the worst queries with their rankings, needs nothing else, and runs nothing that a name says."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from deepir.card import ModelCard
from deepir.datasets import Query, RetrievalSet
from deepir.errors import InputError, OptionError
from deepir.export.eval_rankings import list_rankings
from deepir.export.eval_report import check_place, report_html, write_report
from deepir.export.eval_stamp import made_now, make_stamp
from deepir.export.eval_text import result_lines, show_progress
from deepir.runtime import progress
from deepir.score import score
from deepir.spec import ModelSpec

HOSTILE = '<script>alert("x")</script>&\'">.png'
SPEC = ModelSpec(
    backbone="timm:<b>net</b>", sizes=((64, 64),), mean=(0.5,) * 3, std=(0.2,) * 3, stride=32, channels=12, dim=6
)


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    """Three queries; the first has a box, a positive, a negative, a junk and a picture that is gone."""
    folder = tmp_path / "data"
    folder.mkdir()
    halves = np.zeros((40, 60, 3), dtype=np.uint8)
    halves[:, :30, 2], halves[:, 30:, 0] = 255, 255  # left red, right blue; OpenCV writes BGR
    names = ("q0.png", "q1.png", "q2.png", "right.png", "wrong.png", "junk.png")
    for name in names:
        cv2.imwrite(str(folder / name), halves)
    path = {name: str(folder / name) for name in (*names, HOSTILE)}
    ranked = [
        {"image": path["wrong.png"], "similarity": 0.9, "positive": False},
        {"image": path["right.png"], "similarity": 0.7, "positive": True},
        {"image": path[HOSTILE], "similarity": 0.5, "positive": False},
    ]
    junk = [{"image": path["junk.png"], "similarity": 0.8, "positive": False}]
    ranking = {"key": "k", "positives": 2, "ranked": ranked, "junk": [], "box": None}
    rankings = [
        {**ranking, "query": path[f"q{number}.png"], "average_precision": 0.25 * (number + 1)} for number in range(3)
    ]
    rankings[0] |= {"box": [30, 0, 60, 40], "junk": junk}
    entry = {"queries": 3, "boxes": 1, "database": 3, "left_out": 0, "protocol": "own & other"}
    scoring = {
        "crop": True,
        "query_expansion": "none",
        "database_expansion": "none",
        "average_precision": "trapezoid",
        "distractors": None,
        "sets": {"easy <i>": entry},
        **made_now(),
    }
    scores = {
        "queries": 3,
        "database": 3,
        "mean_ap": 0.51234,
        "recall_at": {"1": 0.25},
        "precision_at": {"1": 0.125},
        "r_precision": 0.0625,
        "rankings": rankings,
    }
    return {
        "model": str(tmp_path / "<model>.onnx"),
        "numerics": "fp32",
        "runner": "torch, CPU",
        "milliseconds_per_image": 1.5,
        "images_per_second": 12.5,
        "described": 6,
        "dataset": str(folder),
        "root": str(folder),
        "stamp": {**make_stamp(tmp_path / "<model>.onnx", ModelCard(SPEC), "torch, CPU"), "scoring": scoring},
        "sets": {"easy <i>": scores},
    }


def test_names_are_shown_and_not_run(result: dict[str, Any]) -> None:
    html = report_html(result)
    page = Page(html)
    assert not page.of("script")
    assert not page.of("i")
    assert not [one for _, attributes in page.tags for one in attributes if one.startswith("on")]
    assert HOSTILE in page.texts
    assert any("easy <i>" in text for text in page.texts)
    assert any("timm:<b>net</b>" in text for text in page.texts)
    assert any("<model>.onnx on " in text for text in page.texts)


def test_the_page_needs_nothing_else(result: dict[str, Any]) -> None:
    page = Page(report_html(result))
    for attributes in page.of("img"):
        assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
    assert not page.of("link")
    assert not page.of("a")
    policies = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "http" not in report_html(result).replace("http-equiv", "")


def test_figures_and_stamp_stand_on_top(result: dict[str, Any]) -> None:
    texts = Page(report_html(result)).texts
    text = " ".join(texts)
    for figure in ("0.5123", "0.2500", "0.1250", "0.0625", SPEC.fingerprint, "own & other", "trapezoid", "torch, CPU"):
        assert figure in text
        assert text.index(figure) < text.index("q0.png")


def test_each_picture_is_labelled_in_words_and_ranked_by_similarity(result: dict[str, Any]) -> None:
    article = re.split("<article>", report_html(result))[1]
    kinds = re.findall(r'<figure class="(\w+)">', article)
    assert kinds == ["query", "negative", "junk", "positive", "negative"]
    labels = re.findall(r"<b>(.*?)</b>", article)
    assert labels == ["query, its box", "1. ✗ negative", "· junk, not counted", "2. ✓ positive", "3. ✗ negative"]
    assert re.findall(r"</b> (0\.\d+)<", article) == ["0.900", "0.800", "0.700", "0.500"]
    assert "average precision 0.250; 1 of 2 positives among the first 3" in article


def test_a_query_is_shown_as_it_was_searched_with(result: dict[str, Any]) -> None:
    pictures = [str(one["src"]).partition(",")[2] for one in Page(report_html(result)).of("img")]
    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), cv2.IMREAD_COLOR) for one in pictures]
    assert decoded[0].shape == (40, 30, 3)
    assert decoded[0].mean(axis=(0, 1)).argmax() == 0, "the box is the blue half"
    assert decoded[1].shape == (40, 60, 3)


def test_a_picture_that_is_gone_leaves_a_grey_field(result: dict[str, Any]) -> None:
    html = report_html(result)
    assert html.count('<div class="absent">no picture</div>') == 3
    assert len(Page(html).of("img")) == 10


@pytest.mark.parametrize(("queries", "shown"), [(1, 1), (2, 2), (50, 3)])
def test_the_worst_queries_are_shown_and_no_more(result: dict[str, Any], queries: int, shown: int) -> None:
    html = report_html(result, queries=queries)
    assert re.findall(r"<h3>(.*?)</h3>", html) == [f"q{number}.png" for number in range(shown)]
    assert f"The {shown} worst of 3 queries" in html


def test_sets_share_the_number_of_queries(result: dict[str, Any]) -> None:
    scores = result["sets"].pop("easy <i>")
    result["sets"] = {"one": scores, "two": scores}
    assert report_html(result, queries=3).count("<article>") == 2
    assert report_html(result, queries=4).count("<article>") == 4


def test_large_pictures_become_small(result: dict[str, Any], tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "data" / "q0.png"), large)
    first = Page(report_html(result)).of("img")[1]
    assert len(report_html(result)) < 100_000
    assert int(str(first["width"])) <= 200


def test_a_report_is_written_whole_or_refused_early(result: dict[str, Any], tmp_path: Path) -> None:
    write_report(result, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report_html(result)
    with pytest.raises(InputError, match="absent"):
        check_place(tmp_path / "absent" / "r.html")
    with pytest.raises(InputError, match="folder"):
        check_place(tmp_path)
    with pytest.raises(OptionError, match="got 0"):
        write_report(result, tmp_path / "r.html", queries=0)


def test_the_text_has_the_speed_the_stamp_and_a_line_for_each_set(result: dict[str, Any]) -> None:
    lines = result_lines(result)
    assert lines[0].endswith("fp32 by torch, CPU, 1.5 ms an image, 6 described at 12.5 images/s")
    assert any(SPEC.fingerprint in line for line in lines)
    assert lines[-1] == ("easy <i>: mAP 0.5123 recall@1 0.2500 mP@1 0.1250 R-precision 0.0625 (3 queries, 3 images)")
    result |= {"milliseconds_per_image": None, "images_per_second": None}
    assert result_lines(result)[0].endswith("descriptors from disk")


def test_progress_is_told_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_IN_A_LOG", 0.0)
    with show_progress("describing", 40) as advance:
        advance(8)
        advance(16)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.partition(",")[0] for line in captured.err.splitlines()] == [
        "describing: 8 of 40",
        "describing: 24 of 40",
    ]


def test_rankings_leave_junk_out_and_say_where_it_would_have_stood() -> None:
    names = ("self", "near junk", "right", "wrong", "far junk", "distant")
    paths = {name: Path(name) for name in names}
    query = Query(
        "q",
        paths["self"],
        frozenset({paths["right"]}),
        frozenset({paths[n] for n in ("self", "near junk", "far junk")}),
    )
    dataset = RetrievalSet("s", tuple(paths.values()), (query,))
    angles = np.array([0.0, 0.1, 0.2, 0.3, 1.2, 1.0])
    database_nd = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    scores = score(dataset, database_nd[:1], database_nd)
    (ranking,) = list_rankings(dataset, scores, database_nd[:1], database_nd)
    assert [(row["image"], row["positive"]) for row in ranking["ranked"]] == [
        ("right", True),
        ("wrong", False),
        ("distant", False),
    ]
    assert [row["image"] for row in ranking["junk"]] == ["near junk"]
    assert ranking["ranked"][0]["similarity"] == pytest.approx(np.cos(0.2), abs=1e-4)
    assert ranking["average_precision"] == 1.0


def test_rankings_are_those_of_each_query_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(30, 5)).astype(np.float32)
    paths = tuple(Path(f"{number:02}") for number in range(30))
    queries = tuple(Query(f"q{n}", paths[n], frozenset({paths[n + 1]}), frozenset({paths[n]})) for n in range(9))
    dataset = RetrievalSet("s", paths, queries)
    scores = score(dataset, rows[:9], rows)
    whole = list_rankings(dataset, scores, rows[:9], rows)
    monkeypatch.setattr("deepir.export.eval_rankings._AT_ONCE", 2)
    assert list_rankings(dataset, scores, rows[:9], rows) == whole
    for ranking in whole:
        number = int(ranking["key"][1:])
        order = [row for row in np.argsort(-(rows @ rows[number])) if row != number][:10]
        assert [int(row["image"]) for row in ranking["ranked"]] == order
        assert ranking["average_precision"] == round(scores.average_precisions[number], 5)
