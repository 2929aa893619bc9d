"""deepir-eval scores checkpoints, ONNX files and descriptors on disk alike, and says what made each score."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from deepir.calib.onnx_file import write_onnx
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import new_model, save_model
from deepir.expansion import expand_database, expand_queries
from deepir.export.eval_cli import main
from deepir.export.graph import build_onnx
from deepir.score import average_precision

BOX = [20, 10, 61, 50]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("eval") / "model.safetensors"
    model = new_model(build_trunk("timm:mobilenetv4_conv_small_050@3"), sizes=((64, 64),))
    save_model(model, path)
    write_onnx(build_onnx(model), path.with_suffix(".onnx"))
    return path


@pytest.fixture(scope="module")
def onnx(checkpoint: Path) -> str:
    return str(checkpoint.with_suffix(".onnx"))


@pytest.fixture
def benchmark(pictures: Path, tmp_path: Path) -> Callable[..., Path]:
    """benchmark(database, queries, **more pictures) writes a benchmark.json with the set `one` beside copies."""

    def write(database: list[str], queries: list[dict[str, Any]], **drawn: np.ndarray) -> Path:
        folder = tmp_path / "benchmark"
        folder.mkdir()
        for name in {*database, *(query["image"] for query in queries)} - {f"{name}.png" for name in drawn}:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes((pictures / name).read_bytes())
        for name, image in drawn.items():
            cv2.imwrite(str(folder / f"{name}.png"), image)
        entry = {"database": database, "queries": [{"id": f"q{n}", **query} for n, query in enumerate(queries)]}
        (folder / "benchmark.json").write_text(json.dumps({"sets": {"one": entry}}))
        return folder

    return write


def run(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def scored(*words: object) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def small(name: str) -> list[str]:
    return [f"{name}/{view}.png" for view in range(3)]


def test_a_checkpoint_and_its_onnx_file_score_the_same(checkpoint: Path, onnx: str, pictures: Path) -> None:
    torch_result, onnx_result = scored(checkpoint, pictures), scored(onnx, pictures)
    assert torch_result["fingerprint"] == onnx_result["fingerprint"]
    name = pictures.name
    assert torch_result["sets"][name]["mean_ap"] == pytest.approx(onnx_result["sets"][name]["mean_ap"], abs=1e-3)
    assert torch_result["runner"].startswith("torch, ")
    assert torch_result["images_per_second"] > 0


def test_descriptors_on_disk_score_as_the_model_that_made_them(onnx: str, pictures: Path, tmp_path: Path) -> None:
    made = scored(onnx, pictures, "--export", "npz", "-o", tmp_path / "all.npz")
    result = scored(tmp_path / "all.npz", pictures)
    assert result["sets"] == made["sets"]
    assert (made["described"], result["described"]) == (48, 0)
    assert (result["milliseconds_per_image"], result["images_per_second"]) == (None, None)
    for name in ("fingerprint", "runner", "backbone", "sizes", "dim", "numerics"):
        assert result[name] == made[name]
    assert {**result["stamp"], "scoring": None} == {**made["stamp"], "scoring": None}


def test_the_rankings_are_worst_first_and_without_the_query(onnx: str, pictures: Path) -> None:
    rankings = scored(onnx, pictures)["sets"][pictures.name]["rankings"]
    precisions = [ranking["average_precision"] for ranking in rankings]
    assert precisions == sorted(precisions)
    assert len(rankings) == 48
    assert all(ranking["query"] not in [row["image"] for row in ranking["ranked"]] for ranking in rankings)


def test_other_scales_are_scored_as_another_model(checkpoint: Path, pictures: Path) -> None:
    result = scored(checkpoint, pictures, "--scales", "0.5,1")
    assert result["sizes"] == [[32, 32], [64, 64]]
    assert result["fingerprint"] != scored(checkpoint, pictures)["fingerprint"]


def test_a_benchmark_file_names_positives_and_junk(onnx: str, benchmark: Callable[..., Path]) -> None:
    query = {"image": "tea/2.png", "positives": ["tea/0.png"], "junk": ["tea/1.png"]}
    folder = benchmark(["tea/0.png", "tea/1.png", "milk/0.png"], [query])
    (ranking,) = scored(onnx, folder / "benchmark.json")["sets"]["one"]["rankings"]
    ranked = {Path(row["image"]).relative_to(folder).as_posix(): row["positive"] for row in ranking["ranked"]}
    assert ranked == {"tea/0.png": True, "milk/0.png": False}
    assert (ranking["key"], ranking["positives"], ranking["box"]) == ("q0", 1, None)


def test_a_result_carries_its_stamp_as_json_and_as_text(onnx: str, benchmark: Callable[..., Path]) -> None:
    query = {"image": "tea/2.png", "positives": ["tea/0.png"], "bbox": BOX}
    folder = benchmark([*small("tea"), *small("milk")], [query, {"image": "milk/0.png", "positives": []}])
    words = [onnx, folder, "--qe", "aqe:1", "--dbe", "alpha:2,3", "--ap", "voc"]
    stamp = scored(*words)["stamp"]
    assert (
        stamp["scoring"].items()
        >= {
            "crop": True,
            "query_expansion": "average, k 1",
            "database_expansion": "alpha, k 2, alpha 3",
            "average_precision": "voc",
            "distractors": None,
        }.items()
    )
    assert stamp["scoring"]["sets"]["one"].items() >= {"queries": 1, "boxes": 1, "database": 6, "left_out": 1}.items()
    text = run(*words).stdout
    for word in ("cropped to their box, 1 have a box", "average, k 1", "alpha, k 2, alpha 3", "voc", "1 queries on 6"):
        assert word in text
    assert "one: mAP " in text
    assert stamp["model"]["fingerprint"] in text
    assert "whole pictures, 1 have a box" in run(*words, "--no-crop").stdout


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_query_is_the_part_in_its_box(
    checkpoint: Path, benchmark: Callable[..., Path], pictures: Path, suffix: str
) -> None:
    cut = cv2.imread(str(pictures / "tea/2.png"))[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    boxed = {"image": "tea/2.png", "positives": ["tea/0.png"], "bbox": BOX}
    folder = benchmark(
        [*small("tea"), *small("milk")], [boxed, {"image": "cut.png", "positives": ["tea/0.png"]}], cut=cut
    )
    model = checkpoint.with_suffix(suffix)

    def similarities(*words: str) -> dict[str, dict[str, float]]:
        rankings = scored(model, folder, *words)["sets"]["one"]["rankings"]
        assert {one["key"]: one["box"] for one in rankings} == {"q0": None if words else BOX, "q1": None}
        return {one["key"]: {row["image"]: row["similarity"] for row in one["ranked"]} for one in rankings}

    cropped, whole = similarities(), similarities("--no-crop")
    shared = cropped["q0"].keys() & cropped["q1"].keys()
    assert len(shared) == 5
    for image in shared:
        assert cropped["q0"][image] == pytest.approx(cropped["q1"][image], abs=2e-4)
    assert whole["q1"] == cropped["q1"]
    assert max(abs(whole["q0"][image] - cropped["q0"][image]) for image in shared) > 1e-3


def rows_of(path: Path) -> dict[tuple[str, bool], np.ndarray]:
    arrays = np.load(path)
    boxed = ~np.isnan(arrays["boxes"]).any(axis=1)
    return dict(zip(zip(arrays["names"].tolist(), boxed.tolist(), strict=True), arrays["descriptors"], strict=True))


def test_expansion_and_convention_are_those_of_the_library(
    onnx: str, benchmark: Callable[..., Path], tmp_path: Path
) -> None:
    database = [*small("tea"), *small("milk"), *small("soap")]
    names = ["tea/3.png", "soap/4.png"]
    queries = [{"image": name, "positives": small(name.split("/")[0])} for name in names]
    folder = benchmark(database, queries)
    words = ["--dbe", "2", "--qe", "1", "--ap", "step", "--export", "npz", "-o", tmp_path / "raw.npz"]
    result = scored(onnx, folder, *words)["sets"]["one"]
    rows = rows_of(tmp_path / "raw.npz")
    database_nd = expand_database(np.stack([rows[name, False] for name in database]), 2)
    queries_qd = expand_queries(np.stack([rows[name, False] for name in names]), database_nd, 1)
    for query, similarity_n, found in zip(
        queries, queries_qd @ database_nd.T, result["average_precisions"], strict=True
    ):
        relevant = np.array([database[row] in query["positives"] for row in np.argsort(-similarity_n, kind="stable")])
        assert found == pytest.approx(average_precision(relevant, 3, convention="step"), abs=1e-5)


def test_a_picture_and_its_part_are_described_apart(onnx: str, benchmark: Callable[..., Path], tmp_path: Path) -> None:
    query = {"image": "tea/0.png", "positives": ["tea/1.png"], "bbox": BOX}
    folder = benchmark(small("tea"), [query])
    scored(onnx, folder, "--export", "npz", "-o", tmp_path / "parts.npz")
    rows = rows_of(tmp_path / "parts.npz")
    assert len(rows) == 4
    assert np.dot(rows["tea/0.png", True], rows["tea/0.png", False]) < 0.9999


def test_pictures_that_a_descriptors_file_lacks_are_named(
    onnx: str, pictures: Path, benchmark: Callable[..., Path], tmp_path: Path
) -> None:
    folder = benchmark([*small("tea"), "milk/0.png"], [{"image": "tea/0.png", "positives": ["tea/1.png"]}])
    scored(onnx, folder, "--export", "npz", "-o", tmp_path / "few.npz")
    entry = {"database": [*small("tea"), "milk/0.png", "soap/5.png"], "queries": [], "id": "x"}
    entry["queries"] = [{"id": "q", "image": "tea/0.png", "positives": ["tea/1.png"], "bbox": BOX}]
    (folder / "soap").mkdir()
    (folder / "soap/5.png").write_bytes((pictures / "soap/5.png").read_bytes())
    (folder / "benchmark.json").write_text(json.dumps({"sets": {"one": entry}}))
    result = run(tmp_path / "few.npz", folder)
    assert result.exit_code == 3
    assert "lacks 2 of 6 pictures" in result.output
    assert "soap/5.png, tea/0.png cropped to (20.0, 10.0, 61.0, 50.0)" in result.output
    assert run(tmp_path / "few.npz", folder, "--no-crop").exit_code == 3


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("model.txt", "."), 3, "expected a .safetensors"),
        (("absent.onnx", "."), 3, "absent.onnx"),
        (("absent.safetensors", "."), 3, "absent.safetensors"),
        (("absent.npz", "."), 3, "absent.npz"),
        (("model.onnx", ".", "--scales", "1"), 2, "size built in"),
        (("model.npz", ".", "--scales", "1"), 2, "size built in"),
        (("model.onnx", ".", "--qe", "often"), 2, "often"),
        (("model.onnx", ".", "--dbe", "0"), 2, "0"),
        (("model.onnx", ".", "--dbe", "2", "--distractors", "more"), 2, "--distractors"),
        (("model.onnx", ".", "--export", "npz"), 2, "-o"),
        (("model.onnx", ".", "-o", "x.npz"), 2, "--export"),
        (("model.onnx", ".", "--layout", "pictures"), 2, "--export"),
        (("model.onnx", ".", "--layout", "pictures", "--report", "x.html"), 2, "--report"),
        (("model.onnx", ".", "--report", "absent/x.html"), 3, "absent"),
    ],
)
def test_bad_input_gets_one_sentence(words: tuple[str, ...], exit_code: int, sentence: str) -> None:
    result = run(*words)
    assert result.exit_code == exit_code
    assert sentence in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("--set", "other"), 2, "it has pictures"),
        (("--qe", "aqe:48"), 2, "47 others"),
        (("--dbe", "48"), 2, "47 others"),
        (("--threads", "0"), 2, "got 0"),
        (("--export", "npz", "-o", "absent/x.npz"), 3, "absent"),
        (("--export", "npz", "-o", "x.h5"), 2, ".npz"),
        (("--distractors", "absent"), 3, "absent"),
    ],
)
def test_what_cannot_be_is_refused_before_a_picture_is_read(
    onnx: str, pictures: Path, words: tuple[str, ...], exit_code: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_reading(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr("deepir.reading.read_image", no_reading)
    result = run(onnx, pictures, *words)
    assert result.exit_code == exit_code, result.output
    assert sentence in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_refused(checkpoint: Path, onnx: str, pictures: Path) -> None:
    for model in (checkpoint, onnx):
        result = run(model, pictures, "--device", "cuda")
        assert (result.exit_code, result.output.count("\n")) == (4, 1)


def test_a_damaged_picture_is_named(onnx: str, benchmark: Callable[..., Path]) -> None:
    folder = benchmark(small("tea"), [{"image": "tea/0.png", "positives": ["tea/1.png"]}])
    (folder / "tea/2.png").write_bytes((folder / "tea/2.png").read_bytes()[:50])
    result = run(onnx, folder)
    assert result.exit_code == 3
    assert "tea/2.png" in result.output
