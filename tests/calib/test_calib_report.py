"""The report of a calibration: what it shows, in lines, as a page and as JSON, and what it refuses."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepir.calib import programs
from deepir.calib.blocks import find_blocks
from deepir.calib.derive import derive
from deepir.calib.images import CalibrationSet
from deepir.calib.onnx_file import describe, prepared, read_card, read_onnx, write_card, write_onnx
from deepir.calib.quantise import place
from deepir.calib.ranges import measure_statistics, ranges_by
from deepir.calib.recipe import Recipe
from deepir.calib.record import BlockDamage, Record, Trial, read_record, record_path, write_record
from deepir.calib.report import read_findings
from deepir.calib.report_cli import report_command
from deepir.calib.report_page import findings_page
from deepir.calib.report_text import findings_text
from deepir.calib.search import for_trials
from deepir.card import GateVerdict
from deepir.distill.checkpoint import Model
from deepir.export.graph import build_onnx
from deepir.gate import GateLimits, judge
from deepir.spec import Numerics

MakeModel = Callable[..., Model]


@pytest.fixture(scope="module")
def made(make_model: MakeModel, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, model.int8.onnx and its record, in which no damage is known."""
    folder = tmp_path_factory.mktemp("made")
    master = build_onnx(make_model(dim=6))
    write_onnx(master, folder / "model.onnx")
    paths = sorted(pictures.rglob("*.png"))
    measure, judges = tuple(paths[::2]), tuple(paths[1::2])
    card, names = read_card(master), place(master).tensors
    statistics = measure_statistics(master, names, lambda: prepared(measure, card))
    recipe = Recipe(method="max", ranges=ranges_by(statistics, "max"))
    int8 = derive(master, recipe)
    verdict = judge(describe(master, card, judges), describe(int8, card, judges), GateLimits())
    write_card(int8, dataclasses.replace(card, numerics=Numerics.INT8, gates=(verdict,)))
    write_onnx(int8, folder / "model.int8.onnx")
    record = Record(
        model=folder / "model.onnx",
        recipe=recipe,
        verdicts=(verdict,),
        images=CalibrationSet(measure, judges, counts={"found": 48, "duplicates": 3}),
        trials=(Trial("max", 0.991, 0.9975), Trial("mse, equalised", 0.99, 0.9969)),
        saturation={name: 0.25 * number / len(names) for number, name in enumerate(names)},
    )
    write_record(folder / "model.int8.calib.json", record)
    return folder


