"""deepir-export as it is typed: forms, sizes, programs, proofs, and what it leaves when something fails."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from deepir.calib.onnx_file import read_card, read_onnx
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, new_model, save_model
from deepir.errors import MissingDependency, OptionError
from deepir.export import engines
from deepir.export.cli import main
from deepir.export.engines import Made
from deepir.export.options import parse_batch
from deepir.runtime.openvino_vnni import NO_VNNI, lacks_vnni
from deepir.spec import Numerics

MakeModel = Callable[..., Model]


def deepir_export(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "student.safetensors"
    save_model(new_model(build_trunk("timm:mobilenetv4_conv_small_050@3"), sizes=((64, 64),)), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with student.onnx, student.int8.onnx and the record of its calibration."""
    folder = tmp_path_factory.mktemp("exported")
    result = deepir_export(checkpoint, "--int8", "--calib", pictures, "-o", folder)
    assert result.exit_code == 0, result.output
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def copied(exported: Path, folder: Path) -> Path:
    """Both model files, alone in a folder of their own; gives the INT8 one."""
    for name in ("student.onnx", "student.int8.onnx"):
        (folder / name).write_bytes((exported / name).read_bytes())
    return folder / "student.int8.onnx"


def test_the_record_of_a_calibration_takes_the_place_of_the_pictures(exported: Path, tmp_path: Path) -> None:
    record = exported / "student.int8.calib.json"
    result = deepir_export(exported / "student.onnx", "--int8", "--calib", record, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "student.int8.onnx").read_bytes() == (exported / "student.int8.onnx").read_bytes()


