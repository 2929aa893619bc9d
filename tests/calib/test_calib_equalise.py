"""Equalisation: the same function in FP32 whatever the graph, and fewer errors in INT8 where channels differ."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepir.calib.channel_groups import ChannelGroups
from deepir.calib.derive import derive
from deepir.calib.equalise import equalise, find_factors
from deepir.calib.onnx_file import open_session
from deepir.calib.quantise import place
from deepir.calib.ranges import TensorStatistics, measure_statistics, ranges_by
from deepir.calib.recipe import Channels, Recipe
from deepir.errors import InputError

KINDS = (
    *("plain", "clip", "tight clip", "depthwise", "grouped", "norm", "residual", "fork", "pool", "dead", "by channel"),
    *("leaky", "cut"),
)
graphs = st.tuples(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), st.integers(0, 2**16))


class Net:
    """A graph that is being put together, with weights of uneven channels by a seed."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.channels = {"images": 3}

    def constant(self, values: Any, kind: type = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def add(self, kind: str, *inputs: str, channels: int = 0, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.channels[name] = channels or self.channels[inputs[0]]
        return name

    def conv(self, source: str, channels: int = 8, side: int = 3, group: int = 1, dead: int = 0) -> str:
        inputs = self.channels[source] // group
        weights = self.random.normal(size=(channels, inputs, side, side)) / math.sqrt(inputs * side * side)
        weights *= np.exp(self.random.normal(size=(channels, 1, 1, 1)))
        bias_c = self.random.normal(scale=0.1, size=channels)
        weights[:dead], bias_c[:dead] = 0, 0
        more = [self.constant(bias_c)] if dead or self.random.random() < 0.7 else []
        pads = [side // 2] * 4
        return self.add("Conv", source, self.constant(weights), *more, channels=channels, group=group, pads=pads)

    def clip(self, source: str, bound: float = 6) -> str:
        return self.add("Clip", source, self.constant(0), self.constant(bound))

    def block(self, kind: str, source: str) -> str:
        if kind == "residual":
            skip = self.add("Relu", self.conv(source))
            main = self.conv(self.add("Relu", self.conv(skip)))
            return self.add("Relu", self.add("Add", main, skip))
        if kind == "fork":
            parts = self.add("Relu", self.conv(source, 3)), self.clip(self.conv(source, 5))
            return self.add("Concat", *parts, channels=8, axis=1)
        if kind == "depthwise":
            return self.clip(self.conv(self.clip(self.conv(source)), group=8))
        if kind == "pool":
            return self.add("MaxPool", self.add("Relu", self.conv(source)), kernel_shape=[2, 2], pads=[1, 0, 0, 1])
        if kind == "dead":
            return self.add("Relu", self.conv(source, dead=3))
        return self.activated(
            kind, self.conv(source, group=4 if (kind, self.channels[source]) == ("grouped", 8) else 1)
        )

    def activated(self, kind: str, wide: str) -> str:
        if "clip" in kind:
            return self.clip(wide, 6 if kind == "clip" else 0.3)
        if kind == "leaky":
            return self.add("LeakyRelu", wide, alpha=0.1)
        if kind == "norm":
            values = [self.random.normal(size=8) for _ in range(3)] + [self.random.uniform(0.1, 2, 8)]
            wide = self.add("BatchNormalization", wide, *map(self.constant, values), epsilon=1e-5)
        if kind == "by channel":
            scaled = self.add("Mul", wide, self.constant(self.random.normal(size=(1, 8, 1, 1))))
            wide = self.add("Add", self.constant(self.random.normal(size=(8, 1, 1))), scaled, channels=8)
        if kind == "cut":
            wide = self.add("Slice", wide, *(self.constant(where, np.int64) for where in ([0, 1], [99, 99], [2, 3])))
        return self.add("Relu", wide)

    def model(self, *outputs: str, side: int = 10) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, side, side])]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *"chw"]) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", given, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random_graph(kinds: list[str], seed: int) -> onnx.ModelProto:
    net, tensor = Net(seed), "images"
    for kind in kinds:
        tensor = net.block(kind, tensor)
        net.channels[tensor] = 8
    last = net.conv(tensor, 6, side=1)
    return net.model(net.add("AveragePool", last, kernel_shape=[2, 2]))


