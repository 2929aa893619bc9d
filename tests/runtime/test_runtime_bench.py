"""deepir-bench: measured for real on the CPU, compared with the reference, skipped with a reason; no time is judged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepir.card import GateVerdict, ModelCard
from deepir.errors import EngineError, MissingDependency, ModelError, OptionError
from deepir.runtime import bench as bench_module
from deepir.runtime.bench import PROGRAMS, Bench, BenchOptions, Row, bench
from deepir.runtime.bench_cli import main
from deepir.runtime.bench_measure import COMPARED, FEWEST, Job, Measured, measure, measure_here
from deepir.runtime.bench_report import bench_facts, bench_markdown, bench_table
from deepir.runtime.machine import this_machine
from deepir.runtime.power import Power
from deepir.runtime.self_check import PROOF_PICTURES
from deepir.spec import Numerics

MakeCard = Callable[..., ModelCard]
Write = Callable[..., Path]

SHORT = 0.05


def deepir_bench(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def quick(*words: object) -> Result:
    """With the one program that every machine of the tests has."""
    return deepir_bench(*words, "--backends", "onnxruntime", "--secs", SHORT)


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return Job(
        model=str(model),
        backend="onnxruntime",
        device="cpu",
        descriptors=str(tmp_path / "d.npy"),
        secs=SHORT,
        threads=1,
    )


def fake_measured(**changes: Any) -> Measured:
    measured = Measured(
        program="ONNX Runtime, CPU",
        why="asked for",
        fingerprint="0123456789abcdef",
        numerics="fp32",
        load_ms=250.0,
        warm_up=32,
        pictures=100,
        stages={"describe": {"p50": 4.0, "p90": 5.0, "p99": 6.0}, "total": {"p50": 8.0, "p90": 9.0, "p99": 12.5}},
        rate=110.0,
        engine_rate=220.0,
        peak_bytes=123_000_000,
    )
    return replace(measured, **changes)


def fake_result(*rows: Row, **options: Any) -> Bench:
    return Bench(
        options=BenchOptions(model=Path("shop.onnx"), **options),
        board="Orin",
        architecture="aarch64",
        date="2026-11-30T03:00:00+00:00",
        reference="ONNX Runtime, CPU, the same file (fp32)",
        rows=list(rows),
    )


# ---- measuring


def test_each_stage_is_measured_and_the_pictures_are_described(job: Job) -> None:
    measured = measure_here(job)
    assert list(measured.stages) == ["prepare", "describe", "total"]
    assert all(0 < stage["p50"] <= stage["p90"] <= stage["p99"] for stage in measured.stages.values())
    assert measured.pictures >= FEWEST
    assert measured.rate is not None
    assert measured.engine_rate is not None
    assert min(measured.rate, measured.engine_rate, measured.load_ms) > 0
    descriptors_nd = np.load(job.descriptors)
    assert descriptors_nd.shape == (PROOF_PICTURES, 8)
    np.testing.assert_allclose(np.linalg.norm(descriptors_nd, axis=1), 1, atol=1e-5)


def test_pictures_are_read_and_the_index_is_searched(job: Job, catalogue: Path, shop: Path) -> None:
    measured = measure_here(replace(job, source=str(catalogue), index=str(shop)))
    assert list(measured.stages) == ["read", "prepare", "describe", "search", "total"]
    assert (measured.warm_up, len(np.load(job.descriptors))) == (12, 12)


def test_no_more_than_some_pictures_are_compared(
    job: Job, tmp_path: Path, texture: Callable[..., Any], write_video: Write
) -> None:
    video = write_video(tmp_path / "walk.avi", [texture(number % 5, (48, 64)) for number in range(COMPARED + 3)])
    measure_here(replace(job, source=str(video), secs=0.0))
    assert len(np.load(job.descriptors)) == COMPARED


def test_a_short_video_starts_again(job: Job, tmp_path: Path, texture: Callable[..., Any], write_video: Write) -> None:
    video = write_video(tmp_path / "walk.avi", [texture(number, (48, 64)) for number in range(3)])
    measured = measure_here(replace(job, source=str(video)))
    assert measured.pictures >= FEWEST > len(np.load(job.descriptors)) == 3
    assert measured.warm_up == FEWEST


def test_without_seconds_pictures_are_only_described(job: Job) -> None:
    measured = measure_here(replace(job, secs=0.0))
    assert (measured.stages, measured.rate, measured.engine_rate, measured.pictures) == ({}, None, None, 0)


def test_a_child_measures_the_same_descriptors(job: Job) -> None:
    here = measure_here(job)
    described_nd = np.load(job.descriptors)
    child = measure(job)
    np.testing.assert_array_equal(np.load(job.descriptors), described_nd)
    assert (child.program, child.fingerprint) == (here.program, here.fingerprint)
    assert child.peak_bytes is not None
    assert child.peak_bytes > 10_000_000


def test_a_camera_is_no_source_for_a_benchmark(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeCamera:
        live = True
        name = "camera0"

        def __enter__(self) -> "FakeCamera":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("deepir.runtime.bench_measure.open_source", lambda _: FakeCamera())
    with pytest.raises(OptionError, match="record it first"):
        measure_here(replace(job, source="camera0"))


# ---- a whole benchmark


def test_every_program_is_measured_or_skipped_with_its_reason(model: Path) -> None:
    result = bench(BenchOptions(model=model, secs=SHORT, threads=1), this_machine())
    assert [row.backend for row in result.rows] == list(PROGRAMS)
    assert all((row.measured is None) == bool(row.reason) for row in result.rows)
    (plain,) = (row for row in result.rows if row.backend == "onnxruntime")
    assert plain.verdict is not None
    assert (plain.verdict.cosine_min, plain.verdict.agreement) == (1.0, 1.0)
    (tensorrt,) = (row for row in result.rows if row.backend == "tensorrt")
    assert "no engine built from tiny.onnx" in tensorrt.reason


def test_a_program_that_dies_is_skipped_and_the_others_go_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_measure(job: Job) -> Measured:
        if job.backend == "openvino":
            message = "its process ended with signal SIGSEGV"
            raise EngineError(message)
        np.save(job.descriptors, np.eye(3, dtype=np.float32))
        return fake_measured()

    monkeypatch.setattr(bench_module, "measure", fake_measure)
    result = bench(BenchOptions(model=model, backends=("openvino", "onnxruntime")), this_machine())
    assert [(row.reason, row.measured is not None) for row in result.rows] == [
        ("its process ended with signal SIGSEGV", False),
        ("", True),
    ]


def test_where_no_onnx_runtime_is_the_rest_is_measured_without_a_comparison(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_measure(job: Job) -> Measured:
        if job.backend == "onnxruntime":
            message = "this needs the package onnxruntime"
            raise MissingDependency(message)
        np.save(job.descriptors, np.eye(3, dtype=np.float32))
        return fake_measured()

    monkeypatch.setattr(bench_module, "measure", fake_measure)
    result = bench(BenchOptions(model=model, backends=("openvino",)), this_machine())
    assert result.reference == "nothing: this needs the package onnxruntime"
    assert result.rows[0].verdict is None


def test_where_no_program_runs_the_exit_code_is_that_of_the_first(model: Path) -> None:
    result = deepir_bench(model, "--backends", "tensorrt", "--secs", SHORT)
    assert (result.exit_code, "no program can run" in result.stderr) == (5, True)


def test_another_form_of_the_model_is_the_reference(tmp_path: Path, make_card: MakeCard, write_model: Write) -> None:
    card = make_card()
    exact, coarse = (write_model(tmp_path / f"{seed}.onnx", card=card, seed=seed) for seed in (1, 2))
    facts = json.loads(quick(coarse, "--reference", exact, "--json").stdout)
    assert facts["reference"] == "ONNX Runtime, CPU, 1.onnx (fp32)"
    # the same card on other weights: the descriptors must be told apart
    assert facts["backends"][0]["against_reference"]["cosine_min"] < 0.99


def test_another_model_is_no_reference(tmp_path: Path, model: Path, make_card: MakeCard, write_model: Write) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card(weights="b"))
    result = quick(model, "--reference", other)
    assert (result.exit_code, "another form of the same model" in result.stderr) == (ModelError.exit_code, True)


def test_an_index_of_another_model_ends_with_eight(
    tmp_path: Path, shop: Path, make_card: MakeCard, write_model: Write
) -> None:
    other = write_model(tmp_path / "other.onnx", card=make_card(weights="b"))
    assert quick(other, "--index", shop).exit_code == 8


def test_a_damaged_model_ends_with_three(tmp_path: Path, model: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:80])
    assert quick(damaged).exit_code == 3
    assert quick(tmp_path / "gone.onnx").exit_code == 3


@pytest.mark.parametrize(
    "words",
    [["--backends", "torch"], ["--backends", "cuda,cuda"], ["--backends", ""], ["--secs", "0"], ["--threads", "-1"]],
)
def test_what_cannot_be_is_refused(model: Path, words: list[str]) -> None:
    assert deepir_bench(model, *words).exit_code == 2


def test_an_engine_is_compared_with_the_file_beside_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "tiny.engine"
    engine.write_bytes(b"a plan")
    record = (Path(__file__).parents[1] / "data" / "engine.json").read_text()
    fields = {**json.loads(record), "onnx_file": model.name}
    engine.with_name("tiny.engine.json").write_text(json.dumps(fields))
    asked: list[str] = []

    def fake_measure(job: Job) -> Measured:
        asked.append(Path(job.model).name)
        np.save(job.descriptors, np.eye(3, dtype=np.float32))
        return fake_measured()

    monkeypatch.setattr(bench_module, "measure", fake_measure)
    result = bench(BenchOptions(model=engine, backends=("tensorrt",)), this_machine())
    assert (asked, result.reference) == (["tiny.onnx", "tiny.engine"], "ONNX Runtime, CPU, tiny.onnx (fp32)")
    model.unlink()
    assert bench(BenchOptions(model=engine, backends=("tensorrt",)), this_machine()).reference.startswith("nothing")


# ---- the command and its reports


def test_paths_start_where_the_command_was_typed(
    tmp_path: Path, shop: Path, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = quick("tiny.onnx", "--source", "catalogue", "--index", "shop.usearch", "--json")
    (row,) = json.loads(result.stdout)["backends"]
    assert (row["warm_up"], "search" in row["stages"]) == (12, True)


def test_the_command_tells_json_and_writes_both_reports(tmp_path: Path, model: Path) -> None:
    result = quick(model, "--json", "-o", tmp_path / "bench.md")
    facts = json.loads(result.stdout)
    assert (facts["schema"], facts["source"], facts["unmet"]) == ("deepir.bench/1", "made-up pictures", [])
    assert facts["backends"][0]["program"] == "ONNX Runtime, CPU"
    assert (tmp_path / "bench.md").read_text().startswith("## tiny.onnx\n")
    assert quick(model, "-o", tmp_path / "bench.json").exit_code == 0
    assert json.loads((tmp_path / "bench.json").read_text())["model"] == "tiny.onnx"


def test_a_report_of_another_kind_or_place_is_refused_before_the_work(tmp_path: Path, model: Path) -> None:
    assert deepir_bench(model, "-o", tmp_path / "bench.txt").exit_code == 2
    assert deepir_bench(model, "-o", tmp_path / "gone" / "bench.md").exit_code == 3


def test_a_bound_that_is_not_reached_ends_with_six_after_the_table(model: Path) -> None:
    result = quick(model, "--assert", "recall1>=0.99", "--assert", "memory<1MB", "--assert", "search.p50<9s")
    assert result.exit_code == 6
    assert "ONNX Runtime, CPU" in result.stdout
    unmet = [line for line in result.stderr.splitlines() if line.startswith("unmet: ")]
    assert [line.split(":")[1].strip() for line in unmet] == ["memory<1MB", "search.p50<9s"]
    assert "give an index with --index" in unmet[1]
    assert "error: 2 of 3 bounds are not reached, first memory<1MB" in result.stderr


def test_a_rounded_file_is_not_praised_for_being_like_itself(
    tmp_path: Path, make_card: MakeCard, write_model: Write
) -> None:
    rounded = write_model(tmp_path / "tiny.int8.onnx", card=replace(make_card(), numerics=Numerics.INT8))
    exact = write_model(tmp_path / "tiny.onnx", card=make_card())
    alone = quick(rounded, "--assert", "recall1>=0.99", "--assert", "p99<600s")
    assert alone.exit_code == 6
    assert (
        "error: 1 of 2 bounds is not reached, first recall1>=0.99: tiny.int8.onnx (int8) was compared" in alone.stderr
    )
    assert f"give its FP32 form with --reference, or --reference {rounded}" in alone.stderr
    for reference in (exact, rounded):
        assert quick(rounded, "--reference", reference, "--assert", "recall1>=0.99").exit_code == 0


def test_bounds_that_are_reached_end_with_nothing(model: Path) -> None:
    assert quick(model, "--assert", "cosine>=99%", "--assert", "onnxruntime:total.p99<600s").exit_code == 0


def test_a_bound_that_is_not_understood_is_refused_before_the_work(model: Path) -> None:
    result = deepir_bench(model, "--assert", "p99==25ms")
    assert (result.exit_code, "p99<25ms" in result.stderr) == (2, True)


def test_the_table_has_a_line_for_what_ran_and_a_reason_for_what_did_not() -> None:
    verdict = GateVerdict(passed=True, cosine_min=0.9876, cosine_mean=0.9987, agreement=0.969, images=32)
    warm = Power(mode="MAXN", celsius=61.2, hottest="cpu-thermal")
    ran = Row(backend="onnxruntime", measured=fake_measured(), verdict=verdict, before=Power(mode="MAXN"), after=warm)
    text = bench_table(fake_result(ran, Row(backend="cuda", reason="no driver"), index=Path("shop.usearch")))
    line = next(line for line in text.splitlines() if line.startswith("ONNX Runtime, CPU "))
    assert line.split()[3:] == ["0.25", "8.00", "9.00", "12.50", "110.0", "220.0", "0.9876", "0.9987", "0.969", "123"]
    assert "cuda skipped: no driver" in text
    assert "describe 4.00/5.00/6.00" in text
    assert "before mode MAXN; after mode MAXN, 61 °C (cpu-thermal)" in text
    assert "after a warm-up of 32 pictures" in text


def test_markdown_has_as_many_cells_in_each_row() -> None:
    text = bench_markdown(fake_result(Row(backend="onnxruntime", measured=fake_measured())), ["p99<1ms: it is not"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert len({row.count("|") for row in rows}) == 1
    assert "- unmet: p99<1ms: it is not" in text


def test_json_holds_what_was_skipped_and_is_json() -> None:
    facts = bench_facts(fake_result(Row(backend="cuda", reason="no driver")), ["it is not"])
    assert json.loads(json.dumps(facts)) == facts
    assert facts["backends"] == [{"backend": "cuda", "skipped": "no driver"}]
    assert facts["unmet"] == ["it is not"]
