"""The torch network computes what the numpy reference computes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deepir.descriptors import combine_resolutions
from deepir.distill.backbone import build_trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.describe import describe, region_vectors
from deepir.distill.layers import RegionPool, WhiteningLayer, normalise, roi_max_pool
from deepir.distill.network import RMacNetwork
from deepir.errors import InputError, OptionError
from deepir.head import Head
from deepir.image import prepare, read_image
from deepir.pooling import rmac_tail, roi_pool
from deepir.pooling import roi_max_pool as reference_pool
from deepir.regions import image_regions, region_windows
from deepir.whitening import Whitening

GOLDEN = Path(__file__).parents[1] / "data" / "rmac_tail.json"
MakeModel = Callable[..., Model]


def golden_map() -> np.ndarray:
    c, y, x = np.mgrid[0:6, 0:6, 0:8].astype(np.float64)
    wave = np.maximum(0, np.sin(0.7 * c + 1.3 * y - 0.9 * x + 0.11 * c * y * x))
    return (wave * (1 + 0.1 * x + 0.07 * y * c))[None]


class GivenMap(torch.nn.Module):
    """A trunk that gives the golden map, whatever the picture."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(golden_map()).expand(len(images), -1, -1, -1)


def test_the_network_gives_the_golden_descriptor() -> None:
    i, j = np.mgrid[0:5, 0:6].astype(np.float64)
    weight = np.cos(0.5 * i * j + i) / np.sqrt(6)
    shift = -0.05 * (np.arange(6) + 1)
    network = RMacNetwork(GivenMap(), Head(), channels=(6,), strides=(32,)).double()
    network.master.whitening = WhiteningLayer.of(
        Whitening(weight, 0.01 * np.arange(5)), shift=torch.from_numpy(shift)
    ).double()
    with torch.no_grad():
        # the layer keeps FP32 parameters until it is made double
        network.master.whitening.weight.copy_(torch.from_numpy(weight))
    descriptor = network(torch.zeros(1, 3, 192, 256, dtype=torch.float64))[0].detach().numpy()
    np.testing.assert_allclose(descriptor, json.loads(GOLDEN.read_text())["rmac"], atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 200)])