def images(count: int = 2, side: int = 10) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, side, side)).astype(np.float32)


def statistics_of(proto: onnx.ModelProto, feed: np.ndarray | None = None) -> dict[str, TensorStatistics]:
    pictures = images() if feed is None else feed
    return measure_statistics(proto, place(proto).tensors, lambda: [{"images": pictures}])


def run(proto: onnx.ModelProto, feed: np.ndarray | None = None) -> list[np.ndarray]:
    found: list[np.ndarray] = open_session(proto).run(None, {"images": images() if feed is None else feed})
    return found


def assert_same_function(proto: onnx.ModelProto, other: onnx.ModelProto) -> None:
    onnx.checker.check_model(other, full_check=True)
    for right, found in zip(run(proto), run(other), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-4 * max(np.abs(right).max(), 1e-6))


def free_factors(proto: onnx.ModelProto, seed: int) -> Channels:
    """Factors at random for all that may be scaled."""
    groups = ChannelGroups(proto)
    factors_g = np.exp(np.random.default_rng(seed).normal(size=groups.count))
    factors_g[groups.held()] = 1
    return {name: factors_g[ids].tolist() for name in groups.tensors if (ids := groups.of(name)) is not None}


@settings(max_examples=40, deadline=None)
@given(graphs)
def test_factors_are_positive_and_change_no_function(drawn: tuple[list[str], int]) -> None:
    proto = random_graph(*drawn)
    before = proto.SerializeToString()
    factors = find_factors(proto, statistics_of(proto))
    for name, values in factors.items():
        assert all(0 < value < math.inf for value in values), name
    assert_same_function(proto, equalise(proto, factors))
    assert proto.SerializeToString() == before


@settings(max_examples=40, deadline=None)
@given(graphs)
def test_any_factors_of_what_may_be_scaled_change_no_function(drawn: tuple[list[str], int]) -> None:
    proto = random_graph(*drawn)
    balanced = equalise(proto, free_factors(proto, drawn[1]))
    assert_same_function(proto, balanced)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_kind_of_block_gives_may_be_scaled(kind: str) -> None:
    net = Net(3)
    given_by_block = net.block(kind, "images")
    net.channels[given_by_block] = 8
    proto = net.model(net.add("AveragePool", net.conv(given_by_block, 6), kernel_shape=[2, 2]))
    assert 1 not in free_factors(proto, 0)[given_by_block]


def test_equalised_channels_of_a_tensor_are_nearer_to_each_other() -> None:
    proto = planted()
    seen = statistics_of(proto)
    balanced = equalise(proto, find_factors(proto, seen))
    after = statistics_of(balanced)
    ratios = [one["relu1"].channel_largest_c.max() / one["relu1"].channel_largest_c.min() for one in (seen, after)]
    assert ratios[1] < ratios[0] / 5


def test_what_only_depthwise_convolutions_read_comes_to_the_same_magnitude() -> None:
    net = Net(5)
    tensor = net.add("Relu", net.conv("images"))
    output = net.add("GlobalAveragePool", net.conv(net.add("Relu", net.conv(tensor, group=8)), 4))
    proto = net.model(output)
    balanced = equalise(proto, find_factors(proto, statistics_of(proto)))
    largest_c = statistics_of(balanced)[tensor].channel_largest_c
    np.testing.assert_allclose(largest_c, np.ones(8), rtol=1e-3)


def planted(gain: float = 100) -> onnx.ModelProto:
    """One channel of eight is `gain` times as large, and the next convolution makes nothing of it."""
    net = Net(7)
    weights, readers = net.random.normal(size=(8, 3, 3, 3)), net.random.normal(size=(6, 8, 3, 3))
    weights[0] *= gain
    readers[:, 0] /= gain
    first = net.add("Relu", net.add("Conv", "images", net.constant(weights), channels=8))
    last = net.add("Conv", first, net.constant(readers), channels=6)
    return net.model(net.add("AveragePool", last, kernel_shape=[2, 2]))


def int8_error(proto: onnx.ModelProto, factors: Channels) -> float:
    ranges = ranges_by(statistics_of(equalise(proto, factors)), "max")
    [right], [found] = run(proto), run(derive(proto, Recipe(method="max", ranges=ranges, factors=factors)))
    return float(np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2)))


