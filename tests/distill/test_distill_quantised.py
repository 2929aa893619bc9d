"""Fake quantisation rounds what the Q/DQ file rounds, lets gradients through, and leaves no trace in the weights."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepir.calib.derive import plain_int8
from deepir.calib.onnx_file import open_session
from deepir.calib.quantise import place
from deepir.distill.backbone import wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.quantised import FakeQuantised, fake_quantised
from deepir.distill.quantised_pass import rounded_weight
from deepir.errors import InputError, ModelError, ShapeError
from deepir.export.graph import build_onnx
from deepir.head import Head
from deepir.whitening import Whitening

MakeModel = Callable[..., Model]
SIDE = 64


def images(count: int = 8, seed: int = 3) -> torch.Tensor:
    """Smooth random pictures, prepared."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=rng)
    return nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")


def unit(inputs: int, outputs: int, side: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Blocks(nn.Module):
    """What trunks are made of: bottlenecks, a projected skip, an inverted residual, a pre-activation sum."""

    def __init__(self, *, before_norm: bool = False) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.stem = unit(3, 8, stride=2)
        self.inner = nn.Sequential(unit(8, 8, 1), nn.ReLU(inplace=True), unit(8, 12, 3, 2))
        self.shortcut = unit(8, 12, 1, 2)
        self.bottleneck = nn.Sequential(unit(12, 6, 1), nn.ReLU(), unit(6, 6), nn.ReLU(), unit(6, 12, 1))
        self.inverted = nn.Sequential(unit(12, 24, 1), nn.ReLU6(), unit(24, 24, groups=24), nn.ReLU6(), unit(24, 12, 1))
        self.before = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1))
        self.again = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1))
        self.before_norm = before_norm

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        maps = nn.functional.max_pool2d(self.relu(self.stem(images_nchw)), 2)
        inner = self.inner(maps)
        inner += self.shortcut(maps)
        maps = self.relu(inner)
        maps = self.relu(torch.add(self.bottleneck(maps), maps))
        maps = maps + self.inverted(maps)
        if self.before_norm:
            maps = maps + self.before(maps)
            maps = maps + self.again(maps)
        return nn.functional.relu6(maps)


