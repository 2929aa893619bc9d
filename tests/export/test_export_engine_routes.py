"""The two forms of a file for TensorRT, and where its head begins: on one map, on several, on averages."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepir.calib.onnx_file import open_session
from deepir.distill.backbone import Trunk
from deepir.distill.checkpoint import new_model
from deepir.export.engine_head import head_border, head_layers
from deepir.export.graph import build_onnx
from deepir.export.routes import native_form, plugin_form
from deepir.head import Head

SIZE = (64, 96)
SEVERAL = Head(fusion="pca-concat-pca", middle=(2,))
GEM = Head(pooling="gem", levels=0, normalise_regions=False)
MEAN = Head(pooling="mean", levels=2)


def operators(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.fixture(scope="module")
def master(staged_trunk: Callable[[int], Trunk]) -> Callable[[Head], Any]:
    """The ONNX file of a model with a head."""

    @functools.cache
    def build(head: Head) -> Any:
        return build_onnx(new_model(staged_trunk(len(head.middle)), sizes=(SIZE,), head=head))

    return build


@pytest.mark.parametrize("head", [Head(), SEVERAL, GEM, MEAN], ids=["one map", "two maps", "gem", "mean"])
def test_the_native_form_has_no_function_left_and_computes_the_same(master: Callable[[Head], Any], head: Head) -> None:
    proto = master(head)
    native = native_form(proto)
    assert not native.functions
    assert not any(name.startswith("RoI") for name in operators(native))
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    before, after = (open_session(form).run(None, {"images": images})[0] for form in (proto, native))
    np.testing.assert_array_equal(before, after)


def test_the_plugin_form_of_two_maps_has_one_operator_for_both(master: Callable[[Head], Any]) -> None:
    proto = master(SEVERAL)
    assert {name for name in operators(proto) if name.startswith("RoI")} == {"RoIMaxPool", "RoIMaxPoolAt8"}
    bare = plugin_form(proto)
    assert not bare.functions
    pools = [node for node in bare.graph.node if node.op_type == "RoIMaxPool"]
    assert [(node.domain, len(node.input), len(node.attribute)) for node in pools] == [("deepir", 2, 0)] * 2
    assert not any(name.startswith("RoIMaxPoolAt") for name in operators(bare))


def test_the_plugin_form_leaves_averages_to_standard_operators(master: Callable[[Head], Any]) -> None:
    assert not any(name.startswith("RoI") for name in operators(plugin_form(master(MEAN))))


def test_the_file_itself_is_left_as_it_was(master: Callable[[Head], Any]) -> None:
    proto = master(SEVERAL)
    before = proto.SerializeToString(deterministic=True)
    native_form(proto)
    plugin_form(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_the_border_of_a_max_pool_lies_after_it(master: Callable[[Head], Any]) -> None:
    border = head_border(master(SEVERAL))
    assert sorted(border["regions"]) == ["regions", "regions_0"]
    assert border["maps"] == []
    assert sorted(border["max_pools"]) == ["roi_max_pool", "roi_max_pool_0"]


@pytest.mark.parametrize("head", [GEM, MEAN], ids=["gem", "mean"])
def test_the_border_of_an_average_lies_before_its_powers(master: Callable[[Head], Any], head: Head) -> None:
    border = head_border(master(head))
    assert (border["regions"], border["maps"], border["max_pools"]) == (
        ["regions_mean" if head is GEM else "regions"],
        ["map"],
        [],
    )


@pytest.mark.rtx
@pytest.mark.parametrize("head", [Head(), SEVERAL, GEM, MEAN], ids=["one map", "two maps", "gem", "mean"])
def test_the_head_is_found_in_the_network_that_the_real_parser_makes(master: Callable[[Head], Any], head: Head) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
    proto = master(head)
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(native_form(proto).SerializeToString())
    found = head_layers(network, head_border(proto))
    kinds = {layer.type for layer in found}
    assert trt.LayerType.CONVOLUTION not in kinds
    names = {layer.name for layer in found}
    nodes = [node for node in proto.graph.node if node.domain != "deepir"]
    first = min(number for number, node in enumerate(nodes) if "regions" in node.name or "floored" in node.name)
    # every node after the pooling, and none of the trunk before the last map
    assert {node.name for node in nodes[first:]} <= names
    assert not names & {node.name for node in nodes if node.op_type in ("Conv", "Relu")}
    pooled = {layer.type for layer in found if layer.type == trt.LayerType.POOLING}
    assert bool(pooled) == (head.pooling != "max")
