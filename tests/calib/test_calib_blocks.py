"""Blocks: what belongs together in the trunks that people use, read from the structure of the graph."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepir.calib.blocks import find_blocks
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import new_model
from deepir.errors import ModelError
from deepir.export.graph import build_onnx

CHANNELS = 4


class Graph:
    """Writes a graph node by node; each method gives the name of the tensor that it makes."""

    def __init__(self, mark: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.mark = mark

    def conv(
        self, name: str, source: str, kernel: int = 3, *, group: int = 1, weight: str = "", relu: bool = True
    ) -> str:
        weight = weight or f"{name}.weight"
        self.weights[weight] = np.zeros((CHANNELS, CHANNELS // group, kernel, kernel), np.float32)
        inputs, output = [source, weight], f"{name}{self.mark}:out"
        pads = [kernel // 2] * 4
        self.nodes.append(helper.make_node("Conv", inputs, [output], f"{name}{self.mark}", group=group, pads=pads))
        return self.node("Relu", output) if relu else output

    def node(self, operator: str, *sources: str, **attributes: object) -> str:
        output = f"{operator}{len(self.nodes)}{self.mark}:out"
        self.nodes.append(helper.make_node(operator, sources, [output], **attributes))
        return output

    def depthwise(self, name: str, source: str) -> str:
        return self.conv(name, source, group=CHANNELS)

    def residual(self, name: str, source: str, *, downsample: bool = False) -> str:
        main = self.conv(f"{name}.conv2", self.conv(f"{name}.conv1", source), relu=False)
        skip = self.conv(f"{name}.downsample", source, 1, relu=False) if downsample else source
        return self.node("Relu", self.node("Add", main, skip))

    def inverted(self, name: str, source: str) -> str:
        middle = self.depthwise(f"{name}.depthwise", self.conv(f"{name}.expand", source, 1))
        return self.conv(f"{name}.project", middle, 1, relu=False)

    def gated(self, name: str, source: str) -> str:
        squeezed = self.conv(f"{name}.reduce", self.node("GlobalAveragePool", source), 1)
        gate = self.node("Sigmoid", self.conv(f"{name}.expand", squeezed, 1, relu=False))
        return self.node("Mul", source, gate)

    def proto(self, *others: "Graph") -> onnx.ModelProto:
        parts = [self, *others]
        images = [
            helper.make_tensor_value_info(f"images{part.mark}", TensorProto.FLOAT, ["batch", CHANNELS, 32, 32])
            for part in parts
        ]
        weights = {name: values for part in parts for name, values in part.weights.items()}
        constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
        nodes = [node for part in parts for node in part.nodes]
        return helper.make_model(helper.make_graph(nodes, "test", images, [], constants))


def names(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """The blocks by name; their convolutions without what the block's name says already."""
    return {
        block.name: [name.removeprefix(f"{block.name}.") for name in block.convolutions] for block in find_blocks(proto)
    }


def test_residual_blocks_end_with_their_sums_and_the_stem_is_its_own() -> None:
    graph = Graph()
    stem = graph.node("MaxPool", graph.conv("conv1", "images"), kernel_shape=[2, 2])
    graph.residual("layer1.1", graph.residual("layer1.0", stem, downsample=True))
    assert names(graph.proto()) == {
        "conv1": ["conv1"],
        "layer1.0": ["conv1", "conv2", "downsample"],
        "layer1.1": ["conv1", "conv2"],
    }


def test_residual_blocks_whose_sums_feed_each_other_are_told_apart() -> None:
    graph = Graph()
    last = graph.conv("stem", "images")
    for number in range(3):
        activated = graph.node("Relu", last)
        main = graph.conv(f"unit.{number}.b", graph.conv(f"unit.{number}.a", activated), relu=False)
        last = graph.node("Add", main, last)
    assert names(graph.proto()) == {"stem": ["stem"], **{f"unit.{number}": ["a", "b"] for number in range(3)}}


