"""Where Q/DQ nodes go, what the codes mean, and which activations codes stand in for, on graphs drawn at random."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from deepir.calib.onnx_file import open_session
from deepir.calib.quantise import Placement, int8_share, place, quantise
from deepir.calib.ranges import measure_statistics, ranges_by
from deepir.distill.checkpoint import Model
from deepir.errors import ModelError
from deepir.export.graph import build_onnx

SIDE = 9
BLOCKS = ("plain", "depthwise", "residual", "projected", "fire", "pooled", "preactivation", "clipped")


class Net:
    """A graph of convolutions under construction; weights are drawn at random."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels = {"images": 3}

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = values.astype(np.float32)
        return name

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}:out"], name=name, **attributes))
        self.channels[f"{name}:out"] = self.channels[inputs[0]]
        return f"{name}:out"

    def conv(self, source: str, channels: int, *, side: int = 3, depthwise: bool = False, bias: bool = True) -> str:
        inputs = self.channels[source]
        weights = self.rng.normal(size=(channels, 1 if depthwise else inputs, side, side)) / (side * inputs**0.5)
        constants = [self.constant(weights), *([self.constant(self.rng.normal(size=channels))] if bias else [])]
        given = self.add("Conv", [source, *constants], group=inputs if depthwise else 1, pads=[side // 2] * 4)
        self.channels[given] = channels
        return given

    def norm(self, source: str) -> str:
        channels = self.channels[source]
        values = [self.rng.uniform(0.5, 2, channels), self.rng.normal(size=channels), self.rng.normal(size=channels)]
        constants = [self.constant(value) for value in (*values, self.rng.uniform(0.5, 2, channels))]
        return self.add("BatchNormalization", [source, *constants])

    def block(self, kind: str, source: str) -> str:
        channels = self.channels[source]
        if kind in ("residual", "projected"):
            inner = self.add("Relu", [self.conv(source, channels, side=1)])
            skip = self.conv(source, channels, side=1) if kind == "projected" else source
            return self.add("Relu", [self.add("Add", [skip, self.conv(inner, channels, side=1)])])
        if kind == "preactivation":
            active = self.add("Relu", [self.norm(source)])
            return self.add("Add", [self.conv(active, channels), source])
        if kind == "fire":
            parts = [self.add("Relu", [self.conv(source, 4, side=side)]) for side in (1, 3)]
            fire = self.add("Concat", parts, axis=1)
            self.channels[fire] = 8
            return fire
        if kind == "pooled":
            return self.add("MaxPool", [source], kernel_shape=[2, 2])
        if kind == "clipped":
            bounds = [self.constant(np.array(value)) for value in (0, 6)]
            return self.add("Clip", [self.conv(source, 5, side=1), *bounds])
        depthwise = kind == "depthwise"
        return self.add("Relu", [self.conv(source, channels if depthwise else 6, depthwise=depthwise, bias=depthwise)])

    def proto(self, output: str) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("images", 1, ["n", 3, SIDE, SIDE])],
            [onnx.ValueInfoProto(name=output)],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(proto)
        proto.graph.output[0].CopyFrom(inferred.graph.output[0])
        return proto


def net_of(blocks: Sequence[str], seed: int = 0) -> Any:
    """A convolution, some blocks, and a convolution."""
    net = Net(seed)
    tensor = net.conv("images", 6)
    for kind in blocks:
        tensor = net.block(kind, tensor)
    return net.proto(net.conv(tensor, 4, side=1))


nets = st.builds(net_of, st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4), st.integers(0, 1000))


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def run(proto: Any, pictures: np.ndarray | None = None) -> np.ndarray:
    return open_session(proto).run(None, {"images": images() if pictures is None else pictures})[0]


def quantised(proto: Any, placement: Placement | None = None) -> Any:
    placement = placement or place(proto)
    statistics = measure_statistics(proto, placement.tensors, lambda: [{"images": images()}])
    return quantise(proto, placement, ranges_by(statistics, "max"))


def constants_of(proto: Any) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def makers_of(proto: Any) -> dict[str, Any]:
    return {name: node for node in proto.graph.node for name in node.output}


