"""RoI max pooling and the R-MAC tail: golden vector, two independent implementations, and algebra."""

import json
from pathlib import Path

import numpy as np
import pytest

from deepir.errors import ShapeError
from deepir.pooling import FloatArray, caffe_roi_pooling, rmac_tail, roi_max_pool, roi_pool
from deepir.regions import Regions, image_regions, region_windows

DATA = Path(__file__).parents[1] / "data"
TAIL = json.loads((DATA / "rmac_tail.json").read_text())
GRIDS = json.loads((DATA / "rmac_image_grid.json").read_text())
STRIDE = 32
ODD_REGIONS: Regions = np.array(
    [[400, 0, 900, 100], [0, 0, 0, 0], [2000, 2000, 2100, 2100], [16, 48, 80, 112], [0, 300, 5000, 301]], dtype=np.int32
)


def golden_map() -> FloatArray:
    c, y, x = np.mgrid[0:6, 0:6, 0:8]
    values = np.maximum(0, np.sin(0.7 * c + 1.3 * y - 0.9 * x + 0.11 * c * y * x)) * (1 + 0.1 * x + 0.07 * y * c)
    return values[None].astype(np.float32)


def golden_whitening() -> tuple[FloatArray, FloatArray]:
    i, j = np.mgrid[0:5, 0:6]
    weight_dc = np.cos(0.5 * i * j + i) / np.sqrt(6)
    bias_d = weight_dc @ (-0.05 * (np.arange(6) + 1)) + 0.01 * np.arange(5)
    return weight_dc.astype(np.float32), bias_d.astype(np.float32)


def golden_pooled() -> FloatArray:
    return roi_max_pool(golden_map(), region_windows(image_regions(192, 256, 2), 6, 8, STRIDE))


def pooled_by_torchvision(map_nchw: FloatArray, regions: Regions, stride: int = STRIDE) -> FloatArray:
    torch = pytest.importorskip("torch")
    roi_pool = pytest.importorskip("torchvision").ops.roi_pool
    boxes = [torch.from_numpy(regions.astype(np.float32))] * len(map_nchw)
    pooled = roi_pool(torch.from_numpy(map_nchw), boxes, (1, 1), 1 / stride)
    return pooled.numpy().reshape(len(map_nchw), len(regions), -1)


def pooled_by_onnxruntime(map_nchw: FloatArray, regions: Regions, stride: int = STRIDE) -> FloatArray:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node(
        "MaxRoiPool", ["map", "regions"], ["pooled"], pooled_shape=[1, 1], spatial_scale=1 / stride
    )
    names = ("map", "regions", "pooled")
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    graph = onnx.helper.make_graph([node], "oracle", infos[:2], infos[2:])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [[number, *region] for number in range(len(map_nchw)) for region in regions.tolist()]
    (pooled,) = session.run(None, {"map": map_nchw, "regions": np.array(rows, dtype=np.float32)})
    return pooled.reshape(len(map_nchw), len(regions), -1)


@pytest.mark.parametrize("oracle", [pooled_by_torchvision, pooled_by_onnxruntime])
@pytest.mark.parametrize("case", GRIDS, ids=lambda case: f"{case['H']}x{case['W']}-L{case['L']}")
def test_pooling_on_the_grid_equals_an_independent_one_bit_for_bit(case: dict, oracle) -> None:
    regions = image_regions(case["H"], case["W"], case["L"])
    height, width = case["caffe_fm"]
    map_nchw = np.random.default_rng(3).standard_normal((2, 5, height, width), dtype=np.float32)
    pooled = roi_max_pool(map_nchw, region_windows(regions, height, width, STRIDE))
    np.testing.assert_array_equal(pooled, oracle(map_nchw, regions))


@pytest.mark.parametrize("oracle", [pooled_by_torchvision, pooled_by_onnxruntime])
def test_regions_over_the_edge_and_outside_are_pooled_as_others_do_bit_for_bit(oracle) -> None:
    map_nchw = -np.random.default_rng(4).random((2, 5, 19, 25), dtype=np.float32) - 1
    pooled = roi_max_pool(map_nchw, region_windows(ODD_REGIONS, 19, 25, STRIDE))
    np.testing.assert_array_equal(pooled, oracle(map_nchw, ODD_REGIONS))


def test_an_empty_window_pools_to_zero_even_where_all_values_are_negative() -> None:
    windows = np.array([[0, 5, 3, 5], [0, 0, 3, 3]], dtype=np.int32)
    pooled = roi_max_pool(np.full((1, 2, 5, 5), -7, dtype=np.float32), windows)
    assert pooled.tolist() == [[[0, 0], [-7, -7]]]


def test_pooled_values_equal_the_golden_ones() -> None:
    np.testing.assert_allclose(golden_pooled()[0], TAIL["pooled"], rtol=0, atol=1e-6)


def test_the_tail_equals_the_golden_descriptor() -> None:
    np.testing.assert_allclose(rmac_tail(golden_pooled(), *golden_whitening())[0], TAIL["rmac"], rtol=0, atol=1e-6)