def trained_like(module: nn.Module) -> None:
    """Statistics and factors such as training leaves behind."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, -0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)


def blocks_model(*, seed: int = 0, **options: bool) -> Model:
    torch.manual_seed(seed)
    trunk = Blocks(**options)
    trained_like(trunk)
    model = new_model(wrap_module("blocks", trunk), sizes=((SIDE, SIDE),))
    rng = np.random.default_rng(seed)
    model.network.whiten_with(Whitening(rng.normal(size=(8, 12)).astype(np.float32), np.zeros(8, np.float32)))
    model.network.eval()
    return model.sealed()


def int8_of(master: Any, pictures: torch.Tensor) -> Any:
    return plain_int8(master, lambda: [{"images": pictures.numpy()}])


def run(proto: Any, pictures: torch.Tensor) -> np.ndarray:
    return open_session(proto).run(None, {"images": pictures.numpy()})[0]


def describe(model: Model, pictures: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.network(pictures).float().numpy()


def distance(first_nd: np.ndarray, second_nd: np.ndarray) -> float:
    """1 - the mean cosine."""
    return float(1 - (first_nd.astype(np.float64) * second_nd).sum(axis=1).mean())


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def model(request: pytest.FixtureRequest) -> Model:
    return blocks_model(before_norm=request.param)


@pytest.fixture(scope="module")
def master(model: Model) -> Any:
    """The FP32 file of the model."""
    return build_onnx(model)


@pytest.fixture(scope="module")
def int8(master: Any) -> Any:
    """The INT8 file of the model."""
    return int8_of(master, images())


@pytest.fixture
def quantised(model: Model) -> Iterator[FakeQuantised]:
    found = fake_quantised(model.network, calibration=[images()])
    yield found
    found.detach()


def test_descriptors_are_those_of_the_int8_file(model: Model, int8: Any, quantised: FakeQuantised) -> None:
    of_file, exact = run(int8, images()), describe(model, images())
    with quantised:
        fake = describe(model, images())
    assert distance(fake, of_file) < 1e-4
    # far nearer to the file than the float network is: what is left are values that lie on the edge of two codes
    assert distance(fake, of_file) < 0.1 * distance(exact, of_file)


def test_as_many_tensors_are_rounded_as_in_the_int8_file_and_as_many_use_all_codes(
    master: Any, int8: Any, quantised: FakeQuantised
) -> None:
    shifted = sum(name.endswith("/shifted") for node in int8.graph.node for name in node.output)
    ranges = [one for one in quantised.state_dict()["ranges"] if one["placed"]]
    assert len(ranges) == len(place(master).tensors)
    assert sum(one["full"] for one in ranges) == shifted > 0


def test_middle_maps_that_a_pyramid_refines_are_rounded_too(staged_trunk: Callable) -> None:
    torch.manual_seed(0)
    pyramid = new_model(staged_trunk(1), sizes=((SIDE, SIDE),), head=Head(fusion="fpn", middle=(3,), pooling="gem"))
    pyramid.network.eval()
    pyramid = pyramid.sealed()
    file = build_onnx(pyramid)
    of_file, exact = run(int8_of(file, images()), images()), describe(pyramid, images())
    with fake_quantised(pyramid.network, calibration=[images()]) as quantised:
        fake = describe(pyramid, images())
    placed = [one for one in quantised.state_dict()["ranges"] if one["placed"]]
    assert len(placed) == len(place(file).tensors)
    assert distance(fake, of_file) < 0.1 * distance(exact, of_file)


def test_the_state_dict_is_the_same_before_during_and_after(model: Model, quantised: FakeQuantised) -> None:
    before = copy.deepcopy(model.network.state_dict())
    exact = describe(model, images())
    with quantised:
        during = model.network.state_dict()
        rounded = describe(model, images())
    after = model.network.state_dict()
    for state in (during, after):
        assert list(state) == list(before)
        assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert not np.array_equal(rounded, exact)
    np.testing.assert_array_equal(describe(model, images()), exact)


def test_nothing_is_left_attached_after_an_error(model: Model, quantised: FakeQuantised) -> None:
    exact = describe(model, images())
    with pytest.raises(RuntimeError), quantised:
        model.network(torch.zeros(1, 4, SIDE, SIDE))
    np.testing.assert_array_equal(describe(model, images()), exact)


class OneConvolution(nn.Module):
    """A convolution of two channels, so that gradients can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(images_nchw)
        return out


def test_gradients_pass_straight_through_the_rounding_but_not_beyond_the_range() -> None:
    torch.manual_seed(0)
    network = new_model(wrap_module("one", OneConvolution()), sizes=((SIDE, SIDE),)).network.eval()
    weight = network.trunk.conv.weight
    pictures = images(2)
    with fake_quantised(network, calibration=[pictures]):
        doubled = (2 * pictures).requires_grad_(True)
        out = network.trunk(doubled)
        out.sum().backward()
    largest = pictures.abs().max()
    step = largest / 127
    rounded = (doubled.detach() / step).round().clamp(-128, 127) * step
    scale = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    codes = (weight.detach() / scale).round()
    np.testing.assert_allclose(out.detach(), nn.functional.conv2d(rounded, codes * scale), atol=1e-5)
    assert codes.abs().amax(dim=(1, 2, 3)).tolist() == [127, 127]
    # of the weights: as if nothing had been rounded but the input
    expected = rounded.sum(dim=(0, 2, 3)).expand(2, 3)
    np.testing.assert_allclose(weight.grad.flatten(1), expected, rtol=1e-4)
    within = (doubled.detach().abs() <= 127.4 * step).float()
    inner = (codes * scale).sum(dim=0).flatten()
    np.testing.assert_allclose(doubled.grad * within, inner.view(1, 3, 1, 1) * within, atol=1e-6)
    assert not doubled.grad[doubled.detach().abs() > 129 * step].any()


