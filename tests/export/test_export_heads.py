"""Every head in ONNX: poolings, grids, fused middle layers and projections equal torch."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx.inliner import inline_local_functions

from deepir.calib.onnx_file import open_session
from deepir.calib.precision import to_fp16
from deepir.distill.backbone import Trunk
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.layers import WhiteningLayer
from deepir.distill.middle import choose_trained
from deepir.export.graph import build_onnx
from deepir.head import FUSIONS, Head
from deepir.whitening import Whitening

SIZE = (64, 96)
MakeModel = Callable[..., Model]


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3, *SIZE)).astype(np.float32)


def run(proto: onnx.ModelProto, images_nchw: np.ndarray) -> np.ndarray:
    return open_session(proto).run(None, {"images": images_nchw})[0]


def layer(channels: int, dim: int, seed: int) -> WhiteningLayer:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(dim, channels)), rng.normal(scale=0.1, size=dim)
    return WhiteningLayer.of(Whitening(weight.astype(np.float32), bias.astype(np.float32)))


@pytest.fixture
def make(staged_trunk: Callable[[int], Trunk]) -> Callable[..., Model]:
    """make(...) gives a model with this head, every layer of it filled."""

    def build(**head: object) -> Model:
        described = Head(**head)
        model = new_model(staged_trunk(len(described.middle)), sizes=(SIZE,), head=described)
        for number, branch in enumerate(model.network.branch_list):
            branch.whitening = layer(branch.channels, 9, number)
        if described.fusion == "pca-concat-pca":
            model.network.fuse = layer(model.network.dim, 8, 6)
        else:
            model.network.projection = layer(model.network.dim, 7, 5)
        model.network.eval()
        return model

    return build


def assert_equals_torch(model: Model) -> onnx.ModelProto:
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(images())).numpy()
    proto = build_onnx(model)
    np.testing.assert_allclose(run(proto, images()), expected, atol=1e-5)
    return proto


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("pooling", ["max", "mean", "gem"])
def test_each_pooling_equals_torch(make: MakeModel, pooling: str, levels: int) -> None:
    assert_equals_torch(make(pooling=pooling, levels=levels))


@pytest.mark.parametrize("grid", ["map", "map+whole"])
def test_a_grid_on_the_map_equals_torch(make: MakeModel, grid: str) -> None:
    assert_equals_torch(make(grid=grid, levels=2))


def test_a_learnt_power_becomes_a_constant(make: MakeModel) -> None:
    model = make(pooling="gem", levels=0, normalise_regions=False)
    with torch.no_grad():
        model.network.pools[0].power.fill_(2.37)
    proto = assert_equals_torch(model)
    (power,) = [value for value in proto.graph.initializer if value.name == "map_power"]
    assert onnx.numpy_helper.to_array(power) == np.float32(2.37)


@pytest.mark.parametrize("fusion", [fusion for fusion in FUSIONS if fusion != "none"])
def test_each_fusion_equals_torch(make: MakeModel, fusion: str) -> None:
    assert_equals_torch(make(fusion=fusion, middle=(2,)))


def test_each_map_has_a_pooling_of_its_own_in_the_order_of_the_layers(make: MakeModel) -> None:
    proto = assert_equals_torch(make(fusion="concat", middle=(2, 1)))
    assert [function.name for function in proto.functions] == ["RoIMaxPoolAt8", "RoIMaxPoolAt4", "RoIMaxPool"]


def test_the_relu_of_concat_pca_relu_is_in_the_deployed_graph(make: MakeModel) -> None:
    rectified = list(build_onnx(make(fusion="concat-pca-relu", middle=(2,))).graph.node)[-20:]
    plain = list(build_onnx(make(fusion="concat-pca", middle=(2,))).graph.node)[-20:]
    assert "Relu" in {node.op_type for node in rectified}
    assert "Relu" not in {node.op_type for node in plain}


def test_a_shift_of_its_own_is_folded_into_the_whitening(make: MakeModel) -> None:
    model = make()
    choose_trained(model.network, "head")
    with torch.no_grad():
        model.network.whitening.shift.normal_()
        model.network.whitening.scale.uniform_(0.5, 2)
    assert_equals_torch(model)


@pytest.mark.parametrize(
    "head",
    [
        {"fusion": "concat", "middle": (2,)},
        {"pooling": "gem", "levels": 0},
        {"fusion": "fpn", "middle": (2,), "pooling": "gem", "levels": 0},
    ],
)
def test_the_fp16_form_is_close_and_pools_gem_in_fp32(make: MakeModel, head: dict) -> None:
    proto = build_onnx(make(**head))
    half = to_fp16(proto)
    assert np.sum(run(half, images()) * run(proto, images()), axis=1).min() > 0.999
    powers = [value for value in half.graph.initializer if value.name == "map_power"]
    assert all(value.data_type == onnx.TensorProto.FLOAT for value in powers)


def test_the_functions_of_several_maps_can_be_inlined(make: MakeModel) -> None:
    proto = build_onnx(make(fusion="concat", middle=(2, 1)))
    inlined = inline_local_functions(proto)
    assert not inlined.functions
    np.testing.assert_array_equal(run(proto, images()), run(inlined, images()))
