"""The exported file is the same function, in every form that is offered."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx.inliner import inline_local_functions

from deepir.calib.onnx_file import open_session, read_card, read_onnx, write_onnx
from deepir.calib.precision import to_fp16
from deepir.card import Numerics
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, new_model, save_model
from deepir.errors import GateError, ModelError
from deepir.export.cli import main
from deepir.export.graph import IR_VERSION, build_onnx
from deepir.export.pool_graph import DOMAIN, OPSET
from deepir.export.verify import FP32_TOLERANCE, prove
from deepir.graph_names import POOL_OPERATOR
from deepir.image import list_images

MakeModel = Callable[..., Model]


def images(size: tuple[int, int], count: int = 3) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3, *size)).astype(np.float32)


def run(proto: onnx.ModelProto, images_nchw: np.ndarray) -> np.ndarray:
    return open_session(proto).run(None, {"images": images_nchw})[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "student.safetensors"
    save_model(new_model(build_trunk("timm:mobilenetv4_conv_small_050@3"), sizes=((64, 64),)), path)
    return path


@pytest.mark.parametrize(("size", "dim"), [((64, 64), 6), ((64, 96), 6), ((96, 64), None)])
def test_onnx_runtime_gives_what_torch_gives(make_model: MakeModel, size: tuple[int, int], dim: int | None) -> None:
    model = make_model(sizes=(size,), dim=dim)
    expected = model.network(torch.from_numpy(images(size))).detach().numpy()
    np.testing.assert_allclose(run(build_onnx(model), images(size)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:mobilenetv4_conv_small_050", "torchvision:mobilenet_v2"])
def test_trunks_of_the_libraries_export(name: str) -> None:
    torch.manual_seed(0)
    model = new_model(build_trunk(name), sizes=((64, 96),))
    expected = model.network.eval()(torch.from_numpy(images((64, 96)))).detach().numpy()
    np.testing.assert_allclose(run(build_onnx(model), images((64, 96))), expected, atol=1e-4)


def test_the_function_equals_its_inlined_form(make_model: MakeModel) -> None:
    proto = build_onnx(make_model(dim=6))
    inlined = inline_local_functions(proto)
    assert not inlined.functions
    np.testing.assert_array_equal(run(proto, images((64, 64))), run(inlined, images((64, 64))))


def test_a_batch_equals_its_images_one_by_one(make_model: MakeModel) -> None:
    proto, batch = build_onnx(make_model(dim=6)), images((64, 64), 5)
    single = np.concatenate([run(proto, batch[number : number + 1]) for number in range(5)])
    np.testing.assert_allclose(run(proto, batch), single, atol=1e-6)


def test_the_file_is_opset_17_and_ir_8_without_batch_norm(make_model: MakeModel) -> None:
    proto = build_onnx(make_model(dim=6))
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": OPSET, DOMAIN: 1}
    assert proto.ir_version == IR_VERSION
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_the_pooling_node_has_two_inputs_and_no_attributes(make_model: MakeModel) -> None:
    (node,) = [node for node in build_onnx(make_model()).graph.node if node.op_type == POOL_OPERATOR]
    assert (list(node.input), list(node.attribute), node.domain) == (["map", "rois"], [], DOMAIN)


def test_names_are_those_of_the_weights_and_the_same_each_time(make_model: MakeModel) -> None:
    first, second = (build_onnx(make_model(dim=6)) for _ in range(2))
    names = [node.name for node in first.graph.node]
    assert names == [node.name for node in second.graph.node]
    assert {"stem.0", "middle.0", "last.0", "roi_max_pool", "whitening"} <= set(names)
    assert len(names) == len(set(names))
    assert first.SerializeToString() == second.SerializeToString()


def test_the_card_holds_the_description(make_model: MakeModel) -> None:
    model = make_model(dim=6)
    card = read_card(build_onnx(model))
    assert (card.spec, card.numerics) == (model.spec, Numerics.FP32)


def test_fp16_keeps_the_head_in_single_precision(make_model: MakeModel) -> None:
    proto = build_onnx(make_model(dim=6))
    half = to_fp16(proto)
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert types["stem.0.weight"] == onnx.TensorProto.FLOAT16
    assert types["whitening.weight"] == onnx.TensorProto.FLOAT
    assert read_card(half).numerics is Numerics.FP16
    cosines = np.sum(run(proto, images((64, 64))) * run(half, images((64, 64))), axis=1)
    assert cosines.min() > 0.999


def test_fp16_refuses_weights_that_it_cannot_hold(make_model: MakeModel) -> None:
    model = make_model(dim=6)
    with torch.no_grad():
        model.network.trunk.stem[1].weight.fill_(1e9)
    with pytest.raises(ModelError, match="65504"):
        to_fp16(build_onnx(model))


def test_the_proof_fails_for_another_model(make_model: MakeModel, pictures: Path) -> None:
    with pytest.raises(GateError, match="not the same function"):
        prove(build_onnx(make_model(dim=6)), make_model(dim=6, seed=1), list_images(pictures), FP32_TOLERANCE)


def test_the_proof_fails_for_a_model_that_gives_nan(make_model: MakeModel) -> None:
    model = make_model(dim=6)
    proto = build_onnx(model)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "whitening.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(6, np.nan, np.float32), "whitening.bias"))
    with pytest.raises(GateError):
        prove(proto, model, [], FP32_TOLERANCE)


def test_export_proves_and_writes_the_fp32_file(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(checkpoint), "--images", str(pictures), "-o", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert "ONNX Runtime against torch: max |difference|" in result.output
    assert "next: deepir-index build" in result.output
    written = json.loads(result.stdout.splitlines()[-1])["written"]
    assert [Path(row["file"]).name for row in written] == ["student.onnx"]


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_export_writes_the_other_forms_with_the_same_fingerprint(
    checkpoint: Path, pictures: Path, tmp_path: Path, form: str
) -> None:
    source = "--calib" if form == "int8" else "--images"
    result = CliRunner().invoke(main, [str(checkpoint), f"--{form}", source, str(pictures), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    cards = [read_card(read_onnx(tmp_path / name)) for name in ("student.onnx", f"student.{form}.onnx")]
    assert cards[1].numerics.value == form
    assert cards[0].spec.fingerprint == cards[1].spec.fingerprint


def test_int8_without_pictures_exits_2_with_the_command_to_run(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(checkpoint), "--int8", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert f"deepir-export {checkpoint} --int8 --calib" in result.output
    assert not list(tmp_path.iterdir())


def test_pictures_for_the_proof_do_not_calibrate(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(checkpoint), "--int8", "--images", str(pictures), "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "--calib" in result.output


def test_fp16_made_from_an_onnx_file_is_proven_too(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    CliRunner().invoke(main, [str(checkpoint), "-o", str(tmp_path)])
    result = CliRunner().invoke(main, [str(tmp_path / "student.onnx"), "--fp16", "--images", str(pictures)])
    assert result.exit_code == 0, result.output
    assert "FP16 against FP32: max |difference|" in result.output


def test_two_precisions_exit_2(checkpoint: Path) -> None:
    assert CliRunner().invoke(main, [str(checkpoint), "--int8", "--fp16"]).exit_code == 2


def test_a_truncated_checkpoint_exits_3_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    result = CliRunner().invoke(main, [str(cut)])
    assert result.exit_code == 3
    assert result.output.startswith("error: ")
    assert list(tmp_path.iterdir()) == [cut]


def test_an_onnx_file_can_be_calibrated_again(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    CliRunner().invoke(main, [str(checkpoint), "-o", str(tmp_path)])
    result = CliRunner().invoke(main, [str(tmp_path / "student.onnx"), "--int8", "--calib", str(pictures)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "student.int8.onnx").exists()


def test_a_foreign_onnx_file_is_refused(tmp_path: Path, make_model: MakeModel) -> None:
    proto = build_onnx(make_model())
    del proto.metadata_props[:]
    write_onnx(proto, tmp_path / "foreign.onnx")
    result = CliRunner().invoke(main, [str(tmp_path / "foreign.onnx"), "--fp16"])
    assert result.exit_code == 3
    assert "no deepir card" in result.output