@pytest.fixture
def int8(made: Path, tmp_path: Path) -> Path:
    """A copy of the INT8 file with what lies beside it, to be changed."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made" / "model.int8.onnx"


def run(*words: object) -> Result:
    return CliRunner().invoke(report_command, [str(word) for word in words])


def change(int8: Path, **changes: object) -> None:
    path = record_path(int8)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_damage(int8: Path, *damages: float) -> list[str]:
    """Write damages of the blocks into the record, the worst first as the calibration does; gives their names."""
    blocks = find_blocks(read_onnx(int8.with_name("model.onnx")))
    known = [BlockDamage(one.name, one.convolutions, value) for one, value in zip(blocks, damages, strict=True)]
    worst_first = sorted(known, key=lambda one: -one.damage)
    change(int8, damage=[dataclasses.asdict(one) for one in worst_first])
    return [block.name for block in blocks]


def rejudge(int8: Path, *verdicts: GateVerdict, numerics: Numerics = Numerics.INT8) -> None:
    """Give the file and its record these verdicts."""
    proto = read_onnx(int8)
    write_card(proto, dataclasses.replace(read_card(proto), gates=verdicts, numerics=numerics))
    write_onnx(proto, int8)
    change(int8, verdicts=[dataclasses.asdict(verdict) for verdict in verdicts], numerics=numerics.value)


def test_the_command_prints_the_findings_and_writes_the_page(int8: Path) -> None:
    with_damage(int8, 0.01, -0.002, 0.03)
    result = run(int8)
    page = int8.with_suffix(".html")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{findings_text(read_findings(int8))}\n\nwrote {page}\n"
    assert page.read_text() == findings_page(read_findings(int8))


def test_blocks_are_in_the_order_of_the_network_with_their_damage(int8: Path) -> None:
    names = with_damage(int8, 0.01, -0.002, 0.03)
    findings = read_findings(int8)
    assert [(row.block, row.damage) for row in findings.blocks] == list(zip(names, (0.01, -0.002, 0.03), strict=True))
    lines = [line.split() for line in findings_text(findings).splitlines()]
    assert [line[1] for line in lines if line and line[0] in names] == ["+0.010000", "-0.002000", "+0.030000"]
    assert findings.damage_from == "measured when the model was calibrated"


def test_tensors_are_shown_with_their_readers_range_and_saturation(int8: Path) -> None:
    with_damage(int8, 0, 0, 0)
    findings = read_findings(int8)
    record = read_record(record_path(int8), int8.with_name("model.onnx"))
    assert {row.tensor: row.largest for row in findings.tensors} == record.recipe.ranges
    assert {row.tensor: row.beyond for row in findings.tensors} == record.saturation
    master = read_onnx(int8.with_name("model.onnx"))
    for row in findings.tensors:
        assert list(row.readers) == [
            node.name for node in master.graph.node if row.tensor in node.input and node.op_type in ("Conv", "Add")
        ]
        assert row.readers


def test_the_json_holds_everything_and_stdout_nothing_else(int8: Path) -> None:
    with_damage(int8, 0.01, 0, 0)
    result = run(int8, "--json", "-o", int8.with_name("other.html"))
    fields = json.loads(result.stdout)
    assert (fields["file"], fields["model"], fields["numerics"]) == ("model.int8.onnx", "model.onnx", "int8")
    assert (fields["share"], fields["method"], fields["quantiser"]) == (1.0, "max", "deepir")
    assert fields["pictures"] == {"found": 48, "duplicates": 3}
    assert (fields["measured_on"], fields["judged_on"]) == (24, 24)
    assert fields["trials"][1] == {"recipe": "mse, equalised", "cosine_min": 0.99, "cosine_mean": 0.9969}
    assert fields["passed"] is fields["verdicts"][0]["passed"]
    assert int8.with_name("other.html").is_file()
    assert not int8.with_suffix(".html").exists()


def test_known_damage_is_not_measured_again(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_damage(int8, 0, 0, 0)
    monkeypatch.setattr("deepir.calib.report.measure_damage", lambda *_: pytest.fail("measured"))
    assert read_findings(int8).damage_from == "measured when the model was calibrated"


def test_unknown_damage_is_measured_on_the_pictures_of_the_calibration(int8: Path) -> None:
    lines: list[str] = []
    findings = read_findings(int8, report=lines.append)
    assert findings.damage_from == "measured for this report on 24 pictures"
    assert all(row.damage is not None and abs(row.damage) < 0.1 for row in findings.blocks)
    assert lines[0] == "measuring what each block damages, on 24 pictures"


def test_damage_is_not_measured_in_an_openvino_that_differs_from_onnx_runtime(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [row.damage for row in read_findings(int8).blocks]
    turned = np.eye(6, dtype=np.float32)[:1].repeat(24, axis=0)
    monkeypatch.setattr(programs, "openvino_runs", lambda: True)
    monkeypatch.setattr(programs, "describe_in_openvino", lambda *_: ("OpenVINO", turned))
    lines: list[str] = []
    assert [row.damage for row in read_findings(int8, report=lines.append).blocks] == expected
    assert "trials run in ONNX Runtime, not in OpenVINO: its descriptors differ" in lines[1]


def test_given_pictures_are_measured_on_though_the_damage_is_known(int8: Path, pictures: Path) -> None:
    with_damage(int8, 1, 1, 1)
    result = run(int8, "--images", pictures / "milk", "--json")
    fields = json.loads(result.stdout)
    assert fields["damage_from"] == "measured for this report on 8 pictures"
    assert all(row["damage"] < 0.1 for row in fields["blocks"])


def test_of_many_pictures_some_from_all_over_are_measured_on(int8: Path, pictures: Path) -> None:
    paths = sorted(pictures.rglob("*.png"))
    seen: list[str] = []
    read_findings(int8, paths, seen.append)
    assert (len(paths), seen[0]) == (48, "measuring what each block damages, on 32 pictures")


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 48, 63, 64, 1000])
def test_pictures_for_trials_are_spread_over_all(count: int) -> None:
    chosen = [int(path.name) for path in for_trials([Path(str(number)) for number in range(count)])]
    assert len(set(chosen)) == len(chosen) == min(count, 32)
    gaps = np.diff([*chosen, count])
    assert gaps.max(initial=1) - gaps.min(initial=1) <= max(1, count // 32)


def test_pictures_that_are_gone_leave_the_damage_open_and_say_what_to_do(int8: Path) -> None:
    change(int8, measured_on={"gone/a.png": None, "gone/b.png": None})
    findings = read_findings(int8)
    assert findings.damage_from == "not measured: the pictures of the calibration are gone; give others with --images"
    assert [row.damage for row in findings.blocks] == [None] * 3
    assert "gone; give others with --images" in findings_text(findings)


def test_the_damage_of_a_file_of_another_library_is_left_open(int8: Path) -> None:
    recipe = json.loads(record_path(int8).read_text())["recipe"]
    change(int8, quantiser="modelopt", recipe={**recipe, "method": "x", "ranges": {}})
    findings = read_findings(int8)
    assert findings.damage_from.startswith("not measured: the nodes are of modelopt")
    assert findings.tensors == ()
    assert "tensor  " not in findings_text(findings)


def test_blocks_that_stay_fp16_are_marked(int8: Path) -> None:
    names = with_damage(int8, 0.01, 0.02, 0.03)
    block = find_blocks(read_onnx(int8.with_name("model.onnx")))[1]
    recipe = json.loads(record_path(int8).read_text())["recipe"]
    change(int8, recipe={**recipe, "kept": list(block.convolutions)})
    findings = read_findings(int8)
    assert [row.kept for row in findings.blocks] == [0, len(block.convolutions), 0]
    text = findings_text(findings)
    assert "is INT8 but for 1 of 3 blocks" in text
    assert [line.split()[0] for line in text.splitlines() if " FP16 " in line] == [names[1]]


def test_of_a_file_that_became_fp16_the_headline_says_so(int8: Path) -> None:
    with_damage(int8, 0, 0, 0)
    rejudge(int8, GateVerdict(True, 0.9999, 0.99999, 1.0, 24), numerics=Numerics.FP16)
    recipe = json.loads(record_path(int8).read_text())["recipe"]
    # what the best INT8 file kept in FP16 says nothing about this one
    change(int8, recipe={**recipe, "kept": list(find_blocks(read_onnx(int8.with_name("model.onnx")))[0].convolutions)})
    findings = read_findings(int8)
    first = findings_text(findings).splitlines()[0]
    assert first == "model.int8.onnx computes in FP16, because no INT8 form passed the gate, and passed the gate"
    assert all(row.kept == 0 for row in findings.blocks)


def test_one_program_that_fails_fails_the_file(int8: Path) -> None:
    with_damage(int8, 0, 0, 0)
    good = GateVerdict(True, 0.99, 0.999, 1.0, 24, "ONNX Runtime", 0.0, -0.01, 20)
    rejudge(int8, good, dataclasses.replace(good, passed=False, program="OpenVINO", map_loss=0.025))
    lines = findings_text(read_findings(int8)).splitlines()
    assert lines[0] == "model.int8.onnx is INT8 and FAILED the gate"
    assert [line.partition(":")[0] for line in lines if line.endswith((": passed", ": FAILED"))] == [
        "ONNX Runtime",
        "OpenVINO",
    ]


def test_a_file_that_nobody_judged_did_not_pass(int8: Path) -> None:
    with_damage(int8, 0, 0, 0)
    rejudge(int8)
    findings = read_findings(int8)
    assert not findings.passed
    assert findings_text(findings).startswith("model.int8.onnx was never judged\n")


def test_without_a_record_the_command_says_what_is_missing(int8: Path) -> None:
    record_path(int8).unlink()
    result = run(int8)
    assert result.exit_code == 3
    assert f"there is no record {record_path(int8)}: keep the .calib.json" in result.output
    assert not int8.with_suffix(".html").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b'{"model": 3}', b'{"model": "model.onnx"}'])
def test_a_damaged_record_is_refused(int8: Path, content: bytes) -> None:
    record_path(int8).write_bytes(content)
    result = run(int8)
    assert result.exit_code == 3
    assert "model.int8.calib.json is not the record of a calibration" in result.output


def test_a_record_of_another_schema_is_refused_with_both_names(int8: Path) -> None:
    change(int8, schema="deepir.calib/1")
    assert "schema 'deepir.calib/1', expected deepir.calib/2" in run(int8).output


def test_without_the_fp32_file_the_command_names_it(int8: Path) -> None:
    int8.with_name("model.onnx").unlink()
    result = run(int8)
    assert result.exit_code == 3
    assert f"cannot read {int8.with_name('model.onnx')}: No such file" in result.output


def test_a_record_cannot_point_outside_its_folder(int8: Path) -> None:
    change(int8, model="../../secret.onnx")
    assert f"cannot read {int8.with_name('secret.onnx')}" in run(int8).output


def test_another_fp32_file_is_refused(int8: Path, make_model: MakeModel) -> None:
    write_onnx(build_onnx(make_model(dim=6, seed=1)), int8.with_name("model.onnx"))
    result = run(int8)
    assert result.exit_code == 3
    assert "made of another file" in result.output


def test_the_record_of_another_calibration_is_refused(int8: Path) -> None:
    change(int8, verdicts=[])
    result = run(int8)
    assert result.exit_code == 3
    assert "tells of another file than" in result.output


def test_a_file_that_is_no_model_is_refused(int8: Path) -> None:
    int8.write_bytes(int8.read_bytes()[:500])
    result = run(int8)
    assert result.exit_code == 3
    assert "model.int8.onnx" in result.output


@pytest.mark.parametrize("place", ["absent/page.html", "model.int8.onnx", "folder.html"])
def test_a_place_that_is_no_place_for_a_page_is_refused_at_once(int8: Path, place: str) -> None:
    (int8.parent / "folder.html").mkdir()
    before = int8.read_bytes()
    result = run(int8, "-o", int8.parent / place)
    assert result.exit_code == 3
    assert "it must end in .html and its folder" in result.output
    assert int8.read_bytes() == before


def test_a_folder_without_pictures_is_refused(int8: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(int8, "--images", tmp_path / "empty")
    assert result.exit_code == 3
    assert "empty" in result.output