def test_inverted_residuals_are_blocks_with_a_sum_and_without() -> None:
    graph = Graph()
    first = graph.conv("f.1.project", graph.depthwise("f.1.depthwise", graph.conv("f.0", "images")), 1, relu=False)
    second = graph.inverted("f.2", first)
    third = graph.node("Add", graph.inverted("f.3", second), second)
    graph.conv("f.5", graph.inverted("f.4", third), 1)
    whole = ["expand", "depthwise", "project"]
    assert names(graph.proto()) == {
        "f.0": ["f.0"],
        "f.1": ["depthwise", "project"],
        "f.2": whole,
        "f.3": whole,
        "f.4": whole,
        "f.5": ["f.5"],
    }


def test_depthwise_and_pointwise_pairs_in_a_row_are_pairs() -> None:
    graph = Graph()
    last = graph.conv("stem", "images")
    for number in range(3):
        last = graph.conv(f"pair{number}.point", graph.depthwise(f"pair{number}.depth", last), 1)
    assert names(graph.proto()) == {"stem": ["stem"], **{f"pair{number}": ["depth", "point"] for number in range(3)}}


def test_a_fire_module_has_its_squeeze() -> None:
    graph = Graph()
    last = graph.conv("stem", "images")
    for number in range(2):
        squeezed = graph.conv(f"fire{number}.squeeze", last, 1)
        wide, narrow = graph.conv(f"fire{number}.e3", squeezed), graph.conv(f"fire{number}.e1", squeezed, 1)
        last = graph.node("Concat", narrow, wide, axis=1)
    fire = ["squeeze", "e3", "e1"]
    assert names(graph.proto()) == {"stem": ["stem"], "fire0": fire, "fire1": fire}


def test_a_concatenation_within_a_module_is_part_of_it() -> None:
    graph = Graph()
    source = graph.node("MaxPool", graph.conv("stem", "images"), kernel_shape=[2, 2])
    first = graph.conv("mixed.b1", source, 1)
    inner = graph.node("Concat", graph.conv("mixed.b2", first), graph.conv("mixed.b3", first), axis=1)
    graph.node("Concat", inner, graph.conv("mixed.b4", source), axis=1)
    assert names(graph.proto()) == {"stem": ["stem"], "mixed": ["b1", "b2", "b3", "b4"]}


def test_dense_layers_do_not_swallow_those_before_them() -> None:
    graph = Graph()
    maps = [graph.conv("stem", "images")]
    for number in range(3):
        joined = graph.node("Concat", *maps, axis=1) if number else maps[0]
        maps.append(graph.conv(f"layer{number}", joined))
    graph.node("Concat", *maps, axis=1)
    assert list(names(graph.proto())) == ["stem", "layer0", "layer1", "layer2"]


def test_a_depthwise_convolution_takes_nothing_from_before_a_sum() -> None:
    graph = Graph()
    source = graph.conv("stem", "images")
    total = graph.node("Add", graph.conv("both.p", source, 1), graph.conv("both.q", source, 1))
    graph.depthwise("after", total)
    assert names(graph.proto()) == {"stem": ["stem"], "both": ["p", "q"], "after": ["after"]}


def test_convolutions_in_a_row_are_blocks_of_one() -> None:
    graph = Graph()
    graph.conv("features.4", graph.conv("features.2", graph.conv("features.0", "images")), 1)
    assert list(names(graph.proto())) == ["features.0", "features.2", "features.4"]


def test_a_gate_belongs_to_the_map_that_it_gates() -> None:
    graph = Graph()
    first = graph.gated("a.se", graph.depthwise("a.depth", graph.conv("stem", "images")))
    graph.conv("a.point", first, 1, relu=False)
    assert names(graph.proto()) == {"stem": ["stem"], "a": ["depth", "se.reduce", "se.expand", "point"]}


def test_a_swish_is_no_gate() -> None:
    graph = Graph()
    first = graph.conv("first", "images", relu=False)
    graph.conv("second", graph.node("Mul", first, graph.node("Sigmoid", first)))
    assert list(names(graph.proto())) == ["first", "second"]


def test_a_feature_pyramid_does_not_make_its_stage_one_block() -> None:
    graph = Graph()
    low = graph.residual("layer3", graph.conv("stem", "images"))
    high = graph.conv("layer4", low)
    upsampled = graph.node("Resize", graph.conv("fpn.high", high, 1, relu=False))
    graph.conv("fpn.out", graph.node("Add", upsampled, graph.conv("fpn.low", low, 1, relu=False)))
    assert names(graph.proto()) == {
        "stem": ["stem"],
        "layer3": ["conv1", "conv2"],
        **{name: [name] for name in ("layer4", "fpn.high", "fpn.low", "fpn.out")},
    }


