"""The doctor's questions about files, its self-test, and deepir-doctor itself."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import GateVerdict, ModelCard
from deepir.errors import EngineError, ModelError, OptionError
from deepir.runtime import doctor
from deepir.runtime.child import ask_child, kind_of
from deepir.runtime.doctor_cli import main
from deepir.runtime.doctor_files import check_files
from deepir.runtime.doctor_selftest import Rehearsal, rehearse_here
from deepir.runtime.finding import Finding, fail, ok
from deepir.runtime.index import Index
from deepir.runtime.machine import Machine, this_machine
from deepir.runtime.machine_import import Imported
from deepir.runtime.sidecar import EngineRecord, write_record
from deepir.spec import Numerics

UnitRows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]
Write = Callable[..., Path]

RECORD = EngineRecord.from_json((Path(__file__).parents[1] / "data" / "engine.json").read_text())
ORIN = Imported("12.6", details={"gpu": "Orin", "capability": "8.7", "memory_mib": 7620})
PLAN = b"a plan"


def fake_machine(**imports: Imported) -> Machine:
    """An Orin with TensorRT 10.3.0 and ONNX Runtime, changed by what is given."""
    found = {"onnxruntime": Imported("1.23.2"), "tensorrt": Imported("10.3.0"), "cuda": ORIN, **imports}
    return replace(this_machine(), architecture="aarch64", imported=lambda name: found[name])


def look(*paths: Path, **imports: Imported) -> list[Finding]:
    return check_files(list(paths), fake_machine(**imports))


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


def deepir_doctor(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def small_index(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows) -> Path:
    path = tmp_path / "shop.usearch"
    rng = np.random.default_rng(5)
    index = Index.create(make_card(), model)
    for label in ("soap", "tea"):
        index.add(label, unit_rows(rng, 3), [f"{label}.png"] * 3)
    index.save(path)
    return path


@pytest.fixture
def engine(tmp_path: Path, model: Path, make_card: MakeCard) -> Callable[..., Path]:
    """An engine (whose plan is fake) that was built from the model, its record changed by what is given."""

    def make(**changes: Any) -> Path:
        path = tmp_path / "tiny.engine"
        path.write_bytes(PLAN)
        record = replace(
            RECORD,
            card=make_card(),
            engine_sha256=hashlib.sha256(PLAN).hexdigest(),
            engine_bytes=len(PLAN),
            onnx_file=model.name,
            onnx_sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
            gate=GateVerdict(passed=True, cosine_min=0.99, cosine_mean=0.999, agreement=1.0, images=32),
            not_run="",
        )
        write_record(path, replace(record, **changes))
        return path

    return make


def test_a_model_its_engine_and_its_index_agree(model: Path, small_index: Path, engine: Callable[..., Path]) -> None:
    findings = look(model, small_index, engine())
    assert set(statuses(findings).values()) == {"ok"}
    assert findings[-1].name == "agreement"


def test_a_file_that_is_missing_or_no_file_of_ours_ends_with_three(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("so")
    findings = look(tmp_path / "gone.onnx", tmp_path / "notes.txt", tmp_path / "gone.usearch")
    assert [(finding.status, finding.error.exit_code) for finding in findings] == [("fail", 3)] * 3


def test_a_damaged_model_ends_with_three(tmp_path: Path, model: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:100])
    (finding,) = look(damaged)
    assert (finding.status, finding.error.exit_code) == ("fail", 3)


def test_a_model_that_failed_its_gate_is_told(tmp_path: Path, make_card: MakeCard, write_model: Write) -> None:
    verdict = GateVerdict(passed=False, cosine_min=0.5, cosine_mean=0.9, agreement=0.5, images=32)
    (finding,) = look(write_model(tmp_path / "bad.onnx", card=replace(make_card(), gates=(verdict,))))
    assert (finding.status, "FAILED" in finding.text) == ("warn", True)


@pytest.mark.parametrize(
    ("numerics", "flags", "gpu", "statuses_"),
    [
        (Numerics.INT8, "avx2", False, ["ok", "warn"]),
        (Numerics.FP32, "avx2", False, ["ok"]),
        (Numerics.INT8, "avx2 avx512_vnni", False, ["ok"]),
        (Numerics.INT8, "avx2", True, ["ok"]),
    ],
)
def test_an_int8_model_is_slow_on_a_processor_without_vnni_and_the_fp32_form_beside_it_is_named(
    tmp_path: Path,
    make_card: MakeCard,
    write_model: Write,
    *,
    numerics: Numerics,
    flags: str,
    gpu: bool,
    statuses_: list[str],
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    if gpu:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev" / "nvidiactl").touch()
    machine = replace(fake_machine(), root=tmp_path, architecture="x86_64")
    write_model(tmp_path / "shop.onnx", card=make_card())
    path = write_model(tmp_path / "shop.int8.onnx", card=replace(make_card(), numerics=numerics))
    findings = check_files([path], machine)
    assert [finding.status for finding in findings] == statuses_
    if "warn" in statuses_:
        assert findings[1].cure == f"deepir-run camera0 --index shop.usearch --model {tmp_path / 'shop.onnx'}"


def test_a_model_cannot_be_opened_without_onnx_runtime(model: Path) -> None:
    (finding,) = look(model, onnxruntime=Imported(None, "no", missing=True))
    assert (finding.status, finding.cure.startswith("pip install")) == ("warn", True)


def test_a_damaged_index_ends_with_eight_and_names_repair(small_index: Path) -> None:
    content = bytearray(small_index.read_bytes())
    content[len(content) // 2] ^= 1
    small_index.write_bytes(content)
    (finding,) = look(small_index)
    assert (finding.status, finding.error.exit_code) == ("fail", 8)
    assert finding.cure == f"deepir-index repair {small_index} --dry-run"


def test_an_index_of_another_model_ends_with_eight_and_names_rebuild(
    tmp_path: Path, small_index: Path, make_card: MakeCard, write_model: Write
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card(weights="b"))
    finding = look(other, small_index)[-1]
    assert (finding.name, finding.status, finding.error.exit_code) == ("agreement", "fail", 8)
    assert finding.cure == f"deepir-index rebuild {small_index} --model {other}"


def test_two_models_that_differ_end_with_three(
    tmp_path: Path, model: Path, make_card: MakeCard, write_model: Write
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card(weights="b"))
    assert look(model, other)[-1].error is ModelError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensorrt_version": "10.13.0"}, "built with TensorRT 10.13.0, this machine has 10.3.0"),
        ({"host": {"arch": "x86_64"}}, "built on x86_64, this machine is aarch64"),
        ({"engine_sha256": "ab" * 32}, "not the engine that its sidecar was written for"),
    ],
)
def test_an_engine_of_another_machine_ends_with_five(
    engine: Callable[..., Path], changes: dict[str, Any], words: str
) -> None:
    finding = look(engine(**changes))[0]
    assert (finding.status, finding.error.exit_code) == ("fail", 5)
    assert words in finding.text
    assert finding.cure.startswith("deepir-export")


def test_an_engine_that_was_not_proven_is_told(engine: Callable[..., Path]) -> None:
    finding = look(engine(gate=None, not_run="no GPU at hand"))[0]
    assert (finding.status, "not proven: no GPU at hand" in finding.text) == ("warn", True)


def test_an_engine_without_its_sidecar_ends_with_five(engine: Callable[..., Path]) -> None:
    path = engine()
    path.with_name("tiny.engine.json").unlink()
    (finding,) = look(path)
    assert (finding.status, finding.error) == ("fail", EngineError)


def test_an_engine_is_told_where_tensorrt_is_broken_or_its_origin_changed(
    engine: Callable[..., Path], model: Path
) -> None:
    path = engine()
    model.write_bytes(model.read_bytes() + b" ")
    assert statuses(look(path, tensorrt=Imported(None, "no"))) == {"tiny.engine": "warn", "tiny.engine origin": "warn"}
    model.unlink()
    assert statuses(look(path)) == {"tiny.engine": "ok", "tiny.engine origin": "warn"}


# ---- the self-test


def test_the_self_test_finds_every_stored_picture_again(model: Path) -> None:
    rehearsal = rehearse_here(model)
    assert (rehearsal.passed, rehearsal.found, rehearsal.scenes) == (True, 16, 16)
    assert list(rehearsal.milliseconds) == ["load", "describe", "save", "open", "search"]
    assert min(rehearsal.milliseconds.values()) > 0


def test_a_stored_picture_that_is_not_found_again_fails_the_self_test(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Index.search_labels
    monkeypatch.setattr(Index, "search_labels", lambda self, query_1d, count: real(self, -query_1d, count))
    assert not rehearse_here(model).passed


def test_a_self_test_that_fails_is_a_finding_with_its_exit_code(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rehearse_here(model)
    monkeypatch.setattr(doctor, "rehearse", lambda _: replace(whole, found=3))
    finding, rehearsal = doctor.try_model(model)
    assert (finding.status, finding.error, rehearsal is not None) == ("fail", EngineError, True)

    def dies(_: Path) -> Rehearsal:
        message = "its process ended with signal SIGSEGV"
        raise EngineError(message)

    monkeypatch.setattr(doctor, "rehearse", dies)
    finding, rehearsal = doctor.try_model(model)
    assert (finding.status, finding.text, rehearsal) == ("fail", "its process ended with signal SIGSEGV", None)


# ---- the command


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs this test, the questions about the machine are answered well."""
    monkeypatch.setattr(doctor, "CHECKS", (lambda _: ok("python", "fake"),))