def test_a_channel_a_hundred_times_as_large_as_the_others_is_rescued() -> None:
    proto = planted()
    factors = find_factors(proto, statistics_of(proto))
    before, after = int8_error(proto, {}), int8_error(proto, factors)
    assert before > 0.05
    assert after < before / 5
    assert after < 3 * int8_error(planted(1), {})


def test_the_range_of_an_upper_bound_stays_what_it_was() -> None:
    # else the bound would have to be computed for each channel instead of being the end of the codes
    proto = random_graph(["tight clip", "clip"], 11)
    factors = find_factors(proto, statistics_of(proto))
    quantised = derive(
        proto, Recipe(method="max", ranges=ranges_by(statistics_of(equalise(proto, factors)), "max"), factors=factors)
    )
    assert any(node.op_type == "Min" for node in equalise(proto, factors).graph.node)
    assert not {"Min", "Clip"} & {node.op_type for node in quantised.graph.node}


def test_a_bound_is_no_obstacle_where_hardly_anything_reads_the_largest_channel() -> None:
    net = Net(8)
    readers = net.random.normal(size=(6, 8, 3, 3))
    readers[:, 0] /= 100
    weights = net.random.normal(size=(8, 3, 1, 1)) / 2
    weights[0] = 9
    tensor = net.clip(net.add("Conv", "images", net.constant(weights), channels=8))
    last = net.add("Conv", tensor, net.constant(readers), channels=6)
    proto = net.model(net.add("AveragePool", last, kernel_shape=[2, 2]))
    balanced = equalise(proto, find_factors(proto, statistics_of(proto)))
    [bound] = [node for node in balanced.graph.node if node.op_type == "Min"]
    bounds = next(one for one in balanced.graph.initializer if one.name == bound.input[1])
    assert numpy_helper.to_array(bounds).min() >= 0.999 * statistics_of(balanced)[tensor].largest


def test_a_channel_next_to_nothing_counts_as_a_thousandth_of_the_largest() -> None:
    net = Net(8)
    weights = np.ones((8, 3, 1, 1))
    weights[0] = 1e-7
    tensor = net.add("Relu", net.add("Conv", "images", net.constant(weights), channels=8))
    proto = net.model(net.add("GlobalAveragePool", net.conv(net.add("Relu", net.conv(tensor, group=8)), 4)))
    factors_c = next(iter(find_factors(proto, statistics_of(proto)).values()))
    assert factors_c[0] == pytest.approx(max(factors_c) / 1000, rel=1e-3)


def test_an_output_of_the_graph_and_what_shares_its_sum_are_left_alone() -> None:
    net = Net(2)
    skip = net.add("Relu", net.conv("images"))
    inner = net.add("Relu", net.conv(skip))
    total = net.add("Add", net.conv(inner), skip)
    proto = net.model(total)
    factors = find_factors(proto, statistics_of(proto))
    assert ChannelGroups(proto).of(inner) is not None
    assert {inner, net.nodes[2].output[0]} & set(factors)
    assert not {total, skip} & set(factors)
    with pytest.raises(InputError, match="cannot scale"):
        equalise(proto, {total: [2.0] * 8})


def test_resolutions_that_share_weights_stay_the_same_function() -> None:
    net = Net(4)
    sizes = ["images", net.add("AveragePool", "images", kernel_shape=[2, 2], strides=[2, 2])]
    weights = [net.constant(net.random.normal(size=shape)) for shape in ((8, 3, 3, 3), (4, 8, 1, 1))]
    bias = net.constant(net.random.normal(size=8) * 10)
    ends = []
    for size in sizes:
        first = net.clip(net.add("Conv", size, weights[0], bias, channels=8))
        ends.append(net.add("GlobalAveragePool", net.add("Conv", first, weights[1], channels=4)))
    proto = net.model(*ends)
    factors = find_factors(proto, statistics_of(proto))
    assert len(factors) == 1
    assert_same_function(proto, equalise(proto, factors))
    assert_same_function(proto, equalise(proto, free_factors(proto, 0)))


