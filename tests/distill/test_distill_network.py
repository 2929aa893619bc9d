"""The torch network computes what the numpy reference computes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deepir.descriptors import combine_resolutions
from deepir.distill.backbone import build_trunk, wrap_module
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe, region_vectors
from deepir.distill.network import RMacNetwork, normalise, roi_max_pool
from deepir.errors import InputError, OptionError
from deepir.image import prepare, read_image
from deepir.pooling import rmac_tail
from deepir.pooling import roi_max_pool as reference_pool
from deepir.regions import image_regions, region_windows

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
    layer = torch.nn.Linear(6, 5).double()
    weight = np.cos(0.5 * i * j + i) / np.sqrt(6)
    shift = -0.05 * (np.arange(6) + 1)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(weight @ shift + 0.01 * np.arange(5)))
    network = RMacNetwork(GivenMap(), stride=32, levels=2, whitening=layer)
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