def test_each_region_through_the_tail_alone_equals_the_golden_region() -> None:
    each_alone = golden_pooled().transpose(1, 0, 2)
    np.testing.assert_allclose(rmac_tail(each_alone, *golden_whitening()), TAIL["region_norm"], rtol=0, atol=1e-6)


def test_the_order_of_regions_does_not_change_the_descriptor() -> None:
    pooled_nrc, whitening = golden_pooled(), golden_whitening()
    shuffled = np.random.default_rng(0).permutation(pooled_nrc.shape[1])
    np.testing.assert_allclose(
        rmac_tail(pooled_nrc[:, shuffled], *whitening), rmac_tail(pooled_nrc, *whitening), atol=1e-6
    )


def test_similarity_is_the_sum_over_all_pairs_of_regions() -> None:
    pooled_nrc = np.random.default_rng(1).random((2, 8, 6), dtype=np.float32)
    whitening = golden_whitening()
    one, other = (rmac_tail(pooled_rc[:, None], *whitening) for pooled_rc in pooled_nrc)
    pairs, own_pairs, other_pairs = (one @ other.T).sum(), (one @ one.T).sum(), (other @ other.T).sum()
    descriptors_nd = rmac_tail(pooled_nrc, *whitening)
    assert descriptors_nd[0] @ descriptors_nd[1] == pytest.approx(pairs / np.sqrt(own_pairs * other_pairs), abs=1e-6)


def test_a_region_without_response_contributes_the_bias_alone() -> None:
    weight_dc, bias_d = golden_whitening()
    descriptor_nd = rmac_tail(np.zeros((1, 1, 6), dtype=np.float32), weight_dc, bias_d)
    np.testing.assert_allclose(descriptor_nd[0], bias_d / np.linalg.norm(bias_d), atol=1e-6)


@pytest.mark.parametrize("oracle", [pooled_by_torchvision, pooled_by_onnxruntime])
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_pooling_of_middle_layers_equals_an_independent_one_bit_for_bit(stride: int, oracle) -> None:
    map_nchw = np.random.default_rng(5).standard_normal((1, 3, 384 // stride, 500 // stride), dtype=np.float32)
    regions = image_regions(384, 500, 3)
    pooled = roi_max_pool(map_nchw, region_windows(regions, *map_nchw.shape[2:], stride))
    np.testing.assert_array_equal(pooled, oracle(map_nchw, regions, stride))


def test_each_row_of_the_caffe_layer_is_pooled_on_its_own_image() -> None:
    torch = pytest.importorskip("torch")
    roi_pooling = pytest.importorskip("torchvision").ops.roi_pool
    map_nchw = np.random.default_rng(6).standard_normal((3, 4, 12, 16), dtype=np.float32)
    rows = np.array([[2, 0, 0, 383, 383], [0, 128, 0, 511, 383], [1, 400, 16, 500, 100]], dtype=np.float32)
    expected = roi_pooling(torch.from_numpy(map_nchw), torch.from_numpy(rows), (1, 1), 1 / 32).numpy()
    np.testing.assert_array_equal(caffe_roi_pooling(map_nchw, rows, 32), expected.reshape(3, 4))


def test_no_rows_give_no_vectors() -> None:
    assert caffe_roi_pooling(golden_map(), np.zeros((0, 5), np.float32), 32).shape == (0, 6)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [([[0, 1, 2, 3]], r"regions \(R, 5\)"), ([[1, 0, 0, 9, 9]], "images 1 to 1 of a batch of 1")],
)
def test_rows_that_cannot_be_are_refused(rows: list[list[int]], sentence: str) -> None:
    with pytest.raises(ShapeError, match=sentence):
        caffe_roi_pooling(golden_map(), np.array(rows, dtype=np.float32), 32)


def one_row_map(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32).reshape(1, 1, 1, -1)


WHOLE = np.array([[0, 0, 1, 4]], dtype=np.int32)


def test_the_generalised_mean_of_0_1_2_3_with_power_3_is_2_080084() -> None:
    assert roi_pool(one_row_map(0, 1, 2, 3), WHOLE, "gem", 3.0).item() == pytest.approx(2.080084, abs=1e-6)


def test_the_generalised_mean_with_power_1_is_the_mean() -> None:
    map_nchw = np.random.default_rng(7).random((2, 3, 5, 6), dtype=np.float32)
    windows = region_windows(image_regions(40, 48, 2), 5, 6, 8)
    np.testing.assert_allclose(roi_pool(map_nchw, windows, "gem", 1.0), roi_pool(map_nchw, windows, "mean"), atol=1e-5)


def test_the_generalised_mean_with_a_large_power_approaches_the_maximum() -> None:
    assert roi_pool(one_row_map(0, 1, 2, 3), WHOLE, "gem", 40.0).item() == pytest.approx(3, rel=0.04)


def test_the_mean_is_that_of_the_cells_of_each_window() -> None:
    windows = np.array([[0, 0, 1, 2], [0, 2, 1, 4], [0, 3, 1, 3]], dtype=np.int32)
    assert roi_pool(one_row_map(0, 1, 2, 3), windows, "mean").reshape(-1).tolist() == [0.5, 2.5, 0.0]
