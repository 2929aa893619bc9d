"""deepir-export on a machine with a GPU: every program that is there builds, is proven and is kept."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import new_model, save_model
from deepir.errors import MissingDependency
from deepir.export.cli import main
from deepir.runtime.cuda import open_cuda
from deepir.runtime.sidecar import read_record
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt

pytestmark = pytest.mark.gpu

LOOSE = "0.9"
"""The network is untrained, so that pictures nearly tie."""


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    try:
        open_cuda().close()
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "student.safetensors"
    save_model(new_model(build_trunk("timm:resnet10t"), sizes=((128, 128),)), path)
    return path


@pytest.mark.parametrize("pool", ["native", "plugin"])
@pytest.mark.parametrize("form", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_each_precision_and_passes_the_gate(
    checkpoint: Path, pictures: Path, tmp_path: Path, form: str, pool: str
) -> None:
    try:
        load_tensorrt(Flavour.TENSORRT)
    except MissingDependency as error:
        pytest.skip(str(error))
    calib = ["--calib", str(pictures)] if form == "int8" else ["--images", str(pictures)]
    words = [str(checkpoint), f"--{form}", *calib, "--backend", "tensorrt", "--pool", pool, "--gate", LOOSE]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (engine,) = tmp_path.glob("*.engine")
    record = read_record(engine)
    assert record.gate is not None
    assert record.gate.passed
    assert record.plugin == {"native": "native", "plugin": "python"}[pool]
    count = record.precision
    assert getattr(count, form) >= 0.9 * count.convolutions > 0


def test_onnx_runtime_with_cuda_is_proven(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    words = [str(checkpoint), "--images", str(pictures), "--backend", "cuda", "--gate", LOOSE, "-o", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    if result.exit_code == MissingDependency.exit_code:
        pytest.skip(result.output.strip())
    assert result.exit_code == 0, result.output
    proof = json.loads((tmp_path / "student.cuda.proof.json").read_text())
    assert proof["program"] == "ONNX Runtime, CUDA"
    assert proof["verdict"]["passed"]