def test_pooling_equals_the_reference_to_the_bit(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 5, size[0] // 8, size[1] // 8)).astype(np.float32)
    windows = region_windows(image_regions(*size, 3), size[0] // 8, size[1] // 8, 8)
    pooled = roi_max_pool(torch.from_numpy(maps), windows.tolist()).numpy()
    np.testing.assert_array_equal(pooled, reference_pool(maps, windows))


def test_an_empty_window_pools_to_zero() -> None:
    assert roi_max_pool(torch.ones(1, 2, 4, 4), [[2, 4, 2, 4]]).tolist() == [[[0.0, 0.0]]]


def test_a_vector_without_direction_gives_no_nan() -> None:
    assert torch.isfinite(normalise(torch.zeros(2, 4))).all()


def test_the_network_equals_the_numpy_tail(make_model: MakeModel, pictures: Path) -> None:
    model = make_model(dim=7)
    image = read_image(pictures / "tea" / "0.png")
    layer = model.network.whitening
    with torch.inference_mode():
        map_nchw = model.network.trunk(torch.from_numpy(prepare(image, model.spec))).numpy()
    windows = region_windows(image_regions(64, 64, 2), *map_nchw.shape[2:], 8)
    expected = rmac_tail(reference_pool(map_nchw, windows), layer.weight.detach().numpy(), layer.bias.detach().numpy())
    np.testing.assert_allclose(describe(model, [image]), expected, atol=1e-6)


def test_several_resolutions_are_the_sum_of_single_ones(make_model: MakeModel, pictures: Path) -> None:
    sizes = ((32, 32), (64, 64), (96, 96))
    images = [read_image(pictures / "tea" / "0.png"), read_image(pictures / "milk" / "1.png")]
    model = make_model(sizes=sizes, dim=5)
    singles = [describe(Model(model.network, model.spec.at_sizes((size,))), images) for size in sizes]
    np.testing.assert_allclose(describe(model, images), combine_resolutions(np.stack(singles)), atol=1e-6)


def test_pictures_of_mixed_aspect_equal_one_by_one(make_model: MakeModel) -> None:
    model = make_model(dim=5)
    model = Model(model.network, type(model.spec).from_json(model.spec.to_json().replace("stretch", "longest")))
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((100, 300, 3), (300, 100, 3), (80, 80, 3))]
    together = describe(model, images)
    np.testing.assert_allclose(together, np.concatenate([describe(model, [image]) for image in images]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_region_vectors_come_from_every_resolution(make_model: MakeModel, pictures: Path) -> None:
    model = make_model(sizes=((64, 64), (96, 64)))
    (regions,) = region_vectors(model, [read_image(pictures / "tea" / "0.png")])
    assert regions.shape == (5 + 8, 12)


def test_gradients_reach_trunk_and_whitening(make_model: MakeModel) -> None:
    network = make_model(dim=5).network
    network(torch.rand(2, 3, 64, 64))[:, 0].sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.whitening.parameters()
    )
    assert network.trunk.stem[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "channels"), [("timm:mobilenetv4_conv_small_050", 480), ("resnet10t", 512), ("torchvision:resnet18", 512)]
)
def test_a_trunk_by_name_gives_a_map_of_stride_32(name: str, channels: int) -> None:
    trunk = build_trunk(name)
    assert (trunk.channels, trunk.stride) == (channels, 32)
    assert trunk.module(torch.zeros(1, 3, 64, 96)).shape == (1, channels, 2, 3)


def test_a_trunk_carries_no_head() -> None:
    names = [name for name, _ in build_trunk("timm:mobilenetv4_conv_small_050").module.named_parameters()]
    assert not [name for name in names if "conv_head" in name or "classifier" in name]


def test_weights_of_the_library_fit_whatever_their_head(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    trunk = build_trunk("timm:resnet10t", weights=tmp_path / "weights.pth")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(trunk.module(images), model.eval().forward_features(images))


@pytest.mark.parametrize(
    "name", ["timm:nonsense", "torchvision:nonsense", "other:resnet18", "timm:vit_tiny_patch16_224"]
)
def test_an_impossible_trunk_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match=name.rpartition(":")[2]):
        build_trunk(name)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"does not fit .* tensors are missing"):
        build_trunk("timm:resnet10t", weights=tmp_path / "other.pth")