@pytest.mark.parametrize("where", ["weights", "bias"])
def test_weights_that_are_used_in_two_roles_are_not_scaled(where: str) -> None:
    net = Net(6)
    shared = net.constant(net.random.normal(size=(3, 3, 1, 1)) if where == "weights" else net.random.normal(size=3))
    if where == "weights":
        first = net.add("Relu", net.add("Conv", "images", shared))
        scaled = net.add("Reshape", shared, net.constant([1, 3, 3, 1], np.int64), channels=3)
        last = net.conv(net.add("Relu", net.add("Mul", first, net.add("ReduceMean", scaled, channels=3))), 4)
    else:
        kernels = [net.constant(net.random.normal(size=(3, 3, 1, 1))) for _ in range(2)]
        first = net.add("Relu", net.add("Conv", "images", kernels[0], shared))
        values = [net.constant(np.ones(3) * number) for number in (2, 0, 1)]
        normed = net.add("BatchNormalization", first, values[0], shared, *values[1:])
        last = net.conv(net.add("Relu", normed), 4)
    proto = net.model(net.add("GlobalAveragePool", last))
    balanced = equalise(proto, find_factors(proto, statistics_of(proto)))
    same = next(tensor for tensor in balanced.graph.initializer if tensor.name == shared)
    assert same in proto.graph.initializer
    assert_same_function(proto, balanced)


def test_no_factors_are_no_change_and_the_same_factors_the_same_bytes() -> None:
    proto = planted()
    assert equalise(proto, {}) == proto
    factors = find_factors(proto, statistics_of(proto))
    assert equalise(proto, factors).SerializeToString() == equalise(proto, factors).SerializeToString()


def test_channels_that_are_alike_have_nothing_to_gain() -> None:
    net = Net()
    first = net.add("Conv", "images", net.constant(np.ones((8, 3, 1, 1))), channels=8)
    last = net.add("Conv", net.add("Relu", first), net.constant(np.ones((4, 8, 1, 1))), channels=4)
    proto = net.model(net.add("GlobalAveragePool", last))
    assert find_factors(proto, statistics_of(proto)) == {}


def test_a_model_that_gives_only_zeros_has_finite_factors() -> None:
    proto = random_graph(["dead", "plain"], 0)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    factors = find_factors(proto, statistics_of(proto))
    assert all(0 < value < math.inf for values in factors.values() for value in values)


@pytest.mark.parametrize(
    "values",
    [[1.0] * 7, [], [1.0] * 7 + [-1.0], [1.0] * 7 + [0.0], [math.nan] * 8, [math.inf] * 8],
    ids=["too few", "none", "negative", "zero", "nan", "infinite"],
)
def test_factors_that_do_not_fit_are_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match=r"factors of 'relu1'.*calibrate again"):
        equalise(planted(), {"relu1": values})


@pytest.mark.parametrize("name", ["relu99", "images", ""])
def test_factors_of_another_model_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"factors of '{name}'"):
        equalise(planted(), {name: [2.0] * 8})


@pytest.mark.rtx
def test_tensorrt_rtx_computes_the_convolutions_of_an_equalised_clip_net_in_int8(
    rtx_build: Callable[..., tuple[bytes, str]],
) -> None:
    net = Net(9)
    tensor = net.clip(net.conv("images", 32))
    convolutions = [net.nodes[0].name]
    for _ in range(2):
        tensor = net.clip(net.conv(tensor, 32))
        convolutions.append(net.nodes[-2].name)
    proto = net.model(net.add("GlobalAveragePool", tensor), side=64)
    pictures = images(2, 64)
    factors = find_factors(proto, statistics_of(proto, pictures))
    ranges = ranges_by(statistics_of(equalise(proto, factors), pictures), "max")
    int8 = derive(proto, Recipe(method="max", ranges=ranges, factors=factors))
    assert factors
    kernels = [line for line in rtx_build(int8.SerializeToString())[1].splitlines() if "correlation" in line]
    types = {
        name: line.split("Datatype: ", 1)[1].split(",", 1)[0]
        for line in kernels
        for name in convolutions
        if f"[ONNX Layer: {name}]" in line
    }
    assert types == dict.fromkeys(convolutions, "Int8")
