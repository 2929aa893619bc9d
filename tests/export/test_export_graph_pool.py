"""The bodies of the pooling operators, for fixed and for free sizes, against numpy to the bit."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from deepir.calib.onnx_file import open_session
from deepir.export.dynamic_pool import dynamic_pool_function
from deepir.export.pool_graph import DOMAIN, MEAN_OPERATOR, OPSET, pool_function
from deepir.graph_names import POOL_OPERATOR
from deepir.pooling import roi_pool
from deepir.regions import image_regions, region_windows

GRIDS = json.loads((Path(__file__).parents[1] / "data" / "rmac_image_grid.json").read_text())
POOLINGS = {POOL_OPERATOR: "max", MEAN_OPERATOR: "mean"}
CHANNELS = 3


def model(function: onnx.FunctionProto) -> onnx.ModelProto:
    """The function alone, all its dimensions free."""
    graph = helper.make_graph(
        [helper.make_node(function.name, ["x", "rois"], ["y"], domain=DOMAIN)],
        "pool",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS, "h", "w"]),
            helper.make_tensor_value_info("rois", TensorProto.INT32, ["r", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "r", CHANNELS])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: onnx.ModelProto, map_nchw: np.ndarray, windows: np.ndarray) -> np.ndarray:
    return open_session(proto).run(None, {"x": map_nchw, "rois": windows})[0]


DYNAMIC = {name: open_session(model(dynamic_pool_function(name))) for name in POOLINGS}


def run_dynamic(name: str, map_nchw: np.ndarray, windows: np.ndarray) -> np.ndarray:
    return DYNAMIC[name].run(None, {"x": map_nchw, "rois": windows})[0]


def random_map(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(height * 31 + width).normal(size=(count, CHANNELS, height, width)).astype(np.float32)


@st.composite
def maps_and_windows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A map, and windows within it, of which some are empty."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    row, column = st.integers(0, height), st.integers(0, width)
    windows = draw(st.lists(st.tuples(row, column, row, column), min_size=1, max_size=6))
    return random_map(height, width, draw(st.integers(1, 3))), np.array(windows, np.int32)


@settings(max_examples=40, deadline=None)
@given(maps_and_windows(), st.sampled_from(sorted(POOLINGS)))
def test_both_bodies_and_numpy_are_one_function_empty_windows_included(
    case: tuple[np.ndarray, np.ndarray], name: str
) -> None:
    map_nchw, windows = case
    expected = roi_pool(map_nchw, windows, POOLINGS[name])
    static = run(model(pool_function(name, windows, map_nchw.shape[2:])), map_nchw, windows)
    dynamic = run_dynamic(name, map_nchw, windows)
    if name == POOL_OPERATOR:
        np.testing.assert_array_equal(static, expected)
        np.testing.assert_array_equal(dynamic, expected)
    else:
        np.testing.assert_allclose(static, expected, atol=1e-5)
        np.testing.assert_allclose(dynamic, expected, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid['H']}x{grid['W']} L{grid['L']}")
def test_the_dynamic_body_equals_numpy_on_the_golden_windows_to_the_bit(grid: dict) -> None:
    windows = np.array(grid["bins_x0x1y0y1"], np.int32)[:, [2, 0, 3, 1]]
    map_nchw = random_map(*grid["caffe_fm"])
    np.testing.assert_array_equal(run_dynamic(POOL_OPERATOR, map_nchw, windows), roi_pool(map_nchw, windows))


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(128, 160), (96, 96), (64, 300), (480, 400)])
@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_the_static_body_equals_numpy_on_every_grid(name: str, size: tuple[int, int], levels: int) -> None:
    height, width = size[0] // 8, size[1] // 8
    windows = region_windows(image_regions(*size, levels), height, width, 8)
    map_nchw = random_map(height, width)
    found = run(model(pool_function(name, windows, (height, width))), map_nchw, windows)
    if name == POOL_OPERATOR:
        np.testing.assert_array_equal(found, roi_pool(map_nchw, windows))
    else:
        np.testing.assert_allclose(found, roi_pool(map_nchw, windows, "mean"), atol=1e-5)


def test_large_windows_are_pooled_by_rows_and_then_by_columns() -> None:
    windows = region_windows(image_regions(480, 400, 2), 60, 50, 8)
    kernels = [
        helper.get_attribute_value(attribute)
        for node in pool_function(POOL_OPERATOR, windows, (60, 50)).node
        for attribute in node.attribute
        if attribute.name == "kernel_shape"
    ]
    assert len(kernels) == 2 * len(np.unique(windows[:, 2:] - windows[:, :2], axis=0))
    assert all(1 in kernel for kernel in kernels)


def test_windows_may_end_and_even_begin_beyond_the_map() -> None:
    map_nchw = random_map(5, 6)
    windows = np.array([[0, 0, 9, 9], [3, 2, 40, 6], [5, 0, 7, 6], [0, 6, 5, 9]], np.int32)
    clipped = np.clip(windows, 0, [5, 6, 5, 6]).astype(np.int32)
    for name, pooling in POOLINGS.items():
        expected = roi_pool(map_nchw, clipped, pooling)
        np.testing.assert_allclose(run_dynamic(name, map_nchw, windows), expected, atol=1e-6)


def test_a_window_of_huge_negative_values_is_not_taken_for_an_empty_one() -> None:
    map_nchw = np.full((1, CHANNELS, 4, 4), -3e38, np.float32)
    windows = np.array([[1, 1, 3, 3], [2, 2, 2, 2]], np.int32)
    np.testing.assert_array_equal(run_dynamic(POOL_OPERATOR, map_nchw, windows), roi_pool(map_nchw, windows))


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_both_bodies_can_be_inlined(name: str) -> None:
    map_nchw = random_map(7, 9)
    windows = np.array([[0, 0, 7, 9], [2, 3, 2, 5], [1, 1, 4, 4]], np.int32)
    for function in (dynamic_pool_function(name), pool_function(name, windows, (7, 9))):
        inlined = inline_local_functions(model(function))
        assert not inlined.functions
        np.testing.assert_array_equal(run(inlined, map_nchw, windows), run(model(function), map_nchw, windows))


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_the_dynamic_body_computes_in_fp16_once_its_constants_are_fp16(name: str) -> None:
    proto = model(dynamic_pool_function(name))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    constants = [a.t for node in proto.functions[0].node for a in node.attribute if a.name == "value"]
    for tensor in (constant for constant in constants if constant.data_type == TensorProto.FLOAT):
        halves = np.clip(numpy_helper.to_array(tensor), -65504, 65504).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(halves))
    onnx.checker.check_model(proto, full_check=True)
    map_nchw = random_map(6, 8).astype(np.float16)
    windows = np.array([[0, 0, 6, 8], [2, 2, 2, 4], [1, 3, 5, 4]], np.int32)
    found = run(proto, map_nchw, windows)
    assert found.dtype == np.float16
    expected = roi_pool(map_nchw, windows, POOLINGS[name])
    np.testing.assert_allclose(found, expected, atol=0 if name == POOL_OPERATOR else 2e-3)


def test_no_operator_needs_more_than_opset_17_and_none_asks_for_the_type() -> None:
    for name in POOLINGS:
        operators = {node.op_type for node in dynamic_pool_function(name).node}
        assert not operators & {"CastLike", "Loop", "If", "NonZero"}
        assert all(onnx.defs.get_schema(operator, OPSET) for operator in operators)
