"""deepir-distill whiten: chosen, learned and plain whitening from the command line, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deepir.distill.checkpoint import load_model
from deepir.distill.cli import main

TRUNK = "timm:mobilenetv4_conv_small_050@3"


def deepir_distill(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def teacher(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    words = ["--trunk", TRUNK, "--size", "64", "--dim", "16", "--epochs", "0", "-o", out]
    result = deepir_distill("train", pictures, *words)
    assert result.exit_code == 0, result.output
    return out


def test_auto_prints_every_candidate_and_records_its_choice(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "white.safetensors"
    result = deepir_distill("whiten", teacher, "--images", pictures, "--auto", "--standardise", "-o", out)
    assert result.exit_code == 0, result.output
    assert "judged by mAP over 6 labels" in result.output
    assert "  dim  power 0.125  power 0.25   power 0.375  power 0.5" in result.output
    assert "chosen: dim " in result.output
    spec = load_model(out).spec
    assert spec.whitening.startswith(f"pca dim {spec.dim} power ")
    assert "standardised" in spec.whitening
    assert "by mAP over 6 labels: " in spec.whitening


def test_auto_never_opens_the_scored_pictures_of_a_benchmark(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "shop")
    train = [
        {"image": f"shop/{path.parent.name}/{path.name}", "label": path.parent.name} for path in pictures.glob("*/*")
    ]
    scored = {"desc": "", "database": ["gone.png"], "queries": [{"id": "q", "image": "gone.png", "positives": []}]}
    (tmp_path / "benchmark.json").write_text(json.dumps({"train": train, "sets": {"scored": scored}}))
    (tmp_path / "gone.png").write_bytes(b"a scored picture that nobody may open")
    out = tmp_path / "white.safetensors"
    result = deepir_distill("whiten", teacher, "--images", tmp_path, "--auto", "-o", out)
    assert result.exit_code == 0, result.output
    assert "of 48 pictures (shop, list " in load_model(out).spec.whitening


def test_learned_whitening_adds_a_projection(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "learned.safetensors"
    result = deepir_distill("whiten", teacher, "--images", pictures, "--learned", "--dim", "6", "-o", out)
    assert result.exit_code == 0, result.output
    model = load_model(out)
    assert (model.spec.dim, model.network.whitening.out_features) == (6, 16)
    assert "learned dim 6 on 168 pairs of 48 pictures" in model.spec.whitening


def test_a_standardised_whitening_says_so(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "white.safetensors"
    result = deepir_distill("whiten", teacher, "--images", pictures, "--dim", "8", "--standardise", "-o", out)
    assert result.exit_code == 0, result.output
    assert load_model(out).spec.whitening.startswith("pca dim 8 power 0.25 standardised on ")


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (["--auto", "--dim", "8"], 2, "--auto chooses dimension and power of a PCA: leave out --dim"),
        (["--auto", "--dim", "8", "--power", "0"], 2, "leave out --dim and --power"),
        (["--auto", "--learned"], 2, "leave out --learned"),
        (["--learned", "--power", "0.5"], 2, "--learned learns from pairs, not from variances: leave out --power"),
        (["--learned", "--standardise"], 2, "leave out --standardise"),
        (["--power", "0.7"], 2, "between 0 and 0.5, got 0.7"),
        (["--dim", "0"], 2, "dim must be 1 or more, got 0"),
        (["--dim", "4096"], 3, "cannot carry 4096 components"),
    ],
)
def test_contradictions_and_impossible_values_get_one_sentence(
    teacher: Path, pictures: Path, tmp_path: Path, words: list[str], exit_code: int, sentence: str
) -> None:
    out = tmp_path / "white.safetensors"
    result = deepir_distill("whiten", teacher, "--images", pictures, *words, "-q", "-o", out)
    assert result.exit_code == exit_code, result.output
    assert result.output.startswith("error: ")
    assert sentence in result.output
    assert not out.exists()


def test_learning_from_pictures_without_labels_says_what_is_needed(
    teacher: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "white.safetensors"
    result = deepir_distill("whiten", teacher, "--images", pictures / "tea", "--learned", "-o", out)
    assert result.exit_code == 3
    assert "learned whitening needs a folder for each label" in result.output
