"""ModelOpt as the quantiser: what it is given, what is taken of it, and what is refused."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepir.calib import modelopt
from deepir.calib.modelopt import cut_trunk, graft_trunk, quantise_modelopt
from deepir.calib.onnx_file import open_session, read_card
from deepir.calib.quantise import int8_share, place, quantise
from deepir.card import ModelCard
from deepir.distill.checkpoint import Model
from deepir.errors import MissingDependency, ModelError, OptionError
from deepir.export.graph import build_onnx

MakeModel = Callable[..., Model]

NEEDS_MODELOPT = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None,
    reason="nvidia-modelopt is not installed: it pins an ONNX Runtime of its own",
)


@pytest.fixture(scope="module")
def master(make_model: MakeModel) -> onnx.ModelProto:
    return build_onnx(make_model(dim=6))


def feeds(proto: onnx.ModelProto, count: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(seed), {}
    for value in proto.graph.input:
        shape = [entry.dim_value or count for entry in value.type.tensor_type.shape.dim]
        pixels = rng.integers(0, 256, shape)
        uint8 = value.type.tensor_type.elem_type == TensorProto.UINT8
        found[value.name] = pixels.astype(np.uint8) if uint8 else (pixels / 64 - 2).astype(np.float32)
    return found


def quantised(trunk: onnx.ModelProto, largest: float = 4.0) -> onnx.ModelProto:
    placement = place(trunk)
    return quantise(trunk, placement, dict.fromkeys(placement.tensors, largest))


def with_float_weights(trunk: onnx.ModelProto) -> onnx.ModelProto:
    """As libraries write it: the weights in FP32, then QuantizeLinear and DequantizeLinear."""
    changed = onnx.ModelProto()
    changed.CopyFrom(trunk)
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in [node for node in trunk.graph.node if node.op_type == "DequantizeLinear"]:
        if node.input[0] not in constants:
            continue
        codes, scales = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        # off the grid, as weights are, by less than half a step
        weights = (codes + np.float32(0.25)) * scales.reshape(-1, 1, 1, 1)
        constants[node.input[0]].CopyFrom(numpy_helper.from_array(weights.astype(np.float32), "w/" + node.input[0]))
        inputs = ["w/" + node.input[0], *node.input[1:]]
        changed.graph.node.insert(0, helper.make_node("QuantizeLinear", inputs, [node.input[0]], axis=0))
    return changed


def values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize(
    ("sizes", "pixels"),
    [(((64, 64),), "float32"), (((64, 64),), "uint8"), (((64, 64), (96, 80)), "float32")],
)
def test_the_trunk_alone_gives_the_maps_of_the_whole(
    make_model: MakeModel, sizes: Sequence[tuple[int, int]], pixels: Any
) -> None:
    proto = build_onnx(make_model(sizes=tuple(sizes), dim=6), pixels=pixels)
    trunk = cut_trunk(proto)
    onnx.checker.check_model(trunk, full_check=True)
    maps = [value.name for value in trunk.graph.output]
    assert len(maps) == len(sizes)
    assert not trunk.functions
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    whole.graph.output.extend(trunk.graph.output)
    given = feeds(proto)
    for one, other in zip(open_session(trunk).run(maps, given), open_session(whole).run(maps, given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_trunk_holds_nothing_of_the_head(master: onnx.ModelProto) -> None:
    names = set(values(cut_trunk(master)))
    assert names < set(values(master))
    assert not [name for name in names if "whitening" in name or name in ("rois", "region_axis")]


def test_a_quantised_trunk_under_its_head_is_the_quantised_whole(master: onnx.ModelProto) -> None:
    grafted, whole = graft_trunk(master, quantised(cut_trunk(master))), quantised(master)
    given = feeds(master)
    np.testing.assert_array_equal(open_session(grafted).run(None, given)[0], open_session(whole).run(None, given)[0])
    assert int8_share(grafted) == 1


@pytest.mark.parametrize("sizes", [((64, 64),), ((64, 64), (96, 80))])
def test_card_opset_functions_and_head_stay(make_model: MakeModel, sizes: tuple[tuple[int, int], ...]) -> None:
    proto = build_onnx(make_model(sizes=sizes, dim=6))
    trunk = quantised(cut_trunk(proto))
    trunk.opset_import[0].version, trunk.ir_version = 19, 10
    grafted = graft_trunk(proto, trunk)
    assert read_card(grafted) == read_card(proto)
    assert (grafted.ir_version, list(grafted.opset_import)) == (proto.ir_version, list(proto.opset_import))
    assert list(grafted.functions) == list(proto.functions)
    last = len(proto.graph.node) - len(cut_trunk(proto).graph.node)
    assert list(grafted.graph.node)[-last:] == [
        node for node in proto.graph.node if node not in list(cut_trunk(proto).graph.node)
    ]


def test_weights_left_in_fp32_become_the_codes_that_the_library_meant(master: onnx.ModelProto) -> None:
    trunk = quantised(cut_trunk(master))
    grafted = graft_trunk(master, with_float_weights(trunk))
    expected, found = values(trunk), values(grafted)
    codes = [name for name in expected if name.endswith("/codes")]
    assert len(codes) == 3
    for name in codes:
        assert found[name].dtype == np.int8
        np.testing.assert_array_equal(found[name], expected[name])
    assert not [name for name in found if name.startswith("w/")]


def test_a_scale_for_the_whole_weight_is_folded_too(master: onnx.ModelProto) -> None:
    trunk = quantised(cut_trunk(master))
    name = next(key for key in values(trunk) if key.endswith("stem.0.weight/codes"))
    base = name.removesuffix("/codes")
    constants = {tensor.name: tensor for tensor in trunk.graph.initializer}
    weights = np.linspace(-2, 2, values(trunk)[name].size, dtype=np.float32).reshape(values(trunk)[name].shape)
    constants[f"{base}/scale"].CopyFrom(numpy_helper.from_array(np.array(1 / 64, np.float32), f"{base}/scale"))
    constants[f"{base}/zero"].CopyFrom(numpy_helper.from_array(np.array(0, np.int8), f"{base}/zero"))
    constants[name].CopyFrom(numpy_helper.from_array(weights, "w"))
    trunk.graph.node.insert(0, helper.make_node("QuantizeLinear", ["w", f"{base}/scale", f"{base}/zero"], [name]))
    found = values(graft_trunk(master, trunk))[name]
    np.testing.assert_array_equal(found, np.clip(np.rint(weights * 64), -128, 127))
    assert (found.min(), found.max()) == (-128, 127)


@pytest.mark.parametrize(
    ("suffix", "change", "reason"),
    [
        ("images/scale", lambda array: array.astype(np.float16), "not FP32"),
        ("images/scale", np.zeros_like, "not FP32"),
        ("images/scale", lambda array: array * np.nan, "not FP32"),
        ("images/scale", lambda array: array * np.inf, "not FP32"),
        ("images/zero", lambda array: array + np.int8(3), "zero point other than 0"),
        ("images/zero", lambda array: array.astype(np.uint8), "zero point other than 0"),
    ],
)
def test_what_tensorrt_does_not_read_is_refused(
    master: onnx.ModelProto, suffix: str, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    trunk = quantised(cut_trunk(master))
    tensor = next(tensor for tensor in trunk.graph.initializer if tensor.name == suffix)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), suffix))
    with pytest.raises(ModelError, match=reason):
        graft_trunk(master, trunk)


def test_a_trunk_that_stayed_float_is_refused(master: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match="nothing became INT8"):
        graft_trunk(master, cut_trunk(master))


def test_a_trunk_without_the_map_is_refused(master: onnx.ModelProto) -> None:
    trunk = quantised(cut_trunk(master))
    for node in trunk.graph.node:
        node.output[:] = ["other" if name == "map" else name for name in node.output]
    with pytest.raises(ModelError, match="lacks the maps map that the head reads"):
        graft_trunk(master, trunk)


def test_operators_newer_than_the_opset_are_refused(master: onnx.ModelProto) -> None:
    trunk = quantised(cut_trunk(master))
    node = next(node for node in trunk.graph.node if node.op_type == "QuantizeLinear")
    # an attribute of opset 19
    node.attribute.append(helper.make_attribute("saturate", 1))
    with pytest.raises(ModelError, match="not valid ONNX"):
        graft_trunk(master, trunk)


def test_a_graph_that_has_no_map_is_refused() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    with pytest.raises(ModelError, match="no tensor called map"):
        cut_trunk(helper.make_model(graph))


def pretended(seen: dict[str, Any], **broken: Any) -> SimpleNamespace:
    """A ModelOpt that quantises as we do, keeps what it was given, and prints as the real one does."""

    def quantize(path: str, *, output_path: str, **options: Any) -> None:
        if "error" in broken:
            raise broken["error"]
        seen.update(options, trunk=onnx.load(path))
        sys.stdout.write("Collecting tensor data and making histogram ...\n")
        onnx.save(quantised(seen["trunk"]), output_path)

    return SimpleNamespace(quantize=quantize)


def pretend(monkeypatch: pytest.MonkeyPatch, library: SimpleNamespace) -> None:
    real = modelopt.need
    monkeypatch.setattr(modelopt, "need", lambda name: library if name.startswith("modelopt") else real(name))


def test_modelopt_sees_the_trunk_and_all_pictures_and_is_told_fp32(
    master: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    pretend(monkeypatch, pretended(seen))
    batches = [feeds(master, 3), feeds(master, 2, seed=1)]
    found = quantise_modelopt(master, read_card(master), batches, method="entropy")
    assert capsys.readouterr().out == ""
    assert [value.name for value in seen["trunk"].graph.output] == ["map"]
    np.testing.assert_array_equal(
        seen["calibration_data"]["images"], np.concatenate([batch["images"] for batch in batches])
    )
    assert (seen["high_precision_dtype"], seen["calibration_method"]) == ("fp32", "entropy")
    assert seen["calibration_eps"] == ["cpu"]
    assert (int8_share(found), read_card(found)) == (1, read_card(master))


def test_what_modelopt_cannot_do_is_one_sentence(master: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, pretended({}, error=AssertionError("no such node")))
    with pytest.raises(ModelError, match="ModelOpt cannot quantise this trunk: no such node"):
        quantise_modelopt(master, read_card(master), [feeds(master)])


def test_without_modelopt_the_error_says_what_to_install(
    master: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("modelopt", "modelopt.onnx", "modelopt.onnx.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"pip install nvidia-modelopt.*venv"):
        quantise_modelopt(master, read_card(master), [feeds(master)])


def test_free_sizes_no_pictures_and_other_methods_are_refused(master: onnx.ModelProto) -> None:
    card: ModelCard = read_card(master)
    with pytest.raises(OptionError, match="fixed size only"):
        quantise_modelopt(master, dataclasses.replace(card, strides=(8,)), [feeds(master)])
    with pytest.raises(OptionError, match=r"needs pictures.*got 0 batches"):
        quantise_modelopt(master, card, [])
    with pytest.raises(OptionError, match="'mse'"):
        quantise_modelopt(master, card, [feeds(master)], method="mse")


@NEEDS_MODELOPT
@pytest.mark.slow
@pytest.mark.parametrize("method", ["max", "entropy"])
def test_the_real_modelopt_makes_convolutions_int8_and_leaves_the_head(master: onnx.ModelProto, method: str) -> None:
    given = feeds(master, 8)
    found = quantise_modelopt(master, read_card(master), [given], method=method)
    # it leaves convolutions of few channels as they are
    assert int8_share(found) > 0
    before, after = (open_session(proto).run(None, given)[0] for proto in (master, found))
    assert np.sum(before * after, axis=1).min() > 0.95
