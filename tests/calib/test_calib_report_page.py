"""The page of a calibration's report: what it shows of the findings, that it loads nothing, and its charts."""

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from deepir.calib.record import Trial
from deepir.calib.report import BlockRow, Findings, TensorRow
from deepir.calib.report_charts import log_bars
from deepir.calib.report_page import findings_page
from deepir.calib.report_text import beyond_words
from deepir.card import GateVerdict
from deepir.spec import Numerics

PASSED = GateVerdict(True, 0.99, 0.999, 1.0, 24, "ONNX Runtime", 0.0, -0.01, 20)
FAILED = GateVerdict(False, 0.9, 0.95, 0.5, 24, "OpenVINO", 0.025, None)

FINDINGS = Findings(
    file="model.int8.onnx",
    model="model.onnx",
    numerics=Numerics.INT8,
    quantiser="deepir",
    method="mse",
    share=0.75,
    equalised=2,
    corrected=3,
    verdicts=(PASSED, FAILED),
    blocks=(BlockRow("stem", 1, 0, 0.01), BlockRow("layer1", 3, 3, 0.04), BlockRow("layer2", 3, 1, -0.001)),
    damage_from="measured when the model was calibrated",
    tensors=(TensorRow("images", ("stem",), 2.5, 0.0), TensorRow("relu", ("layer1.conv1", "add"), 0.125, 0.0004)),
    trials=(Trial("max", 0.98, 0.99), Trial("mse", 0.985, 0.995)),
    pictures={"found": 50, "unreadable": 2},
    measured_on=36,
    judged_on=12,
)


def cells(page: str, heading: str) -> list[list[str]]:
    """The text of the cells of the table under a heading, row by row, without its first row."""
    section = next(part for part in page.split("<section>") if part.startswith(f"<h2>{heading}"))
    table = ET.fromstring(re.search("<table>.*?</table>", section)[0])
    return [["".join(cell.itertext()) for cell in row] for row in list(table)[1:]]


def test_every_program_has_its_verdict() -> None:
    assert cells(findings_page(FINDINGS), "Verdicts") == [
        ["ONNX Runtime", "passed", "0.9900", "0.9990", "100.0%", "+0.0", "+1.0", "24", "20"],
        ["OpenVINO", "FAILED", "0.9000", "0.9500", "50.0%", "-2.5", "-", "24", "0"],
    ]


def test_one_failure_makes_the_heading_bad() -> None:
    page = findings_page(FINDINGS)
    assert '<h1 class="bad">model.int8.onnx is INT8 but for 2 of 3 blocks, and FAILED the gate</h1>' in page
    good = findings_page(dataclasses.replace(FINDINGS, verdicts=(PASSED,)))
    assert '<h1 class="good">model.int8.onnx is INT8 but for 2 of 3 blocks, and passed the gate</h1>' in good


def test_the_bar_of_a_block_is_as_long_as_its_damage_and_marked_where_it_stays_fp16() -> None:
    page = findings_page(FINDINGS)
    bars = re.findall(r'class="bar( kept)?" style="width:([\d.]+)%"', page)
    assert bars == [("", "25.0"), (" kept", "100.0"), (" kept", "0.0")]
    assert cells(page, "Damage") == [
        ["stem", "", "+0.010000", "", "1"],
        ["layer1", "", "+0.040000", "FP16", "3"],
        ["layer2", "", "-0.001000", "1 FP16", "3"],
    ]


def test_damage_that_is_not_known_has_no_bar_and_says_why() -> None:
    rows = tuple(dataclasses.replace(row, damage=None) for row in FINDINGS.blocks)
    page = findings_page(dataclasses.replace(FINDINGS, blocks=rows, damage_from="not measured: they are gone"))
    assert 'class="bar' not in page
    assert "not measured: they are gone" in page
    assert [row[2] for row in cells(page, "Damage")] == ["-"] * 3


def test_tensors_and_trials_have_their_tables() -> None:
    page = findings_page(FINDINGS)
    assert cells(page, "Ranges") == [
        ["images", "stem", "2.5", "0"],
        ["relu", "layer1.conv1, add", "0.125", "0.0400%"],
    ]
    assert cells(page, "Tried") == [["max", "0.9800", "0.9900"], ["mse", "0.9850", "0.9950"]]


@pytest.mark.parametrize(("beyond", "charts"), [(None, 1), (0.0, 1), (0.001, 2)])
def test_saturation_has_a_chart_where_there_is_any(beyond: float | None, charts: int) -> None:
    rows = tuple(dataclasses.replace(row, beyond=beyond) for row in FINDINGS.tensors)
    assert findings_page(dataclasses.replace(FINDINGS, tensors=rows)).count("<svg") == charts


def test_what_is_empty_has_no_table() -> None:
    page = findings_page(dataclasses.replace(FINDINGS, verdicts=(), blocks=(), tensors=(), trials=()))
    assert "<svg" not in page
    assert re.findall("<h2>([^<]+)", page) == ["Damage by block"]


def test_no_name_of_a_model_becomes_part_of_the_page() -> None:
    bad = "<script>alert(1)</script>"
    page = findings_page(
        dataclasses.replace(
            FINDINGS,
            file=bad,
            method=bad,
            trials=(Trial(bad, 0, 0),),
            blocks=(BlockRow(bad, 1, 0, 0.01),),
            tensors=(TensorRow(bad, (bad,), 1, 0.1),),
            verdicts=(dataclasses.replace(PASSED, program=bad),),
            pictures={bad: 1},
            damage_from=bad,
        )
    )
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    page = findings_page(FINDINGS)
    body = re.sub(r"<meta[^>]*>|<!doctype html>", "", page)
    assert {element.tag for element in ET.fromstring(body).iter()} >= {"svg", "table", "details", "style"}
    assert not re.search(r"https?:|src=|href=|url\(|@import", page)
    assert "default-src 'none'" in page


def test_a_share_too_small_for_the_digits_is_not_zero() -> None:
    assert [beyond_words(share) for share in (None, 0.0, 1e-8, 0.0123)] == ["-", "0", "<0.0001%", "1.2300%"]


def bars_of(svg: str) -> list[float]:
    return [float(rect.attrib["height"]) for rect in ET.fromstring(svg).iter("rect")]


def test_a_bar_is_as_high_as_the_power_of_its_value() -> None:
    heights = bars_of(log_bars([("a", 0.02), ("b", 0.2), ("none", 0.0), ("c", 2.0)], str, "ranges"))
    assert len(heights) == 3
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert heights[0] > 0


@pytest.mark.parametrize("value", [1.0, 1e-30, 1e30, 0.1])
def test_one_value_alone_has_a_bar_within_the_chart(value: float) -> None:
    assert 1 <= bars_of(log_bars([("a", value)], str, "one"))[0] <= 170


def test_values_of_many_powers_have_few_labels() -> None:
    svg = log_bars([("a", 1e-30), ("b", 1e30)], lambda value: f"{value:g}", "wide")
    assert len(re.findall("<line", svg)) <= 6
