"""deepir-distill from the first command to the last, and what it says to bad input."""

import shutil
import signal
import subprocess
import sys
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
    options = ["--trunk", TRUNK, "--size", "64", "--scales", "0.5,1,1.5", "--dim", "16", "--epochs", "1", "-o", out]
    result = deepir_distill("train", pictures, *options)
    assert result.exit_code == 0, result.output
    assert "epoch 1/1 loss" in result.output
    return out


def test_train_writes_a_whitened_teacher_of_three_resolutions(teacher: Path) -> None:
    spec = load_model(teacher).spec
    assert (spec.sizes, spec.dim, spec.backbone) == (((32, 32), (64, 64), (96, 96)), 16, TRUNK)
    assert spec.whitening.startswith("pca dim 16")


@pytest.mark.parametrize(("word", "meant"), [("trian", "train"), ("studnet", "student"), ("whitening", "whiten")])
def test_a_misspelt_command_is_not_taken_for_a_teacher(word: str, meant: str) -> None:
    result = deepir_distill(word, "photos")
    assert result.exit_code == 2
    assert f"no command {word}: did you mean {meant}?" in result.stderr


def test_a_teacher_with_a_name_like_a_command_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trian").touch()
    for teacher in ("trian", "tune.pt", "/models/teacher"):
        assert "Missing option '--images'" in deepir_distill(teacher).stderr


def test_an_example_of_two_lines_is_shown_as_two() -> None:
    assert "--student start.safetensors \\\n      --dim 256 -o" in deepir_distill("student", "--help").stdout


def test_a_teacher_name_alone_distils_a_student(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    words = ["--images", pictures, "--student", TRUNK, "--epochs", "1", "--views", "1", "-o", out]
    result = deepir_distill(teacher, *words)
    assert result.exit_code == 0, result.output
    assert "teacher descriptors 48/48" in result.output
    spec = load_model(out).spec
    assert (spec.sizes, spec.dim) == (((64, 64),), 16)


def test_a_student_can_start_from_a_checkpoint(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    words = ["--images", pictures, "--student", teacher, "--size", "32", "--epochs", "1", "--views", "1", "-o", out]
    assert deepir_distill(teacher, *words).exit_code == 0
    assert load_model(out).spec.sizes == ((32, 32),)


def test_a_trunk_can_start_from_a_checkpoint_and_end_earlier(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "short.safetensors"
    short = TRUNK.replace("@3", "@2")
    words = ["--trunk", short, "--weights", teacher, "--size", "64", "--dim", "8", "--epochs", "0", "-o", out]
    result = deepir_distill("train", pictures, *words)
    assert result.exit_code == 0, result.output
    ours, theirs = (load_model(path).network.state_dict() for path in (out, teacher))
    key = "trunk.model.conv_stem.weight"
    assert (ours[key] == theirs[key]).all()


def test_whiten_refits_at_other_resolutions(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "white.safetensors"
    words = ["--images", pictures / "tea", "--images", pictures / "milk", "--dim", "8", "--scales", "1", "-o", out]
    result = deepir_distill("whiten", teacher, *words)
    assert result.exit_code == 0, result.output
    spec = load_model(out).spec
    assert (spec.sizes, spec.dim) == (((64, 64),), 8)
    assert "8+8 pictures" in spec.whitening


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("train", "absent", "-o", "t.safetensors"), 3, "no such folder: absent"),
        (("train", "PICTURES", "-o", "t.pth"), 3, "ending in .safetensors"),
        (("train", "PICTURES", "-o", "absent/t.safetensors"), 3, "folder that exists"),
        (("train", "PICTURES", "-o", "t.safetensors", "--trunk", "timm:nonsense"), 2, "nonsense"),
        (("train", "PICTURES", "-o", "t.safetensors", "--size", "big"), 2, "'big'"),
        (("train", "PICTURES", "-o", "t.safetensors", "--trunk", TRUNK, "--size", "16"), 2, "between 32"),
        (("absent.safetensors", "--images", "PICTURES", "--student", TRUNK, "-o", "s.safetensors"), 3, "absent"),
    ],
)
def test_bad_input_gets_one_sentence(
    words: tuple[str, ...],
    exit_code: int,
    sentence: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = deepir_distill(*(pictures if word == "PICTURES" else word for word in words))
    assert result.exit_code == exit_code, result.output
    assert result.output.startswith("error: ")
    assert sentence in result.output
    assert not list(tmp_path.iterdir())


def test_an_unreadable_picture_is_named(pictures: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(pictures, tmp_path / "pictures")
    (broken / "tea" / "0.png").write_bytes(b"not a picture")
    result = deepir_distill(
        "train",
        broken,
        "--trunk",
        TRUNK,
        "--size",
        "64",
        "--epochs",
        "0",
        "--dim",
        "8",
        "-o",
        tmp_path / "t.safetensors",
    )
    assert result.exit_code == 3
    assert "0.png" in result.output


def test_ctrl_c_says_how_to_resume_and_resuming_works(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    tool = Path(sys.executable).with_name("deepir-distill")
    words = [tool, "train", pictures, "--trunk", TRUNK, "--size", "64", "--dim", "8", "--epochs", "500", "-o", out]
    # who starts the tests in the background lets them inherit a Ctrl-C that is ignored
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE, text=True, **heard) as process:
        for line in process.stderr:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "resume with: deepir-distill train" in rest
    assert "Traceback" not in rest
    assert out.with_name("teacher.safetensors.state").exists()
    assert not out.exists()