def unsigned(proto: Any, placement: Placement) -> Any:
    """The same with the Q/DQ pairs that anyone would write: unsigned where nothing is negative, weights in place."""
    statistics = measure_statistics(proto, placement.tensors, lambda: [{"images": images()}])
    int8 = quantise(proto, placement, ranges_by(statistics, "max"))
    shifted = {node.input[0].removesuffix("/codes") for node in int8.graph.node if node.output[0].endswith("/shifted")}
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    constants = constants_of(int8)
    for tensor in plain.graph.initializer:
        if f"{tensor.name}/codes" in constants:
            codes, scale = constants[f"{tensor.name}/codes"], constants[f"{tensor.name}/scale"]
            tensor.CopyFrom(numpy_helper.from_array(codes * scale.reshape(-1, 1, 1, 1), tensor.name))
    added = {}
    for name, places in placement.uses.items():
        zero = np.array(0, np.uint8 if name in shifted else np.int8)
        step = np.array(statistics[name].largest / (255 if name in shifted else 127), np.float32)
        plain.graph.initializer.extend(
            [numpy_helper.from_array(step, f"{name}/s"), numpy_helper.from_array(zero, f"{name}/z")]
        )
        added[name] = [
            helper.make_node("QuantizeLinear", [name, f"{name}/s", f"{name}/z"], [f"{name}/q"]),
            helper.make_node("DequantizeLinear", [f"{name}/q", f"{name}/s", f"{name}/z"], [f"{name}/d"]),
        ]
        for number, position in places:
            plain.graph.node[number].input[position] = f"{name}/d"
    nodes = added.pop("images", [])
    for node in plain.graph.node:
        nodes += [node, *(one for name in node.output for one in added.get(name, []))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del plain.graph.node[:]
    plain.graph.node.extend(copies)
    return plain


@settings(max_examples=25, deadline=None)
@given(nets)
def test_scales_are_positive_zero_points_zero_and_codes_int8(proto: Any) -> None:
    constants = constants_of(quantised(proto))
    scales = [values for name, values in constants.items() if name.endswith("/scale")]
    zeros = [values for name, values in constants.items() if name.endswith("/zero")]
    assert scales
    assert all((scale > 0).all() and scale.dtype == np.float32 and np.isfinite(scale).all() for scale in scales)
    assert all(not zero.any() and zero.dtype == np.int8 for zero in zeros)


@settings(max_examples=25, deadline=None)
@given(nets)
def test_q_and_dq_are_before_convolutions_and_skips_and_nowhere_else(proto: Any) -> None:
    int8 = quantised(proto)
    makers, readers = makers_of(int8), {}
    for node in int8.graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    assert int8_share(int8) == 1
    for node in int8.graph.node:
        if node.op_type == "QuantizeLinear":
            assert [reader.op_type for reader, _ in readers[node.output[0]]] == ["DequantizeLinear"]
        if node.op_type == "DequantizeLinear":
            for reader, position in readers[node.output[0]]:
                assert (reader.op_type, position) in [("Conv", 0), ("Conv", 1), ("Add", 0), ("Add", 1)]
        if node.op_type == "Add":
            made_by = [makers[name].op_type if name in makers else "" for name in node.input]
            assert made_by.count("DequantizeLinear") <= 1
            assert "Conv" in made_by
    onnx.checker.check_model(int8, full_check=True)


@settings(max_examples=25, deadline=None)
@given(nets)
def test_shifted_codes_are_the_numbers_of_unsigned_codes(proto: Any) -> None:
    placement = place(proto)
    expected, found = run(unsigned(proto, placement)), run(quantised(proto, placement))
    # where a value lies between two codes, the order of additions decides
    step = np.abs(expected).max() / 100
    assert np.mean(np.abs(found - expected)) < step / 10
    assert np.abs(found - expected).max() < 5 * step


def test_codes_stand_in_for_the_relu_and_begin_at_minus_128() -> None:
    net = Net()
    proto = net.proto(net.conv(net.add("Relu", [net.conv("images", 6)]), 4, side=1))
    int8 = quantised(proto)
    assert not [node for node in int8.graph.node if node.op_type == "Relu"]
    codes = next(node.output[0] for node in int8.graph.node if node.name == "relu1:out/codes")
    watched = onnx.ModelProto()
    watched.CopyFrom(int8)
    watched.graph.output.append(onnx.ValueInfoProto(name=codes))
    found = open_session(watched).run([codes], {"images": images()})[0]
    assert found.min() == -128
    assert found.max() > 120


def test_a_padded_convolution_keeps_the_relu_before_it() -> None:
    net = Net()
    proto = net.proto(net.conv(net.add("Relu", [net.conv("images", 6)]), 4, side=3))
    int8 = quantised(proto)
    assert [node.op_type for node in int8.graph.node if node.op_type in ("Conv", "Relu")] == ["Conv", "Relu", "Conv"]
    assert np.abs(run(int8) - run(proto)).max() < 0.05 * np.abs(run(proto)).max()


def test_what_the_graph_gives_is_not_shifted() -> None:
    net = Net()
    active = net.add("Relu", [net.conv("images", 6)])
    net.conv(active, 4, side=1)
    proto = net.proto(active)
    np.testing.assert_allclose(run(quantised(proto)), run(proto), atol=0.05)


def test_the_upper_bound_of_a_clip_goes_where_codes_end_at_it() -> None:
    net = Net()
    proto = net.proto(net.conv(net.block("clipped", net.conv("images", 6)), 4, side=3))
    placement = place(proto)
    ranges = dict.fromkeys(placement.tensors, 6.0)
    assert "Clip" not in {node.op_type for node in quantise(proto, placement, ranges).graph.node}
    above = ranges | {tensor: 7.0 for tensor in ranges if tensor.startswith("clip")}
    assert "Clip" in {node.op_type for node in quantise(proto, placement, above).graph.node}


def test_the_sum_of_a_block_that_begins_with_a_batch_norm_is_not_quantised() -> None:
    net = Net()
    stream = net.block("preactivation", net.block("preactivation", net.conv("images", 6)))
    proto = net.proto(net.conv(net.add("Relu", [net.norm(stream)]), 4, side=1))
    sums = {node.output[0] for node in proto.graph.node if node.op_type == "Add"}
    assert not sums & set(place(proto).tensors)


@pytest.mark.parametrize("kind", ["residual", "projected"])
def test_the_skip_of_other_blocks_is_quantised(kind: str) -> None:
    proto = net_of(["plain", kind])
    adds = [number for number, node in enumerate(proto.graph.node) if node.op_type == "Add"]
    assert adds == [number for places in place(proto).uses.values() for number, _ in places if number in adds]


def test_kept_convolutions_stay_as_they_are() -> None:
    proto = net_of(["plain", "residual", "fire"])
    names = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    masters = {node.name: node for node in proto.graph.node}
    int8 = quantised(proto, place(proto, keep=names[2:4]))
    before, after, makers = constants_of(proto), constants_of(int8), makers_of(int8)
    for node in int8.graph.node:
        if node.name in names[2:4]:
            np.testing.assert_array_equal(after[node.input[1]], before[masters[node.name].input[1]])
            assert makers[node.input[0]].op_type != "DequantizeLinear"
    assert int8_share(int8) == (len(names) - 2) / len(names)
    assert np.abs(run(int8) - run(proto)).max() < 0.1 * np.abs(run(proto)).max()


def test_weights_that_a_kept_convolution_shares_are_there_in_both_forms() -> None:
    net = Net()
    first = net.conv("images", 3)
    second = net.add("Conv", [first, *net.nodes[0].input[1:]], pads=[1] * 4)
    proto = net.proto(second)
    int8 = quantised(proto, place(proto, keep=[net.nodes[1].name]))
    weights = net.nodes[0].input[1]
    assert {weights, f"{weights}/codes"} <= set(constants_of(int8))


def test_the_resolutions_of_a_graph_share_their_codes() -> None:
    net = Net()
    first = net.add("Relu", [net.conv("images", 3)])
    second = net.add("Relu", [net.add("Conv", [first, *net.nodes[0].input[1:]], pads=[1] * 4)])
    proto = net.proto(net.conv(second, 2, side=1))
    int8 = quantised(proto)
    convolutions = [node for node in int8.graph.node if node.op_type == "Conv"]
    assert convolutions[0].input[1] == convolutions[1].input[1]
    # the second is shifted for the codes of its Relu, the first is not
    assert convolutions[0].input[2] != convolutions[1].input[2]
    np.testing.assert_allclose(run(int8), run(proto), atol=0.05 * np.abs(run(proto)).max())


def test_nothing_that_is_read_no_more_stays_in_the_file() -> None:
    int8 = quantised(net_of(["fire", "clipped", "plain"]))
    read = {name for node in int8.graph.node for name in node.input}
    assert set(constants_of(int8)) <= read


def test_the_model_given_stays_as_it_is() -> None:
    proto = net_of(["fire", "clipped", "residual"])
    before = proto.SerializeToString()
    quantised(proto)
    assert proto.SerializeToString() == before


def test_the_same_recipe_gives_the_same_bytes() -> None:
    proto = net_of(["fire", "clipped", "residual"])
    assert quantised(proto).SerializeToString() == quantised(proto).SerializeToString()


def test_a_model_of_which_everything_is_kept_is_refused() -> None:
    proto = net_of(["plain"])
    with pytest.raises(ModelError, match="no convolutions to quantise, all of them are kept"):
        place(proto, keep=[node.name for node in proto.graph.node])


def test_a_tensor_that_is_always_zero_gives_zero() -> None:
    net = Net()
    for_ever = net.constant(np.full((6, 1, 1), -100.0))
    dead = net.add("Relu", [net.add("Add", [net.conv("images", 6), for_ever])])
    proto = net.proto(net.conv(dead, 4, side=1))
    np.testing.assert_allclose(run(quantised(proto)), run(proto), atol=1e-5)


def residual(*, main_first: bool) -> tuple[Any, str, str]:
    """A residual block: the model, its skip tensor, and the convolution of its sum."""
    net = Net()
    skip = net.add("Relu", [net.conv("images", 6)])
    main = net.conv(skip, 6)
    total = net.add("Add", [main, skip] if main_first else [skip, main])
    return net.proto(net.conv(net.add("Relu", [total]), 4)), skip, main.removesuffix(":out")


@pytest.mark.parametrize("main_first", [True, False])
def test_a_sum_without_an_int8_convolution_keeps_its_skip_in_float(main_first: bool) -> None:
    proto, skip, main = residual(main_first=main_first)
    add = next(number for number, node in enumerate(proto.graph.node) if node.op_type == "Add")
    convolution = next(number for number, node in enumerate(proto.graph.node) if node.name == main)
    assert place(proto).uses[skip] == [(convolution, 0), (add, int(main_first))]
    assert skip not in place(proto, keep=[main]).uses
    assert place(proto, skips=False).uses[skip] == [(convolution, 0)]
    loosened = quantised(proto, place(proto, skips=False))
    assert skip in next(node.input for node in loosened.graph.node if node.op_type == "Add")
    assert int8_share(loosened) == 1


def codes_of_unsigned_bytes(values: np.ndarray, step: float) -> np.ndarray:
    return np.clip(np.rint(np.maximum(values, 0) / step), 0, 255)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.int32, (2, 3, SIDE, SIDE), elements=st.integers(-400, 1400)), st.integers(0, 100))