def test_folding_a_batch_norm_changes_no_code() -> None:
    torch.manual_seed(0)
    weight, factor = torch.randn(4, 3, 3, 3), torch.tensor([0.01, -2.0, 1.0, 300.0]).view(4, 1, 1, 1)
    torch.testing.assert_close(rounded_weight(weight * factor), rounded_weight(weight) * factor)
    # a channel of zeros has no range of its own
    assert not rounded_weight(torch.zeros(1, 3, 3, 3)).any()


def test_training_with_fake_quantisation_brings_the_int8_file_nearer_to_the_teacher() -> None:
    student = blocks_model(seed=1)
    narrow, _, middle, *_ = student.network.trunk.bottleneck
    with torch.no_grad():
        # the same function in float, but one channel takes nearly all codes of its tensor
        for parameter in (narrow[1].weight, narrow[1].bias):
            parameter[5] *= 40
        middle[0].weight[:, 5] /= 40
    pictures = images(16)
    targets = torch.from_numpy(describe(student, pictures))
    before = distance(run(int8_of(build_onnx(student), pictures), pictures), targets.numpy())
    # small steps: the weights of the channel that was divided are small, too
    optimiser = torch.optim.Adam(student.network.trunk.parameters(), lr=3e-5)
    with fake_quantised(student.network, calibration=[pictures]):
        for _ in range(120):
            optimiser.zero_grad()
            (1 - (student.network(pictures) * targets).sum(dim=1)).mean().backward()
            optimiser.step()
    after = distance(run(int8_of(build_onnx(student), pictures), pictures), targets.numpy())
    assert after < 0.5 * before


def test_ranges_are_frozen_and_travel_with_a_resumed_training(model: Model, quantised: FakeQuantised) -> None:
    again = fake_quantised(model.network)
    again.load_state_dict(quantised.state_dict())
    with quantised:
        expected = describe(model, 3 * images())
    with again:
        np.testing.assert_array_equal(describe(model, 3 * images()), expected)
    assert again.state_dict() == quantised.state_dict()


def test_calibration_takes_the_largest_of_all_batches(model: Model) -> None:
    parts = fake_quantised(model.network, calibration=[images()[:3], images()[3:]])
    assert parts.state_dict() == fake_quantised(model.network, calibration=[images()]).state_dict()


def test_calibration_leaves_modes_and_statistics_as_they_were() -> None:
    network = blocks_model().network.train()
    network.trunk.stem.eval()
    before = copy.deepcopy(network.state_dict())
    fake_quantised(network, calibration=[images()])
    assert network.trunk.training
    assert not network.trunk.stem[1].training
    assert network.trunk.inner[0].training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_under_autocast_the_codes_are_still_those_of_float(model: Model, quantised: FakeQuantised) -> None:
    with quantised:
        expected = describe(model, images())
        with torch.autocast("cpu", torch.bfloat16):
            found = describe(model, images())
    assert distance(found, expected) < 5e-3


def test_without_ranges_a_forward_pass_says_so(model: Model) -> None:
    with pytest.raises(ModelError, match="no ranges yet"), fake_quantised(model.network):
        describe(model, images())


def test_ranges_of_a_smaller_network_are_refused() -> None:
    small, large = blocks_model(), blocks_model(before_norm=True)
    other = fake_quantised(large.network)
    other.load_state_dict(fake_quantised(small.network, calibration=[images()]).state_dict())
    with pytest.raises(ModelError, match="calibrate the fake quantisation again"), other:
        describe(large, images())


@pytest.mark.parametrize(
    ("batches", "error"),
    [
        ([], InputError),
        ([torch.zeros(3, SIDE, SIDE)], ShapeError),
        ([torch.zeros(0, 3, SIDE, SIDE)], ShapeError),
        ([torch.full((1, 3, SIDE, SIDE), float("nan"))], ModelError),
        ([torch.full((1, 3, SIDE, SIDE), float("inf"))], ModelError),
    ],
)
def test_bad_calibration_pictures_are_refused_and_the_ranges_stay(
    model: Model, quantised: FakeQuantised, batches: list[torch.Tensor], error: type[Exception]
) -> None:
    before = quantised.state_dict()
    with pytest.raises(error):
        quantised.calibrate(batches)
    assert quantised.state_dict() == before
    with quantised:
        describe(model, images())
