"""INT8 files: where the nodes go, what the codes are, what the gate says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepir.calib.calibrate import read_fp32
from deepir.calib.onnx_file import open_session, write_onnx
from deepir.calib.quantise import int8_share, place, quantise
from deepir.calib.ranges import measure_statistics, ranges_by
from deepir.distill.checkpoint import Model
from deepir.errors import ModelError
from deepir.export.graph import build_onnx

MakeModel = Callable[..., Model]


@pytest.fixture(scope="module")
def master(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("master") / "model.onnx"
    write_onnx(build_onnx(make_model(dim=6)), path)
    return path


def inputs(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 64, 64)).astype(np.float32)


def quantised_master(master: Path) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, float]]:
    proto, _ = read_fp32(master)
    placement = place(proto)
    ranges = ranges_by(measure_statistics(proto, placement.tensors, lambda: [{"images": inputs()}]), "max")
    return proto, quantise(proto, placement, ranges), ranges


def test_every_convolution_is_int8_and_the_head_is_not(master: Path) -> None:
    _, quantised, _ = quantised_master(master)
    assert int8_share(quantised) == 1
    makers = {output: node for node in quantised.graph.node for output in node.output}
    whitening = next(node for node in quantised.graph.node if node.name == "whitening")
    assert all(makers[name].op_type != "DequantizeLinear" for name in whitening.input if name in makers)


def test_only_the_skip_input_of_a_sum_is_quantised(master: Path) -> None:
    _, quantised, _ = quantised_master(master)
    makers = {output: node.op_type for node in quantised.graph.node for output in node.output}
    residual = next(node for node in quantised.graph.node if node.op_type == "Add" and "whitening" not in node.name)
    assert sorted(makers[name] for name in residual.input) == ["Conv", "DequantizeLinear"]


def test_the_codes_mean_the_weights_within_half_a_step(master: Path) -> None:
    proto, quantised, _ = quantised_master(master)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    name = next(key for key in weights if key.endswith("stem.0.weight"))
    scale = found[f"{name}/scale"].reshape(-1, 1, 1, 1)
    assert found[f"{name}/codes"].dtype == np.int8
    assert np.abs(found[f"{name}/codes"] * scale - weights[name]).max() <= scale.max() / 2 + 1e-7


def test_the_int8_model_is_close_to_fp32_on_what_it_was_calibrated_on(master: Path) -> None:
    proto, quantised, _ = quantised_master(master)
    images = inputs()
    before = open_session(proto).run(None, {"images": images})[0]
    after = open_session(quantised).run(None, {"images": images})[0]
    assert np.sum(before * after, axis=1).min() > 0.98


def test_dead_channels_get_a_positive_scale() -> None:
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0] = 1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w.weight"], ["map"], name="w")],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(weights, "w.weight")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quantised = quantise(proto, place(proto), {"images": 0.0})
    scales = [numpy_helper.to_array(t) for t in quantised.graph.initializer if t.name.endswith("/scale")]
    assert all((scale > 0).all() for scale in scales)
    assert np.isfinite(open_session(quantised).run(None, {"images": np.ones((1, 3, 4, 4), np.float32)})[0]).all()


def test_a_model_without_convolutions_is_refused() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    with pytest.raises(ModelError, match="no convolutions"):
        place(helper.make_model(graph))