def test_a_shifted_convolution_sees_the_256_codes_of_unsigned_bytes(quarters: np.ndarray, seed: int) -> None:
    # all numbers are whole quarters of a step of 1/8, so that nothing but the codes is rounded
    step, net = 1 / 8, Net(seed)
    same = net.add("Conv", ["images", net.constant(np.eye(3).reshape(3, 3, 1, 1))])
    output = net.conv(net.add("Relu", [same]), 4, side=1)
    proto = net.proto(output)
    weights, bias_c = (net.constants[name] for name in net.nodes[-1].input[1:])
    placement = place(proto, keep=["conv0"])
    int8 = quantise(proto, placement, {"relu1:out": 255 * step})
    assert int8_share(int8) == 0.5
    pictures = (quarters * (step / 4)).astype(np.float32)
    scale_o = np.abs(weights).reshape(4, -1).max(axis=1).astype(np.float64) / 127
    rounded = np.rint(weights[:, :, 0, 0] / scale_o[:, None]) * scale_o[:, None]
    expected = np.einsum("oc,nchw->nohw", rounded, codes_of_unsigned_bytes(pictures, step) * step)
    np.testing.assert_allclose(run(int8, pictures), expected + bias_c.reshape(1, -1, 1, 1), atol=2e-4)


def test_values_beyond_both_ends_of_the_codes_become_the_ends() -> None:
    net = Net()
    same = net.add("Conv", ["images", net.constant(np.eye(3).reshape(3, 3, 1, 1))])
    proto = net.proto(net.add("Conv", [net.add("Relu", [same]), net.constant(np.eye(3).reshape(3, 3, 1, 1))]))
    int8 = quantise(proto, place(proto, keep=["conv0"]), {"relu1:out": 25.5})
    pictures = np.zeros((1, 3, SIDE, SIDE), np.float32)
    pictures[0, 0, 0, :7] = [-1e6, -0.06, 0, 0.04, 25.44, 25.5, 1e6]
    np.testing.assert_allclose(run(int8, pictures)[0, 0, 0, :7], [0, 0, 0, 0, 25.4, 25.5, 25.5], atol=1e-4)


