"""Bias correction takes off what rounding shifts, and goes from convolution to convolution."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from deepir.calib.bias import add_biases, bias_corrections
from deepir.calib.half import keep_half
from deepir.calib.offsets import output_shifts
from deepir.calib.onnx_file import Feeds, open_session
from deepir.calib.quantise import place, quantise
from deepir.calib.ranges import measure_statistics, ranges_by
from deepir.calib.stepping import SteppedGraph
from deepir.errors import InputError

SIDE = 8


def net(seed: int = 0, *, bias: bool = True) -> Any:
    """3x3, depthwise, 1x1 with a Relu after each, a residual sum, and a 1x1 at the end; weights of few levels."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []

    def conv(name: str, source: str, shape: tuple[int, ...], group: int = 1) -> str:
        weights = rng.standard_t(2, size=shape) / np.prod(shape[1:]) ** 0.5
        constants[f"{name}.weight"] = weights.astype(np.float32)
        constants[f"{name}.bias"] = rng.normal(size=shape[0]).astype(np.float32)
        inputs = [source, f"{name}.weight", *([f"{name}.bias"] if bias else [])]
        pads = [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", inputs, [f"{name}:out"], name=name, group=group, pads=pads))
        return f"{name}:out"

    def relu(source: str) -> str:
        nodes.append(helper.make_node("Relu", [source], [f"{source}/relu"]))
        return f"{source}/relu"

    first = relu(conv("first", "images", (8, 3, 3, 3)))
    middle = relu(conv("middle", first, (8, 1, 3, 3), group=8))
    main = conv("main", middle, (8, 8, 1, 1))
    nodes.append(helper.make_node("Add", [first, main], ["sum"]))
    last = conv("last", relu("sum"), (4, 8, 1, 1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", 1, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(last, 1, ["n", 4, SIDE, SIDE])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def batches(count: int = 3, *, seed: int = 0) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    return [{"images": rng.normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


def quantised(proto: Any, share: float = 0.5) -> Any:
    """INT8 with ranges that cut a part of the values off: that shifts means."""
    placement = place(proto)
    ranges = ranges_by(measure_statistics(proto, placement.tensors, batches), "max")
    return quantise(proto, placement, {tensor: share * largest for tensor, largest in ranges.items()})


def outputs(proto: Any, names: list[str], fed: list[Feeds]) -> list[np.ndarray]:
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(watched)
    rows = [session.run(names, feeds) for feeds in fed]
    return [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]


def corrected(proto: Any, int8: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(int8)
    add_biases(copy, bias_corrections(proto, int8, batches))
    return copy


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_the_mean_error_of_every_channel_becomes_zero(seed: int, bias: bool) -> None:
    proto = net(seed, bias=bias)
    int8 = quantised(proto)
    [expected] = outputs(proto, ["last:out"], batches())
    [before], [after] = (outputs(model, ["last:out"], batches()) for model in (int8, corrected(proto, int8)))
    size = np.abs(expected).max()
    assert np.abs((before - expected).mean(axis=(0, 2, 3))).max() > 1e-3 * size
    assert np.abs((after - expected).mean(axis=(0, 2, 3))).max() < 2e-4 * size


def test_each_convolution_is_corrected_by_what_the_corrected_ones_give() -> None:
    proto = net(1)
    int8 = quantised(proto)
    # these three give the same numbers in both forms but for what rounding changes; the first is shifted for its Relu
    names = ["middle:out", "last:out"]
    wanted = outputs(proto, names, batches())
    found = outputs(corrected(proto, int8), names, batches())
    shift = float(np.mean(found[0] - wanted[0]))
    for expected, given_, offset in zip(wanted, found, [shift, 0.0], strict=True):
        difference_c = (given_ - offset - expected).mean(axis=(0, 2, 3))
        assert np.abs(difference_c).max() < 2e-4 * np.abs(expected).max()


def test_corrected_descriptions_are_nearer() -> None:
    proto = net()
    int8 = quantised(proto, 0.3)
    fed = batches(seed=9)
    [expected] = outputs(proto, ["last:out"], fed)
    [before], [after] = (outputs(model, ["last:out"], fed) for model in (int8, corrected(proto, int8)))
    assert np.mean((after - expected) ** 2) < 0.85 * np.mean((before - expected) ** 2)


def test_an_exact_model_needs_no_correction() -> None:
    proto = net()
    corrections = bias_corrections(proto, proto, batches)
    assert max(abs(value) for values in corrections.values() for value in values) < 1e-5


def test_a_corrected_bias_belongs_to_one_convolution() -> None:
    proto = net()
    proto.graph.node[2].input[2] = "first.bias"
    add_biases(proto, {"first": [1.0] * 8})
    biases = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    np.testing.assert_allclose(biases[proto.graph.node[0].input[2]], biases["first.bias"] + 1, rtol=1e-6)
    assert proto.graph.node[2].input[2] == "first.bias"


def test_a_convolution_without_bias_gets_one() -> None:
    proto = net(bias=False)
    add_biases(proto, {"last": [1.0, 2.0, 3.0, 4.0]})
    [plain], [shifted] = (outputs(model, ["last:out"], batches()) for model in (net(bias=False), proto))
    np.testing.assert_allclose((shifted - plain).mean(axis=(0, 2, 3)), [1, 2, 3, 4], rtol=1e-5)


def test_no_corrections_change_nothing() -> None:
    int8 = quantised(net())
    before = int8.SerializeToString()
    add_biases(int8, {})
    assert int8.SerializeToString() == before


@pytest.mark.parametrize(
    "biases",
    [{"nothing": [1.0]}, {"last": [1.0]}, {"last": [float("nan")] * 4}, {"last": []}, {"first": [float("inf")] * 8}],
    ids=["unknown", "short", "nan", "empty", "infinite"],
)
def test_biases_of_another_model_are_refused(biases: dict[str, list[float]]) -> None:
    with pytest.raises(InputError, match="calibrate again"):
        add_biases(quantised(net()), biases)


def test_without_pictures_there_is_no_correction() -> None:
    proto = net()
    with pytest.raises(InputError, match="needs pictures"):
        bias_corrections(proto, quantised(proto), list)


def test_pictures_of_several_sizes_count_by_their_pixels() -> None:
    proto = net()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    mixed = [*batches(1), {"images": np.random.default_rng(3).normal(size=(1, 3, 20, SIDE)).astype(np.float32)}]
    int8 = quantised(proto)
    add_biases(int8, bias_corrections(proto, int8, lambda: mixed))
    errors = [
        found - expected
        for feeds in mixed
        for found, expected in zip(
            outputs(int8, ["last:out"], [feeds]), outputs(proto, ["last:out"], [feeds]), strict=True
        )
    ]
    summed = sum(error.sum(axis=(0, 2, 3)) for error in errors)
    assert np.abs(summed / sum(error[:, 0].size for error in errors)).max() < 1e-3


def test_only_a_few_pictures_are_taken() -> None:
    proto = net()
    int8 = quantised(proto)
    large = {"images": np.zeros((4, 3, 800, 800), np.float32)}
    taken = []

    def many() -> Any:
        for number in range(10):
            taken.append(number)
            yield batches(1)[0] if number == 0 else large

    bias_corrections(proto, int8, many)
    assert taken == [0, 1]


def test_steps_give_what_the_whole_graph_gives() -> None:
    int8 = quantised(net())
    fed = batches(2)
    names = [f"{name}:out" for name in ("first", "middle", "main", "last")]
    steps = {node.name: np.concatenate(maps) for node, maps in SteppedGraph(int8, fed).convolutions()}
    for expected, found in zip(outputs(int8, names, fed), steps.values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_no_convolution_needs_is_not_computed() -> None:
    proto = net()
    proto.graph.node.append(helper.make_node("Unheard", ["last:out"], ["never"], domain="nobody"))
    assert len(list(SteppedGraph(proto, batches(1)).convolutions())) == 4


def test_the_mean_of_every_convolution_becomes_that_of_fp32_but_for_shifts_that_are_known() -> None:
    proto = net(4)
    int8 = quantised(proto)
    shifts, fixed = output_shifts(proto, int8), corrected(proto, int8)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "Conv"]
    expected, before, after = (outputs(model, names, batches()) for model in (proto, int8, fixed))
    for name, right, wrong, found in zip(names, expected, before, after, strict=True):
        shift, size = shifts[name.removesuffix(":out")], np.abs(right).max()
        assert np.abs((wrong - right).mean(axis=(0, 2, 3)) - shift).max() > 1e-3 * size or name == "first:out"
        np.testing.assert_allclose((found - right).mean(axis=(0, 2, 3)), shift, atol=2e-4 * size)


def test_shifts_are_128_steps_down_where_codes_stand_in_for_a_relu_and_up_where_a_sum_takes_them_back() -> None:
    proto = net()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised(proto).graph.initializer}
    steps = {name: float(constants[f"{name}/scale"]) for name in ("middle:out/relu", "sum/relu")}
    shifts = output_shifts(proto, quantised(proto))
    # what the first one gives is read by a padded convolution, so that it has no offset to take back in the sum
    expected = {"middle": -128 * steps["middle:out/relu"], "main": -128 * steps["sum/relu"], "first": 0, "last": 0}
    assert shifts == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_model_that_was_not_quantised_has_no_shifts() -> None:
    assert set(output_shifts(net(), net()).values()) == {0.0}


def two_resolutions() -> Any:
    """The same convolution, weights and bias, of the pictures and of the pictures at half the size."""
    rng = np.random.default_rng(0)
    constants = {
        "weight": rng.standard_t(2, size=(4, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }
    nodes = [
        helper.make_node("AveragePool", ["images"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        *(
            helper.make_node("Conv", [source, "weight", "bias"], [f"{source}:out"], name=source, pads=[1] * 4)
            for source in ("images", "small")
        ),
    ]
    made = [helper.make_tensor_value_info(f"{name}:out", 1, ["n", 4, "h", "w"]) for name in ("images", "small")]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("images", 1, ["n", 3, SIDE, SIDE])],
        made,
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_resolutions_that_share_a_bias_are_corrected_each_for_itself() -> None:
    proto = two_resolutions()
    int8 = quantised(proto, 0.3)
    corrections, fixed = bias_corrections(proto, int8, batches), corrected(proto, int8)
    convolutions = [node for node in fixed.graph.node if node.op_type == "Conv"]
    assert corrections["images"] != corrections["small"]
    assert convolutions[0].input[2] != convolutions[1].input[2]
    assert convolutions[0].input[1] == convolutions[1].input[1]
    names = ["images:out", "small:out"]
    for right, found in zip(outputs(proto, names, batches()), outputs(fixed, names, batches()), strict=True):
        assert np.abs((found - right).mean(axis=(0, 2, 3))).max() < 2e-4 * np.abs(right).max()


def test_convolutions_that_stay_fp16_take_corrections_too() -> None:
    proto = net()
    placement = place(proto, keep=["last"])
    ranges = ranges_by(measure_statistics(proto, placement.tensors, batches), "max")
    mixed = quantise(proto, placement, {tensor: largest / 2 for tensor, largest in ranges.items()})
    corrections = bias_corrections(proto, mixed, batches)
    add_biases(mixed, corrections)
    keep_half(mixed, ["last"])
    [right], [found] = (outputs(model, ["last:out"], batches()) for model in (proto, mixed))
    assert np.abs(corrections["last"]).max() > 1e-3
    assert np.abs((found - right).mean(axis=(0, 2, 3))).max() < 2e-3 * np.abs(right).max()


def test_the_models_that_corrections_are_found_for_stay_as_they_are() -> None:
    proto = net()
    int8 = quantised(proto)
    before = proto.SerializeToString(), int8.SerializeToString()
    bias_corrections(proto, int8, batches)
    assert (proto.SerializeToString(), int8.SerializeToString()) == before