def test_a_stage_of_several_blocks_beside_a_shortcut_is_no_block() -> None:
    graph = Graph()
    source = graph.conv("stem", "images")
    deep = graph.residual("b.1", graph.residual("b.0", graph.conv("deep", source)))
    graph.node("Concat", deep, graph.conv("shallow", source, 1), axis=1)
    assert set(names(graph.proto())) == {"stem", "deep", "b.0", "b.1", "shallow"}


def test_the_resolutions_of_a_graph_share_their_blocks() -> None:
    graphs = [Graph("@0"), Graph("@1")]
    for graph in graphs:
        graph.residual("layer1", graph.conv("stem", f"images{graph.mark}"))
    assert {block.name: block.convolutions for block in find_blocks(graphs[0].proto(graphs[1]))} == {
        "stem": ("stem@0", "stem@1"),
        "layer1": ("layer1.conv1@0", "layer1.conv2@0", "layer1.conv1@1", "layer1.conv2@1"),
    }


def test_convolutions_that_share_weights_stay_together() -> None:
    graph = Graph()
    graph.conv("b", graph.conv("middle", graph.conv("a", "images", weight="w")), weight="w")
    assert [block.convolutions for block in find_blocks(graph.proto())] == [("a", "b"), ("middle",)]


def test_blocks_whose_names_have_nothing_of_their_own_in_common_are_named_after_their_first() -> None:
    graph = Graph()
    last = graph.conv("stem", "images")
    for one, other in (("same.a", "same.b"), ("same.c", "same.d"), ("x", "y"), ("u.p", "u.q")):
        last = graph.node("Add", graph.conv(other, graph.conv(one, last), relu=False), last)
    assert [block.name for block in find_blocks(graph.proto())] == ["stem", "same.a", "same.c", "x", "u"]


@pytest.mark.parametrize(
    ("found", "words"),
    [([], "no convolutions"), (["a", "a"], "2 convolutions of this model have the name 'a'"), ([""], "1 .* name ''")],
)
def test_a_graph_whose_convolutions_cannot_be_named_is_refused(found: list[str], words: str) -> None:
    graph = Graph()
    for name in found:
        graph.conv(name, "images")
    with pytest.raises(ModelError, match=words):
        find_blocks(graph.proto())


STEPS = st.tuples(
    st.sampled_from(["conv", "point", "depth", "add", "concat", "mul", "relu"]), st.integers(), st.integers()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_every_convolution_of_any_graph_is_in_exactly_one_block_and_every_name_is_once(
    steps: list[tuple[str, int, int]],
) -> None:
    graph = Graph()
    tensors = [graph.conv("stem", "images")]
    for number, (kind, one, other) in enumerate(steps):
        first, second = tensors[one % len(tensors)], tensors[other % len(tensors)]
        if kind in ("conv", "point", "depth"):
            kernel, group = 1 if kind == "point" else 3, CHANNELS if kind == "depth" else 1
            tensors.append(graph.conv(f"a{one % 3}.c{number}", first, kernel, group=group, relu=bool(other % 2)))
        elif kind == "relu":
            tensors.append(graph.node("Relu", first))
        else:
            tensors.append(graph.node(kind.title(), first, second, **({"axis": 1} if kind == "concat" else {})))
    blocks = find_blocks(graph.proto())
    convolutions = [node.name for node in graph.nodes if node.op_type == "Conv"]
    found = [name for block in blocks for name in block.convolutions]
    assert sorted(found) == sorted(convolutions)
    assert len({block.name for block in blocks}) == len(blocks)
    firsts = [convolutions.index(block.convolutions[0]) for block in blocks]
    assert firsts == sorted(firsts)


def test_the_first_blocks_of_a_real_mobilenet_are_its_inverted_residuals() -> None:
    proto = build_onnx(new_model(build_trunk("torchvision:mobilenet_v2@4"), sizes=((64, 64),)))
    assert [len(block.convolutions) for block in find_blocks(proto)] == [1, 2, 3, 3, 3]