@pytest.mark.parametrize("reader", ["GlobalAveragePool", "Sigmoid", "padded"])
def test_a_relu_that_something_else_needs_stays(reader: str) -> None:
    net = Net()
    active = net.add("Relu", [net.conv("images", 6)])
    first = net.conv(active, 6, side=1)
    second = net.conv(active, 6) if reader == "padded" else net.add(reader, [active])
    proto = net.proto(net.add("Mul", [first, second]))
    int8 = quantised(proto)
    [relu] = [node for node in int8.graph.node if node.op_type == "Relu"]
    assert makers_of(int8)[f"{active}/codes"].input[0] == relu.output[0]
    assert np.abs(run(int8) - run(proto)).max() < 0.05 * np.abs(run(proto)).max()


def test_dead_channels_get_a_positive_scale_and_their_bias() -> None:
    net = Net()
    weights = np.zeros((2, 3, 1, 1))
    weights[0] = 1
    proto = net.proto(net.add("Conv", ["images", net.constant(weights), net.constant(np.array([0.0, 5.0]))]))
    int8 = quantise(proto, place(proto), {"images": 0.0})
    assert all((scale > 0).all() for name, scale in constants_of(int8).items() if name.endswith("/scale"))
    np.testing.assert_allclose(run(int8)[:, 1], 5)


