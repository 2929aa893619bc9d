"""INT8 files: where the nodes go, what the codes are, what the gate says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from deepir.calib.calibrate import CalibrationConfig, calibrate, read_fp32
from deepir.calib.cli import main
from deepir.calib.images import choose_images
from deepir.calib.onnx_file import open_session, read_card, read_onnx, write_onnx
from deepir.calib.quantise import int8_share, place, quantise
from deepir.calib.ranges import METHODS, measure_ranges
from deepir.card import Numerics
from deepir.distill.checkpoint import Model
from deepir.errors import InputError, ModelError, OptionError
from deepir.export.graph import build_onnx
from deepir.gate import GateLimits, judge

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
    ranges = measure_ranges(proto, placement.tensors, lambda: [{"images": inputs()}])
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


def test_ranges_are_the_largest_magnitudes(master: Path) -> None:
    proto, _ = read_fp32(master)
    ranges = measure_ranges(proto, ["images"], lambda: [{"images": inputs(2)}, {"images": inputs(4)}])
    assert ranges["images"] == pytest.approx(np.abs(inputs(4)).max())


def test_a_percentile_range_is_smaller(master: Path) -> None:
    proto, _ = read_fp32(master)
    method = METHODS["percentile-99.99"]
    found = measure_ranges(proto, ["images"], lambda: [{"images": inputs()}], method)["images"]
    assert found == pytest.approx(np.percentile(np.abs(inputs()), 99.99), rel=1e-5)


def test_the_range_of_least_squares_clips_what_is_rare() -> None:
    values = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    values[0] = 40
    best = METHODS["mse"].of_batch(values)

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.mean((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2))

    assert best < 40
    assert error(best) <= min(error(40), error(2))


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


def test_pictures_that_judge_are_not_those_that_measure(pictures: Path) -> None:
    chosen = choose_images([pictures])
    assert not set(chosen.measure) & set(chosen.judge)
    assert len(chosen.measure) + len(chosen.judge) == 48


def test_a_handful_of_pictures_is_refused(pictures: Path) -> None:
    with pytest.raises(InputError, match=r"at least 32 pictures.*got 8"):
        choose_images([pictures / "tea"])


def test_pictures_that_a_benchmark_scores_never_calibrate(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "shop")
    train = [
        {"image": f"{label}/{view}.png", "label": label}
        for label in ("tea", "milk", "salt", "soap")
        for view in range(8)
    ]
    (tmp_path / "shop" / "benchmark.json").write_text(json.dumps({"sets": {}, "train": train}))
    chosen = choose_images([tmp_path / "shop"])
    assert {path.parent.name for path in (*chosen.measure, *chosen.judge)} == {"tea", "milk", "salt", "soap"}


def test_calibration_stamps_the_verdict_into_the_file(master: Path, pictures: Path) -> None:
    proto, card = read_fp32(master)
    result = calibrate(proto, card, choose_images([pictures]), CalibrationConfig())
    stamped = read_card(result.proto)
    assert (stamped.numerics, stamped.gate) == (Numerics.INT8, result.verdict)
    assert stamped.spec.fingerprint == card.spec.fingerprint


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(OptionError, match="max"):
        CalibrationConfig(method="guess")


def test_the_command_writes_the_model_and_the_record(master: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.int8.onnx"
    result = CliRunner().invoke(main, [str(master), "--images", str(pictures), "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(out.with_suffix(".calib.json").read_text())
    assert len(record["measured_on"]) == 36
    assert read_card(read_onnx(out)).numerics is Numerics.INT8


def test_the_command_refuses_a_model_that_is_int8_already(master: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.int8.onnx"
    CliRunner().invoke(main, [str(master), "--images", str(pictures), "-o", str(out)])
    again = CliRunner().invoke(main, [str(out), "--images", str(pictures)])
    assert again.exit_code == 3
    assert "computes in int8" in again.output


@pytest.mark.parametrize("length", [0, 100, 2000])
def test_the_command_refuses_a_truncated_model(master: Path, pictures: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(master.read_bytes()[:length])
    result = CliRunner().invoke(main, [str(cut), "--images", str(pictures)])
    assert result.exit_code == 3
    assert "cut.onnx" in result.output
    assert sorted(tmp_path.iterdir()) == [cut]


def test_strict_writes_nothing_when_the_gate_fails(
    master: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepir.calib.calibrate as module

    verdict = judge(np.eye(4, dtype=np.float32), np.roll(np.eye(4, dtype=np.float32), 1, 0), GateLimits())
    monkeypatch.setattr(module, "judge", lambda *_: verdict)
    out = tmp_path / "m.int8.onnx"
    result = CliRunner().invoke(main, [str(master), "--images", str(pictures), "-o", str(out), "--strict"])
    assert result.exit_code == 6
    assert not out.exists()
