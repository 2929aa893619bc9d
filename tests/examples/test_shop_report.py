"""The report of the shop: one page that needs nothing else, and says what the files of the run say."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

SHOP = Path(__file__).parents[2] / "examples" / "shop"
MODULES = ("table", "walk_score", "report", "report_chance", "report_charts", "report_facts", "report_html", "walk")
ODD, PLAIN, OTHER = "tea<b>&", "rice", "soap"
MEAN_AP = {"teacher_x3": 0.81234, "teacher_x1": 0.7, "student_start": 0.65432, "student": 0.77777, "student_int8": 0.75}
TRUTH = [ODD, ODD, ODD, ODD, "between", None, None, None, PLAIN, PLAIN, PLAIN, PLAIN]
ANSWERS = [ODD, ODD, PLAIN, None, PLAIN, None, None, OTHER, None, None, ODD, None]


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    names = [path.stem for path in SHOP.glob("*.py")]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(SHOP))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(SHOP))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


@pytest.fixture
def made_run(modules: dict[str, ModuleType], tmp_path: Path) -> Path:
    """A run folder as run_demo.py leaves it, with pictures of a few pixels."""
    (tmp_path / "scores").mkdir()
    for key, mean_ap in MEAN_AP.items():
        _write_json(tmp_path / "scores" / f"{key}.json", _score(tmp_path, key, mean_ap))
    for key, rows in {"teacher": 3, "student": 2}.items():
        extra = {"validation_cosine": 0.9} if key == "student" else {}
        lines = [{"epoch": epoch + 1, "loss": 2.0 / (epoch + 1), **extra, "seconds": 1.5} for epoch in range(rows)]
        _write_lines(tmp_path / f"{key}.safetensors.log.jsonl", lines)
    verdict = {"passed": True, "cosine_min": 0.9512, "cosine_mean": 0.9934, "agreement": 0.981, "images": 45}
    record = {"recipe": {"method": "entropy", "kept": ["stem"]}, "verdicts": [{**verdict, "program": "ONNX Runtime"}]}
    _write_json(tmp_path / "student.int8.calib.json", record)
    _write_walk(tmp_path)
    _write_video(tmp_path / "shop" / "walk.webm", len(TRUTH))
    (tmp_path / "walk_annotated.webm").write_bytes(b"not a film")
    return tmp_path


@pytest.fixture
def write(modules: dict[str, ModuleType], made_run: Path) -> Any:
    facts = {"processor": "a <fast> one", "date": "2020-01-02", "threshold": 0.5, "seed": 7, "commands": {"x": "a < b"}}

    def write_page(**changes: Any) -> str:
        seconds = {"render <all>": 2.5, "teach": 61.0}
        path = modules["report"].write_report(made_run, seconds, modules["report_facts"].ReportFacts(**facts | changes))
        assert path == made_run / "report.html"
        return str(path.read_text(encoding="utf-8"))

    return write_page


def _score(run: Path, key: str, mean_ap: float) -> dict[str, Any]:
    onnx = key in ("student", "student_int8")
    hits = [
        [(ODD, 0.9, True), (PLAIN, 0.3, False)],
        [(PLAIN, 0.8, False), (ODD, 0.4, True)],
        [(OTHER, 0.7, False), (PLAIN, 0.6, True)],
    ]
    rankings = [
        {
            "query": _picture(run, "queries", label, f"photo_{place}"),
            "average_precision": precision,
            "ranked": [
                {"image": _picture(run, "references", other, "view_0"), "similarity": similarity, "positive": positive}
                for other, similarity, positive in ranked
            ],
        }
        for place, (label, precision, ranked) in enumerate(zip((ODD, ODD, PLAIN), (1.0, 0.5, 0.25), hits, strict=True))
    ]
    result = {"queries": 3, "database": 9, "mean_ap": mean_ap, "recall_at": {"1": mean_ap - 0.1}}
    return {
        "numerics": "int8" if key == "student_int8" else "fp32",
        "runner": "ONNX Runtime, CPU" if onnx else "torch",
        "sizes": [[64, 64], [128, 96]] if key == "teacher_x3" else [[128, 128]],
        "parameters": None if onnx else 2_340_000,
        "bytes": 9_870_000,
        "milliseconds_per_image": 3.21,
        "sets": {"photo2reference": result | {"rankings": rankings[::-1]}},
    }


def _picture(run: Path, folder: str, label: str, name: str) -> str:
    path = run / "shop" / folder / label / f"{name}.jpg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((12, 10, 3), 90, dtype=np.uint8))
    return str(path)


def _write_walk(run: Path) -> None:
    labels = [None if truth == "between" else truth for truth in TRUTH]
    visible = [{PLAIN: 0.4, ODD: 0.3} if truth == "between" else {truth: 1.0} if truth else {} for truth in TRUTH]
    truth = [{"frame": n, "visible": visible[n], "label": labels[n]} for n in range(len(TRUTH))]
    results = [
        {"frame": n, "status": "match" if answer else "unknown", "label": answer, "similarity": 0.5 + n / 100}
        for n, answer in enumerate(ANSWERS)
    ]
    _write_lines(run / "shop" / "walk.jsonl", truth)
    _write_lines(run / "walk_results.jsonl", results)


def _write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 12, (64, 36))
    for place in range(frames):
        writer.write(np.full((36, 64, 3), 20 * place, dtype=np.uint8))
    writer.release()


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_the_page_needs_no_other_file(write: Any) -> None:
    sources = re.findall(r'(?:src|href)="([^"]{1,40})', write())
    assert sources
    assert all(source.startswith("data:") for source in sources)


def test_the_page_names_no_address_on_the_network_and_no_folder_of_this_machine(write: Any, made_run: Path) -> None:
    page = write()
    assert not re.search(r"https?://|@import|url\(", page)
    assert str(made_run) not in page


def test_a_large_video_is_linked_instead(write: Any, made_run: Path) -> None:
    (made_run / "walk_annotated.webm").write_bytes(bytes(4_000_001))
    page = write()
    assert 'href="walk_annotated.webm"' in page
    assert "<video" not in page


def test_a_run_without_an_annotated_video_has_a_report_too(write: Any, made_run: Path) -> None:
    (made_run / "walk_annotated.webm").unlink()
    assert "<video" not in write()


def test_every_text_is_escaped(write: Any) -> None:
    page = write()
    assert "tea<b>" not in page
    assert "tea&lt;b&gt;&amp;" in page
    assert "render &lt;all&gt;" in page
    assert "a &lt;fast&gt; one" in page
    assert "a &lt; b" in page


def test_the_table_has_a_row_for_each_model_with_the_numbers_of_its_file(
    write: Any, modules: dict[str, ModuleType]
) -> None:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", write().split("What was done")[0])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]]
    names = list(modules["table"].MODELS.values())
    assert [line[0] for line in cells] == names
    assert cells[0][1:] == ["64+128x96", "fp32", "torch", "2.34", "9.87", "3.21", "0.812", "0.712"]
    assert cells[4][1:] == ["128", "int8", "ONNX Runtime, CPU", "2.34", "9.87", "3.21", "0.750", "0.650"]


def test_parameters_of_the_distilled_student_can_be_told(write: Any) -> None:
    assert "5.67" in write(student_parameters=5_670_000)


def test_the_page_tells_the_verdict_and_warns_where_it_failed(write: Any, made_run: Path) -> None:
    page = write()
    assert "0.9934 on average and 0.9512 at worst" in page
    assert "did not pass" not in page
    path = made_run / "student.int8.calib.json"
    record = json.loads(path.read_text())
    failed = {**record["verdicts"][0], "passed": False, "cosine_mean": 0.9123, "program": "OpenVINO, CPU (bf16)"}
    _write_json(path, {**record, "verdicts": [*record["verdicts"], failed]})
    page = write()
    assert "did not pass" in page
    assert "0.9123 on average" in page
    assert "in OpenVINO, CPU (bf16). Ranges chosen by entropy; 1 convolutions stay FP16" in page


def test_right_references_are_framed_green_and_wrong_ones_red(write: Any) -> None:
    worst = write().split("the very worst first")[1].split("average precision ")[1]
    assert worst.startswith("0.25")
    assert re.findall(r'class="shot (\w+)"', worst) == ["query", "wrong", "right"]


def test_pictures_are_found_after_the_run_was_moved(
    modules: dict[str, ModuleType], made_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "run"
    made_run.rename(moved)
    assert modules["report"].write_report(moved, {"all": 1.0}).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("three", "one", "student", "closed"),
    [(0.8, 0.6, 0.7, 0.5), (0.8, 0.6, 0.9, 1.5), (0.8, 0.6, 0.5, -0.5), (0.6, 0.6, 0.7, None), (0.5, 0.6, 0.7, None)],
)
def test_the_gap_is_the_share_of_the_teachers_gain(
    modules: dict[str, ModuleType],
    tmp_path: Path,
    three: float,
    one: float,
    student: float,
    closed: float | None,
) -> None:
    mean_ap = MEAN_AP | {"teacher_x3": three, "teacher_x1": one, "student": student}
    scores = {key: _score(tmp_path, key, value) for key, value in mean_ap.items()}
    gap = modules["table"].gap_closed(modules["table"].build_rows(scores), "student")
    assert gap.closed == (None if closed is None else pytest.approx(closed))
    assert ("gained nothing from three resolutions" in gap.line()) is (closed is None)
    assert ("worse than where it began" in gap.line()) is (closed is not None and closed < 0)


def test_text_and_markdown_hold_the_same_cells(modules: dict[str, ModuleType], made_run: Path) -> None:
    table = modules["table"]
    rows = table.build_rows(table.read_scores(made_run / "scores"))
    text, markdown = table.text_table(rows), table.markdown_table(rows)
    assert len(set(map(len, text.splitlines()))) == 1
    assert [line.count("|") for line in markdown.splitlines()] == [len(table.COLUMNS) + 1] * 7
    assert all(cell in text and cell in markdown for row in rows for cell in row.cells)


def test_the_walk_is_scored_as_counted_by_hand(modules: dict[str, ModuleType], made_run: Path) -> None:
    walk_score = modules["walk_score"]
    score = walk_score.score_walk(made_run / "shop" / "walk.jsonl", made_run / "walk_results.jsonl")
    counts = {outcome.value: score.count(outcome) for outcome in walk_score.Outcome}
    assert counts == {"correct": 2, "wrong": 2, "missed": 4, "rejected": 2, "false match": 1, "not scored": 1}
    assert score.recognised == {ODD: True, PLAIN: False}
    assert [(stretch.truth, stretch.answer, len(stretch.frames)) for stretch in score.stretches] == [
        (ODD, ODD, 4),
        (None, None, 3),
        (PLAIN, None, 4),
    ]
    assert "by majority 2 of 3 stretches are right; 1 of 2 products" in score.line()
    assert "1 frames between products are not scored" in score.line()


def test_frames_that_were_left_out_are_not_scored(modules: dict[str, ModuleType], made_run: Path) -> None:
    results = made_run / "walk_results.jsonl"
    results.write_text("\n".join(results.read_text(encoding="utf-8").splitlines()[::2]), encoding="utf-8")
    score = modules["walk_score"].score_walk(made_run / "shop" / "walk.jsonl", results)
    assert [frame.number for frame in score.frames] == [0, 2, 4, 6, 8, 10]


def test_results_of_another_video_are_refused(modules: dict[str, ModuleType], made_run: Path) -> None:
    results = made_run / "walk_results.jsonl"
    results.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"walk_results\.jsonl: is it the result of another video"):
        modules["walk_score"].score_walk(made_run / "shop" / "walk.jsonl", results)


def test_the_surest_wrong_frame_is_shown_first(write: Any) -> None:
    shown = write().split("Frames to look at")[1]
    outcomes = re.findall(r"<b>[✓✗?] ([\w ]+)</b> at (\d+\.\d) s", shown)
    assert outcomes[:3] == [("wrong", "0.8"), ("false match", "0.6"), ("wrong", "0.2")]
    assert {name for name, _ in outcomes[3:]} == {"missed", "correct", "rejected"}


def test_the_interval_of_a_difference_encloses_it_and_is_nothing_for_equals(modules: dict[str, ModuleType]) -> None:
    rankings = [{"query": f"{n // 2}/{n}.jpg", "average_precision": (n // 2 % 5) / 5} for n in range(60)]
    zeros = [ranking | {"average_precision": 0.0} for ranking in rankings]
    interval = modules["report_chance"].difference_interval
    low, high = interval(rankings, zeros)
    assert low < 0.4 < high
    assert interval(rankings, rankings) == (0.0, 0.0)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.21, 5.3), (0.93, 0.9301), (2, 2), (-3, 40), (0, 0)])
def test_ticks_are_few_and_enclose_the_values(modules: dict[str, ModuleType], low: float, high: float) -> None:
    ticks = modules["report_charts"].nice_ticks(low, high)
    assert ticks[0] <= low
    assert high <= ticks[-1]
    assert 2 <= len(ticks) <= 8
