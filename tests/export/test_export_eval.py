"""deepir-eval scores checkpoints and ONNX files alike."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from deepir.calib.onnx_file import write_onnx
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import new_model, save_model
from deepir.export.eval_cli import main
from deepir.export.graph import build_onnx


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("eval") / "model.safetensors"
    model = new_model(build_trunk("timm:mobilenetv4_conv_small_050@3"), sizes=((64, 64),))
    save_model(model, path)
    write_onnx(build_onnx(model), path.with_suffix(".onnx"))
    return path


def scored(*words: str) -> dict[str, object]:
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_checkpoint_and_its_onnx_file_score_the_same(checkpoint: Path, pictures: Path) -> None:
    torch_result = scored(str(checkpoint), str(pictures))
    onnx_result = scored(str(checkpoint.with_suffix(".onnx")), str(pictures))
    assert torch_result["fingerprint"] == onnx_result["fingerprint"]
    name = pictures.name
    assert torch_result["sets"][name]["mean_ap"] == pytest.approx(onnx_result["sets"][name]["mean_ap"], abs=1e-3)


def test_the_rankings_are_worst_first_and_without_the_query(checkpoint: Path, pictures: Path) -> None:
    rankings = scored(str(checkpoint), str(pictures))["sets"][pictures.name]["rankings"]
    precisions = [ranking["average_precision"] for ranking in rankings]
    assert precisions == sorted(precisions)
    assert len(rankings) == 48
    assert all(ranking["query"] not in [row["image"] for row in ranking["ranked"]] for ranking in rankings)


def test_other_scales_are_scored_as_another_model(checkpoint: Path, pictures: Path) -> None:
    result = scored(str(checkpoint), str(pictures), "--scales", "0.5,1")
    assert result["sizes"] == [[32, 32], [64, 64]]
    assert result["fingerprint"] != scored(str(checkpoint), str(pictures))["fingerprint"]


def test_a_benchmark_file_names_positives_and_junk(checkpoint: Path, pictures: Path) -> None:
    entry = {
        "database": ["tea/0.png", "tea/1.png", "milk/0.png"],
        "queries": [{"id": "q", "image": "tea/2.png", "positives": ["tea/0.png"], "junk": ["tea/1.png"]}],
    }
    (pictures / "benchmark.json").write_text(json.dumps({"sets": {"one": entry}}))
    try:
        (ranking,) = scored(str(checkpoint), str(pictures / "benchmark.json"))["sets"]["one"]["rankings"]
    finally:
        (pictures / "benchmark.json").unlink()
    assert {Path(row["image"]).name + Path(row["image"]).parent.name for row in ranking["ranked"]} == {
        "0.pngtea",
        "0.pngmilk",
    }


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("model.txt", "."), 3, "expected a .safetensors"),
        (("absent.onnx", "."), 3, "absent.onnx"),
        (("absent.safetensors", "."), 3, "absent.safetensors"),
        (("model.onnx", ".", "--scales", "1"), 2, "size built in"),
    ],
)
def test_bad_input_gets_one_sentence(words: tuple[str, ...], exit_code: int, sentence: str) -> None:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == exit_code
    assert sentence in result.output
    assert result.output.count("\n") == 1


def test_an_unknown_set_is_refused_with_those_there_are(checkpoint: Path, pictures: Path) -> None:
    result = CliRunner().invoke(main, [str(checkpoint), str(pictures), "--set", "other"])
    assert result.exit_code == 2
    assert pictures.name in result.output