def test_a_model_without_convolutions_is_refused() -> None:
    net = Net()
    with pytest.raises(ModelError, match=r"no convolutions to quantise$"):
        place(net.proto(net.add("Relu", ["images"])))


def test_the_share_of_a_float_model_is_0_and_so_is_that_of_no_convolutions() -> None:
    net = Net()
    assert int8_share(net_of(["plain"])) == int8_share(net.proto(net.add("Relu", ["images"]))) == 0


@pytest.fixture(scope="module")
def master(make_model: Callable[..., Model]) -> Any:
    return build_onnx(make_model(dim=6))


def pictures_of_master() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def int8_master(master: Any) -> Any:
    placement = place(master)
    statistics = measure_statistics(master, placement.tensors, lambda: [{"images": pictures_of_master()}])
    return quantise(master, placement, ranges_by(statistics, "max"))


def test_every_convolution_of_an_exported_model_is_int8_and_its_head_is_not(int8_master: Any) -> None:
    assert int8_share(int8_master) == 1
    makers = makers_of(int8_master)
    whitening = next(node for node in int8_master.graph.node if node.name == "whitening")
    assert all(makers[name].op_type != "DequantizeLinear" for name in whitening.input if name in makers)
    sums = [node for node in int8_master.graph.node if node.op_type == "Add" and "whitening" not in node.name]
    [kinds] = [sorted(makers[name].op_type for name in node.input) for node in sums]
    assert kinds == ["Conv", "DequantizeLinear"]


def test_the_codes_mean_the_weights_within_half_a_step(master: Any, int8_master: Any) -> None:
    before, after = constants_of(master), constants_of(int8_master)
    coded = [name.removesuffix("/codes") for name in after if name.endswith("/codes")]
    assert len(coded) == 3
    for name in coded:
        scale, codes = after[f"{name}/scale"].reshape(-1, 1, 1, 1), after[f"{name}/codes"]
        assert (codes.dtype, len(scale)) == (np.int8, len(codes))
        assert np.all(np.abs(codes * scale - before[name]) <= scale / 2 + 1e-7)


def test_the_int8_model_is_close_to_fp32_on_what_it_was_calibrated_on(master: Any, int8_master: Any) -> None:
    before, after = (run(proto, pictures_of_master()) for proto in (master, int8_master))
    assert np.sum(before * after, axis=1).min() > 0.98