def test_the_command_says_a_line_for_each_check_and_what_comes_next(healthy: None, model: Path) -> None:
    result = deepir_doctor(model)
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [["ok", "python"], ["ok", "tiny.onnx"]]
    assert "next: deepir-doctor MODEL.onnx --selftest" in result.stderr


def test_the_command_ends_with_the_code_of_a_file_and_with_four_for_the_machine(
    healthy: None, small_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_index.write_bytes(small_index.read_bytes()[:-1])
    assert deepir_doctor(small_index).exit_code == 8
    monkeypatch.setattr(doctor, "CHECKS", (lambda _: fail("tensorrt", "broken", "mend it"),))
    result = deepir_doctor(small_index)
    assert (result.exit_code, "first tensorrt: mend it" in result.stderr) == (4, True)


def test_the_command_tells_json_of_checks_and_self_test(healthy: None, model: Path) -> None:
    facts = json.loads(deepir_doctor(model, "--selftest", "--json").stdout)
    assert facts["ok"] is True
    assert [check["name"] for check in facts["checks"]] == ["python", "tiny.onnx", "self-test"]
    assert facts["checks"][0] == {"name": "python", "status": "ok", "text": "fake", "command": None}
    assert (facts["selftest"]["found"], facts["selftest"]["scenes"]) == (16, 16)


def test_the_self_test_prints_a_block_to_share(healthy: None, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rehearse_here(model)
    monkeypatch.setattr(doctor, "rehearse", lambda _: whole)
    lines = deepir_doctor(model, "--selftest").stdout.splitlines()
    block = lines[lines.index("```") + 1 : -1]
    assert lines[-1] == "```"
    assert block[0].startswith("deepir: ")
    assert "second views recognised: 16 of 16" in block
    assert "tiny" not in "\n".join(block)


def test_the_self_test_needs_a_model(small_index: Path) -> None:
    result = deepir_doctor(small_index, "--selftest")
    assert (result.exit_code, "needs a model" in result.stderr) == (2, True)


def test_the_command_looks_at_the_real_machine(tmp_path: Path) -> None:
    result = deepir_doctor("--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == (0 if facts["ok"] else 4)
    assert len(facts["checks"]) == len(doctor.CHECKS)


# ---- work in a child


def test_an_error_of_a_child_keeps_its_sentence_and_its_code(tmp_path: Path) -> None:
    with pytest.raises(kind_of(3), match=r"no such model"):
        ask_child("deepir.runtime.doctor_selftest", [str(tmp_path / "gone.onnx")], 60)


def test_a_child_that_tells_nothing_is_an_error_with_its_end() -> None:
    with pytest.raises(EngineError, match="exit code 1"):
        ask_child("deepir.runtime.no_such_module", [], 60)


def test_every_exit_code_has_its_class() -> None:
    assert kind_of(2) is OptionError
    assert all(kind_of(code).exit_code == code for code in range(1, 10))


def test_a_rehearsal_survives_its_way_through_json(model: Path) -> None:
    rehearsal = rehearse_here(model)
    assert Rehearsal(**json.loads(json.dumps(asdict(rehearsal)))) == rehearsal