@pytest.mark.parametrize(
    ("words", "resize", "sizes", "inputs"),
    [
        (("--size", "64x96"), "stretch", ((64, 96),), ("images",)),
        (("--size", "64x96", "--size", "96x64"), "nearest", ((64, 96), (96, 64)), ("images", "rois")),
        (("--size", "free"), "longest", ((64, 64),), ("images", "rois")),
    ],
)
def test_sizes_are_one_alternatives_or_free(
    checkpoint: Path, tmp_path: Path, words: tuple[str, ...], resize: str, sizes: tuple, inputs: tuple[str, ...]
) -> None:
    result = deepir_export(checkpoint, *words, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    card = read_card(read_onnx(tmp_path / "student.onnx"))
    assert (card.spec.resize, card.spec.sizes, card.inputs()) == (resize, sizes, inputs)


def test_a_model_of_several_resolutions_becomes_one_file(make_model: MakeModel, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    trunk = build_trunk("timm:mobilenetv4_conv_small_050@3")
    save_model(new_model(trunk, sizes=((32, 32), (64, 64), (96, 96))), path)
    assert deepir_export(path).exit_code == 0
    assert read_card(read_onnx(tmp_path / "teacher.onnx")).inputs() == ("images_0", "images_1", "images_2")


def test_a_file_that_takes_pixels_says_so(checkpoint: Path, tmp_path: Path) -> None:
    assert deepir_export(checkpoint, "--input", "uint8", "-o", tmp_path).exit_code == 0
    assert read_card(read_onnx(tmp_path / "student.onnx")).pixels == "uint8"


@pytest.mark.skipif(lacks_vnni(), reason=NO_VNNI)
def test_openvino_is_proven_on_pictures_against_the_fp32_file(exported: Path, pictures: Path, tmp_path: Path) -> None:
    model = copied(exported, tmp_path)
    # the network is untrained: pictures nearly tie, and INT8 changes which of two is the nearest
    result = deepir_export(model, "--backend", "openvino", "--images", pictures, "--gate", "0.9", "--json")
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["student.int8.onnx", "student.int8.openvino.proof.json", "student.onnx"]
    proof = json.loads((tmp_path / "student.int8.openvino.proof.json").read_text())
    facts = json.loads(result.stdout.splitlines()[-1])
    assert proof["verdict"] == facts["programs"][0]["verdict"]
    assert proof["verdict"]["images"] == 48
    assert proof["reference_sha256"] != proof["sha256"]


@pytest.mark.skipif(lacks_vnni(), reason=NO_VNNI)
def test_pictures_that_calibration_measured_prove_nothing(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("--int8", "--calib", pictures, "--images", pictures, "--backend", "openvino", "--gate", "0.9")
    result = deepir_export(checkpoint, *words, "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "student.int8.calib.json").read_text())
    assert 0 < 48 - len(record["measured_on"]) < 32
    # unseen pictures, and made-up ones up to 32: too few to tell what INT8 does, so it is the program that is proven
    said = result.output.partition("OpenVINO, CPU")[2]
    assert "against student.int8.onnx in ONNX Runtime" in said
    assert "of 32 pictures" in said
    again = deepir_export(
        tmp_path / "student.int8.onnx", "--backend", "openvino", "--images", pictures, "--gate", "0.9"
    )
    assert "of 32 pictures" in again.output.partition("OpenVINO, CPU")[2]


@pytest.mark.skipif(lacks_vnni(), reason=NO_VNNI)
def test_a_form_below_the_gate_exits_6_and_leaves_nothing(exported: Path, tmp_path: Path) -> None:
    model = copied(exported, tmp_path)
    result = deepir_export(model, "--backend", "openvino", "--gate", "1")
    assert result.exit_code == 6
    assert "is not kept: try --fp16 or --fp32" in result.output
    assert names(tmp_path) == ["student.int8.onnx", "student.onnx"]


def test_a_machine_without_tensorrt_is_told_what_to_type_on_the_device(exported: Path, tmp_path: Path) -> None:
    model = copied(exported, tmp_path)
    result = deepir_export(model, "--backend", "tensorrt")
    if "tensorrt: not on this machine" not in result.output:
        pytest.skip("TensorRT and a GPU are here")
    assert result.exit_code == 4, result.output
    assert "on the device: deepir-export student.int8.onnx --backend tensorrt" in result.output
    assert "error: nothing was built for --backend tensorrt; tensorrt: not on this machine" in result.output
    assert names(tmp_path) == ["student.int8.onnx", "student.onnx"]
    assert deepir_export(model, "--backend", "tensorrt", "--dry-run").exit_code == 0
    assert deepir_export(model).exit_code == 0


@pytest.mark.parametrize(("here", "exit_code"), [(("openvino",), 0), ((), 4)])
def test_of_all_programs_one_is_enough(
    exported: Path, tmp_path: Path, here: tuple[str, ...], exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(program: str, *_: object) -> Made:
        if program not in here:
            message = f"no {program}"
            raise MissingDependency(message)
        return Made(program, (), None)

    monkeypatch.setattr(engines, "_make", make)
    result = deepir_export(copied(exported, tmp_path), "--backend", "all")
    assert result.exit_code == exit_code
    assert "tensorrt: not on this machine: no tensorrt" in result.output
    assert "on the device: deepir-export student.int8.onnx --backend tensorrt" in result.output


@pytest.mark.rtx
def test_an_engine_that_cannot_run_here_says_so_in_its_sidecar(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
    model = copied(exported, tmp_path)
    (tmp_path / "folder").mkdir()
    words = ("--backend", "rtx", "--batch", "1:2:4", "--capability", "8.9", "-o", tmp_path / "folder")
    result = deepir_export(model, *words)
    assert result.exit_code == 0, result.output
    engine, sidecar = sorted((tmp_path / "folder").iterdir())
    facts = json.loads(sidecar.read_text())
    assert (facts["flavour"], facts["batch"], facts["compute_capabilities"]) == ("rtx", [1, 2, 4], ["8.9"])
    if facts["gate"] is None:
        assert "not run here, so its list of kernels was checked instead" in result.output
        assert "cuda-python" in facts["not_run"]
    assert facts["precision"]["int8"] == facts["precision"]["convolutions"] > 0
    assert sidecar.name == engine.name + ".json"


def test_dry_run_tells_and_writes_nothing(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("--int8", "--calib", pictures, "--backend", "all", "--dry-run", "-o", tmp_path)
    result = deepir_export(checkpoint, *words)
    assert result.exit_code == 0, result.output
    assert f"{checkpoint} would become {tmp_path / 'student.onnx'}" in result.output
    assert "openvino: prove student.int8.onnx on 32 pictures or more" in result.output
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("--size", "free", "--size", "64"), 2, "--size free keeps every size"),
        (("--size", "64", "--size", "64x64"), 2, "names a size twice: 64x64, 64x64"),
        (("--size", "big"), 2, "got 'big'"),
        (("--batch", "8:4:1"), 2, "got '8:4:1'"),
        (("--gate", "0"), 2, "got 0.0"),
        (("--fp16", "--calib", "."), 2, "--calib is for INT8"),
        (("--fp16", "--int8"), 2, "choose one precision, got --fp16 and --int8"),
        (("--int8",), 2, "INT8 needs pictures to calibrate with"),
        (("-o", "nowhere"), 3, "no such folder: nowhere"),
        (("--workspace", "0", "--backend", "rtx"), 2, "workspace"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    checkpoint: Path, tmp_path: Path, words: tuple[str, ...], exit_code: int, sentence: str
) -> None:
    given = words if "-o" in words else (*words, "-o", str(tmp_path))
    result = deepir_export(checkpoint, *given)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert sentence in result.output
    assert result.output.count("\n") == 1


def test_the_suffix_may_be_left_out(checkpoint: Path, tmp_path: Path) -> None:
    result = deepir_export(checkpoint.with_suffix(""), "--dry-run", "-o", tmp_path)
    assert f"{checkpoint} would become" in result.output
    result = deepir_export(tmp_path / "nothing")
    assert (result.exit_code, result.output.count("\n")) == (3, 1)
    assert "expected nothing.safetensors or nothing.onnx" in result.output


def test_a_file_of_another_kind_is_to_be_imported(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"weights")
    result = deepir_export(tmp_path / "net.pth")
    assert result.exit_code == 3
    assert "bring it in with deepir-distill import" in result.output


def test_a_file_with_its_size_built_in_takes_no_other(exported: Path) -> None:
    result = deepir_export(exported / "student.onnx", "--size", "96")
    assert result.exit_code == 2
    assert "--size and --input need a .safetensors checkpoint" in result.output


def test_an_onnx_file_is_exported_without_torch(exported: Path, pictures: Path, tmp_path: Path) -> None:
    """As on a Jetson, where the .onnx was copied to."""
    program = "import sys; sys.modules['torch'] = None; from deepir.export.cli import main; main()"
    words = [str(exported / "student.onnx"), "--int8", "--calib", str(pictures), "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_card(read_onnx(tmp_path / "student.int8.onnx")).numerics is Numerics.INT8
    done = subprocess.run(
        [sys.executable, "-c", program, str(exported / "student.onnx"), "--fp16", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_batches_are_the_largest_or_three_numbers() -> None:
    assert parse_batch("4") == (1, 1, 4)
    assert parse_batch("1:4:8") == (1, 4, 8)


@pytest.mark.parametrize("text", ["", "0", "a", "1:2", "2:1:3", "1:4:2", "1:2:3:4", "-1"])
def test_other_batches_are_refused_with_what_was_typed(text: str) -> None:
    with pytest.raises(OptionError, match=f"got '{text}'"):
        parse_batch(text)