class Hostile:
    """Pickles into a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("pickled code ran",))


def test_weights_with_pickled_code_are_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(InputError, match="cannot read weights"):
        build_trunk("timm:resnet10t", weights=tmp_path / "hostile.pth")
    assert "ran" not in capsys.readouterr().out


def test_a_module_given_in_code_is_probed() -> None:
    trunk = wrap_module("plain", torch.nn.Conv2d(3, 4, 3, 4, 1))
    assert (trunk.name, trunk.channels, trunk.stride) == ("custom:plain", 4, 4)


def longest(model: Model) -> Model:
    return Model(model.network, dataclasses.replace(model.spec, resize="longest"))


def test_the_gradient_of_pooling_and_tail_is_right(make_model: MakeModel) -> None:
    network = make_model(dim=5).network.double()
    layer = network.whitening

    def descriptor(map_nchw: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        windows = region_windows(image_regions(48, 64, 2), 6, 8, 8).tolist()
        regions = normalise(roi_max_pool(map_nchw, windows))
        whitened = normalise(torch.nn.functional.linear(regions, weight, bias))
        return normalise(whitened.sum(dim=1))

    # values far apart, so that no maximum changes hands within the step of the finite differences
    values = torch.randperm(12 * 48, generator=torch.Generator().manual_seed(0)).double() / 100
    map_nchw = values.reshape(1, 12, 6, 8).requires_grad_()
    assert torch.autograd.gradcheck(descriptor, (map_nchw, layer.weight, layer.bias))


@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_other_poolings_equal_the_reference(pooling: str) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 5, 9, 16)).astype(np.float32)
    windows = region_windows(image_regions(72, 128, 2), 9, 16, 8)
    pooled = RegionPool(pooling)(torch.from_numpy(maps), windows.tolist()).detach().numpy()
    np.testing.assert_allclose(pooled, roi_pool(maps, windows, pooling), rtol=1e-5, atol=1e-6)


def test_the_power_of_the_generalised_mean_learns() -> None:
    pool = RegionPool("gem")
    pool(torch.rand(1, 3, 4, 4), [[0, 0, 4, 4]]).sum().backward()
    assert pool.power.grad.abs() > 0


def test_three_equal_resolutions_are_one(make_model: MakeModel, pictures: Path) -> None:
    model = make_model(dim=5)
    thrice = Model(model.network, model.spec.at_sizes(((64, 64),) * 3))
    image = read_image(pictures / "tea" / "0.png")
    np.testing.assert_allclose(describe(thrice, [image]), describe(model, [image]), atol=1e-6)


def test_the_teacher_of_three_branches_equals_three_runs(make_model: MakeModel) -> None:
    sizes = ((192, 256), (384, 512), (576, 768))
    model = make_model(sizes=sizes, dim=5)
    image = np.random.default_rng(0).integers(0, 256, (300, 417, 3), dtype=np.uint8)
    runs = [model.network(torch.from_numpy(prepare(image, model.spec, size))).detach().numpy() for size in sizes]
    expected = np.sum(runs, axis=0)
    np.testing.assert_allclose(describe(model, [image]), expected / np.linalg.norm(expected), atol=1e-6)


def test_the_largest_value_over_resolutions_can_be_taken(make_model: MakeModel, pictures: Path) -> None:
    model = make_model(sizes=((32, 32), (96, 96)), dim=5)
    largest = Model(model.network, dataclasses.replace(model.spec, head=Head(combine="max")))
    image = read_image(pictures / "tea" / "0.png")
    singles = [describe(Model(model.network, model.spec.at_sizes((size,))), [image]) for size in model.spec.sizes]
    expected = np.maximum(*singles)
    np.testing.assert_allclose(describe(largest, [image]), expected / np.linalg.norm(expected), atol=1e-6)


def test_a_projection_comes_after_the_resolutions_are_combined(make_model: MakeModel, pictures: Path) -> None:
    model = make_model(sizes=((32, 32), (96, 96)), dim=5)
    image = read_image(pictures / "tea" / "0.png")
    combined = describe(model, [image])
    weight = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    model.network.projection = WhiteningLayer.of(Whitening(weight, np.ones(4, dtype=np.float32)))
    projected = combined @ weight.T + 1
    np.testing.assert_allclose(describe(model, [image]), projected / np.linalg.norm(projected), atol=1e-6)


def test_a_box_is_described_as_its_crop_after_resizing(make_model: MakeModel) -> None:
    model = longest(make_model(dim=5))
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    resized = prepare(image, model.spec)
    expected = model.network(torch.from_numpy(np.ascontiguousarray(resized[:, :, 5:50, 10:60]))).detach().numpy()
    np.testing.assert_allclose(describe(model, [image], [(20, 10, 120, 100)]), expected, atol=1e-6)


def test_pictures_in_proportion_1_to_3_have_descriptors_of_length_1(make_model: MakeModel) -> None:
    model = longest(make_model(dim=5))
    images = [
        np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8) for shape in ((90, 270, 3), (270, 90, 3))
    ]
    np.testing.assert_allclose(np.linalg.norm(describe(model, images), axis=1), 1, atol=1e-6)


def caffe_side(side: int) -> int:
    """method.md 1.4: conv1, pool1 rounding up without padding, three strides of 1x1 convolutions."""
    pooled = -(-((side - 1) // 2 + 1 - 3) // 2) + 1
    for _ in range(3):
        pooled = (pooled - 1) // 2 + 1
    return pooled


@pytest.mark.parametrize("side", [224, 280, 450, 481, 482, 496])
@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_the_caffe_form_has_the_map_of_the_caffe_graph(network: str, side: int) -> None:
    module = build_trunk(f"caffe:{network}").module.eval()
    with torch.inference_mode():
        map_nchw = module(torch.zeros(1, 3, 64, side))
    assert map_nchw.shape[3] == caffe_side(side)
    assert (module.maxpool.padding, module.maxpool.ceil_mode) == (0, True)


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "resnet152"])
def test_both_forms_of_a_resnet_have_the_same_weights(network: str) -> None:
    caffe, torchvision = (build_trunk(f"{form}:{network}") for form in ("caffe", "torchvision"))
    shapes = [{key: value.shape for key, value in trunk.module.state_dict().items()} for trunk in (caffe, torchvision)]
    assert shapes[0] == shapes[1]
    strides = [
        (block.conv1.stride, block.conv2.stride) for block in (trunk.module.layer3[0] for trunk in (caffe, torchvision))
    ]
    expected = [((2, 2), (1, 1))] * 2 if network == "resnet18" else [((2, 2), (1, 1)), ((1, 1), (2, 2))]
    assert strides == expected


def test_the_last_convolution_of_vgg16_gives_14_by_14_at_224() -> None:
    trunk = build_trunk("torchvision:vgg16@28")
    with torch.inference_mode():
        map_nchw = trunk.module(torch.rand(1, 3, 224, 224))
    assert map_nchw.shape == (1, 512, 14, 14)
    # before its ReLU
    assert map_nchw.min() < 0


@pytest.mark.parametrize(
    ("name", "stages", "strides"),
    [
        ("timm:resnet10t", (3, 1), (16, 4, 32)),
        ("timm:resnet10t@3", (1, 2), (4, 8, 16)),
        ("torchvision:resnet18", (3, 1), (16, 4, 32)),
        ("torchvision:mobilenet_v2", (6, 3), (8, 4, 32)),
    ],
)
def test_middle_maps_come_in_the_order_of_their_stages(
    name: str, stages: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    trunk = build_trunk(name, middle=stages)
    maps = trunk.module(torch.zeros(1, 3, 128, 128))
    assert tuple(128 // map_nchw.shape[2] for map_nchw in maps) == strides
    assert (*(stride for _, stride in trunk.middle), trunk.stride) == strides
    assert maps[-1].shape == build_trunk(name).module(torch.zeros(1, 3, 128, 128)).shape


def test_the_map_of_a_middle_stage_is_that_of_the_trunk_that_ends_there() -> None:
    torch.manual_seed(0)
    both = build_trunk("torchvision:resnet18", middle=(3,))
    ended = build_trunk("torchvision:resnet18@3")
    ended.module.load_state_dict(both.module.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(both.module.eval()(images)[0], ended.module.eval()(images))


@pytest.mark.parametrize("name", ["torchvision:resnet18@7", "torchvision:vgg16@99", "timm:resnet10t@x"])
def test_a_stage_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"stage"):
        build_trunk(name)


@pytest.mark.parametrize("name", ["torchvision:vgg16@28", "torchvision:resnet18", "timm:resnet10t"])
def test_nothing_of_features_off_the_shelf_can_be_trained(name: str) -> None:
    model = new_model(build_trunk(name), sizes=((64, 64),), head=Head(pooling="gem", levels=0)).frozen()
    assert not [key for key, parameter in model.network.named_parameters() if parameter.requires_grad]
    assert not model.network.training
