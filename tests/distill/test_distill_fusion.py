"""Fused middle layers against a numpy oracle, their dimensions, and what the published students train."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from deepir.descriptors import normalise
from deepir.distill.backbone import Trunk, build_trunk
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.layers import FeaturePyramid
from deepir.distill.middle import choose_trained, head_weights, with_middle
from deepir.errors import OptionError
from deepir.head import Head
from deepir.pooling import GEM_FLOOR
from deepir.pooling import roi_max_pool as pool
from deepir.regions import image_regions, region_windows
from deepir.whitening import Whitening

SIZE = (96, 128)
MakeModel = Callable[..., Model]


@pytest.fixture
def make(staged_trunk: Callable[[int], Trunk]) -> Callable[..., Model]:
    """make(fusion, middle=...) gives a model on three small maps."""

    def build(fusion: str, middle: int = 1, **options: object) -> Model:
        head = Head(fusion=fusion, middle=tuple(range(middle, 0, -1)), **options)
        model = new_model(staged_trunk(middle), sizes=(SIZE,), head=head)
        model.network.eval()
        return model

    return build


def random_whitening(channels: int, dim: int, seed: int) -> Whitening:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(dim, channels)).astype(np.float32)
    return Whitening(weight, rng.normal(scale=0.1, size=dim).astype(np.float32))


def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(size=(2, 3, *SIZE)).astype(np.float32))


def regions_of(model: Model) -> list[np.ndarray]:
    """Length-1 region vectors of each map, by the numpy reference."""
    with torch.inference_mode():
        maps = [map_nchw.numpy() for map_nchw in model.network.maps(images())]
    windows = [
        region_windows(image_regions(*SIZE, 2), *map_nchw.shape[2:], SIZE[0] // map_nchw.shape[2]) for map_nchw in maps
    ]
    return [normalise(pool(map_nchw, window)) for map_nchw, window in zip(maps, windows, strict=True)]


def aggregated(regions_nrc: np.ndarray, whitening: Whitening | None = None) -> np.ndarray:
    if whitening is not None:
        regions_nrc = normalise(regions_nrc @ whitening.weight_dc.T + whitening.bias_d)
    return normalise(regions_nrc.sum(axis=1))


def output(model: Model) -> np.ndarray:
    with torch.inference_mode():
        return model.network(images()).numpy()


def test_raw_concatenation_joins_the_descriptors_middle_first(make: MakeModel) -> None:
    model = make("concat", 2)
    res4, res3, res5 = regions_of(model)
    assert [part.shape[2] for part in (res4, res3, res5)] == [6, 4, 10]
    expected = normalise(np.concatenate([aggregated(part) for part in (res4, res3, res5)], axis=1))
    np.testing.assert_allclose(output(model), expected, atol=1e-6)


def test_whitened_concatenation_weighs_each_descriptor_by_its_dimension(make: MakeModel) -> None:
    model = make("concat-weighted", 2)
    whitenings = [random_whitening(channels, dim, channels) for channels, dim in ((6, 5), (4, 3), (10, 7))]
    for branch, whitening in enumerate(whitenings):
        model.network.whiten_with(whitening, branch)
    parts = [aggregated(part, whitening) for part, whitening in zip(regions_of(model), whitenings, strict=True)]
    expected = normalise(np.concatenate([part * part.shape[1] for part in parts], axis=1))
    np.testing.assert_allclose(output(model), expected, atol=1e-6)
    assert model.network.dim == 15


def test_eltwise_adds_the_whitened_middle_regions_to_the_master(make: MakeModel) -> None:
    model = make("eltwise", 2)
    res4, res3, res5 = regions_of(model)
    middle, master = random_whitening(10, 7, 0), random_whitening(10, 7, 1)
    model.network.whiten_with(middle, 0)
    model.network.whiten_with(master, 1)
    expected = normalise(aggregated(np.concatenate([res4, res3], axis=2), middle) + aggregated(res5, master))
    np.testing.assert_allclose(output(model), expected, atol=1e-6)


def test_rmac_eltwise_whitens_the_image_and_not_its_regions(make: MakeModel) -> None:
    model = make("rmac-eltwise", 2)
    res4, res3, res5 = regions_of(model)
    middle = random_whitening(10, 10, 0)
    model.network.whiten_with(middle, 0)
    late = np.concatenate([aggregated(res4), aggregated(res3)], axis=1) @ middle.weight_dc.T + middle.bias_d
    np.testing.assert_allclose(output(model), normalise(normalise(late) + aggregated(res5)), atol=1e-6)


def test_pca_concat_pca_projects_the_joined_descriptors(make: MakeModel) -> None:
    model = make("pca-concat-pca")
    middle, master, fuse = random_whitening(6, 6, 0), random_whitening(10, 7, 1), random_whitening(13, 8, 2)
    model.network.whiten_with(middle, 0)
    model.network.whiten_with(master, 1)
    model.network.add_layers_of(
        {**model.network.state_dict(), "fuse.weight": torch.zeros(8, 13), "fuse.bias": torch.zeros(8)}
    )
    model.network.whiten_with(middle, 0)
    model.network.whiten_with(master, 1)
    with torch.no_grad():
        model.network.fuse.weight.copy_(torch.from_numpy(fuse.weight_dc))
        model.network.fuse.bias.copy_(torch.from_numpy(fuse.bias_d))
    res4, res5 = regions_of(model)
    joined = np.concatenate([aggregated(res4, middle), aggregated(res5, master)], axis=1)
    np.testing.assert_allclose(output(model), normalise(joined @ fuse.weight_dc.T + fuse.bias_d), atol=1e-6)


@pytest.mark.parametrize("fusion", ["concat-pca", "concat-pca-relu"])
def test_concat_pca_whitens_the_joined_regions_master_first(make: MakeModel, fusion: str) -> None:
    model = make(fusion)
    whitening = random_whitening(16, 9, 0)
    model.network.whiten_with(whitening)
    res4, res5 = regions_of(model)
    whitened = np.concatenate([res5, res4], axis=2) @ whitening.weight_dc.T + whitening.bias_d
    whitened = np.maximum(whitened, 0) if fusion == "concat-pca-relu" else whitened
    np.testing.assert_allclose(output(model), normalise(normalise(whitened).sum(axis=1)), atol=1e-6)


def test_1x1conv_eltwise_pca_adds_the_widened_middle_regions(make: MakeModel) -> None:
    model = make("1x1conv-eltwise-pca")
    whitening = random_whitening(10, 9, 0)
    model.network.whiten_with(whitening)
    widened, res5 = regions_of(model)
    assert widened.shape == res5.shape
    np.testing.assert_allclose(output(model), aggregated(res5 + widened, whitening), atol=1e-6)


def test_a_feature_pyramid_refines_the_middle_map_and_pools_both_by_gem(make: MakeModel) -> None:
    model = make("fpn", pooling="gem", levels=0, normalise_regions=False)
    with torch.inference_mode():
        raw4, raw5 = model.network.trunk(images())
        refined, last = (map_nchw.double().numpy() for map_nchw in model.network.maps(images()))
        upsampled = raw5.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        pyramid: FeaturePyramid = model.network.fpn
        expected = pyramid.conv3x3(raw4 + pyramid.conv1x1(upsampled).relu()).relu()
    np.testing.assert_allclose(refined, expected, atol=1e-6)
    pooled = [(np.maximum(part, GEM_FLOOR) ** 3).mean(axis=(2, 3)) ** (1 / 3) for part in (refined, last)]
    np.testing.assert_allclose(output(model), normalise(np.concatenate(pooled, axis=1)), atol=1e-6)


def test_without_the_top_down_path_the_middle_map_stays_as_it_is(make: MakeModel) -> None:
    model = make("fpn0", pooling="gem", levels=0, normalise_regions=False)
    with torch.inference_mode():
        for own, given in zip(model.network.maps(images()), model.network.trunk(images()), strict=True):
            torch.testing.assert_close(own, given)


@pytest.mark.parametrize(
    ("middle", "dim"), [((3,), 3072), ((3, 2), 3584), ((3, 2, 1), 3840)], ids=["3072", "3584", "3840"]
)
def test_the_published_concatenations_have_their_dimensions(middle: tuple[int, ...], dim: int) -> None:
    trunk = build_trunk("caffe:resnet50", middle=middle)
    model = new_model(trunk, sizes=((64, 64),), head=Head(fusion="concat", middle=middle))
    assert (model.spec.dim, model.network.strides) == (dim, (*(2 ** (stage + 1) for stage in middle), 32))


def test_descriptors_of_two_sizes_cannot_be_added(make: MakeModel) -> None:
    with pytest.raises(OptionError, match="adds descriptors of 6 and 10 values"):
        make("eltwise").sealed()


@pytest.fixture(scope="module")
def plain() -> Model:
    torch.manual_seed(0)
    model = new_model(build_trunk("timm:resnet10t"), sizes=((64, 64),))
    model.network.whiten_with(random_whitening(512, 16, 0))
    return model.sealed(whitening="by hand")


def test_middle_layers_join_a_plain_model_and_keep_its_whitening(plain: Model) -> None:
    fused = with_middle(plain, "concat", (3, 2))
    assert fused.network.dim == 16 + 256 + 128
    assert fused.spec.whitening == plain.spec.whitening == "by hand"
    torch.testing.assert_close(fused.network.whitening.weight, plain.network.whitening.weight)
    for key, value in plain.network.trunk.state_dict().items():
        torch.testing.assert_close(fused.network.trunk.state_dict()[key], value)


def test_middle_layers_are_not_added_twice(plain: Model) -> None:
    with pytest.raises(OptionError, match="added to a plain model"):
        with_middle(with_middle(plain, "concat", (3,)), "concat", (2,))


@pytest.mark.parametrize(
    "fusion", ["concat", "eltwise", "pca-concat-pca", "1x1conv-eltwise-pca", "concat-pca-relu", "fpn0"]
)
def test_a_fused_model_comes_back_from_its_file(plain: Model, fusion: str, tmp_path) -> None:
    model = with_middle(plain, fusion, (3,))
    model.network.whiten_with(random_whitening(model.network.branch_list[0].channels, 16, 3), 0)
    save_model(model, tmp_path / "fused.safetensors")
    loaded = load_model(tmp_path / "fused.safetensors")
    pictures = torch.zeros(1, 3, 64, 64) + torch.linspace(-1, 1, 64)
    with torch.inference_mode():
        expected = model.network.eval()(pictures)
        torch.testing.assert_close(loaded.network.eval()(pictures), expected)
    assert loaded.spec == model.sealed().spec


TRAINED: dict[str, set[str]] = {
    "none": {"branches.0.whitening.weight", "branches.0.whitening.bias", "branches.0.whitening.shift"},
    "pca-concat-pca": {
        f"{layer}.{part}"
        for layer in ("branches.0.whitening", "branches.1.whitening", "fuse")
        for part in ("weight", "bias", "shift")
    },
    "1x1conv-eltwise-pca": {
        "adapter.0.weight",
        "adapter.1.weight",
        "adapter.1.bias",
        *(f"branches.0.whitening.{part}" for part in ("weight", "bias", "shift")),
    },
    "concat-pca": {f"branches.0.whitening.{part}" for part in ("weight", "bias", "shift")},
    "concat-pca-relu": {f"branches.0.whitening.{part}" for part in ("weight", "bias", "shift")},
}


def student(plain: Model, fusion: str) -> Model:
    model = plain if fusion == "none" else with_middle(plain, fusion, (3,))
    for number, branch in enumerate(model.network.branch_list):
        model.network.whiten_with(random_whitening(branch.channels, 16, number), number)
    if fusion == "pca-concat-pca":
        weights = {"fuse.weight": torch.zeros(16, 32), "fuse.bias": torch.zeros(16)}
        model.network.add_layers_of({**model.network.state_dict(), **weights})
    return model


@pytest.fixture(scope="module")
def fresh_plain() -> Callable[[], Model]:
    def build() -> Model:
        torch.manual_seed(0)
        return new_model(build_trunk("timm:resnet10t"), sizes=((64, 64),))

    return build


@pytest.mark.parametrize("fusion", TRAINED)
def test_a_published_student_trains_exactly_its_documented_parameters(
    fresh_plain: Callable[[], Model], fusion: str
) -> None:
    model = student(fresh_plain(), fusion)
    choose_trained(model.network, "head")
    model.network(torch.randn(2, 3, 64, 64)).square().mul(torch.arange(16)).sum().backward()
    with_gradient = {name for name, parameter in model.network.named_parameters() if parameter.grad is not None}
    assert with_gradient == TRAINED[fusion]
    weights, biases = head_weights(model.network)
    assert len(weights) + len(biases) == len(TRAINED[fusion])


def test_a_shift_of_its_own_changes_nothing_before_it_is_trained(fresh_plain: Callable[[], Model]) -> None:
    model = student(fresh_plain(), "concat-pca")
    pictures = torch.randn(2, 3, 64, 64)
    model.network.eval()
    before = model.network(pictures).detach()
    choose_trained(model.network, "head")
    torch.testing.assert_close(model.network(pictures).detach(), before)


def test_the_last_stage_learns_too_when_asked(fresh_plain: Callable[[], Model]) -> None:
    model = student(fresh_plain(), "1x1conv-eltwise-pca")
    choose_trained(model.network, "head+last-stage")
    trained = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    stage = {name for name in trained if name.startswith("trunk.")}
    assert stage
    assert all(".layer4." in name for name in stage)
    assert trained - stage == TRAINED["1x1conv-eltwise-pca"]


def test_training_something_else_is_refused(plain: Model) -> None:
    with pytest.raises(OptionError, match="all, head, head\\+last-stage, got 'half'"):
        choose_trained(plain.network, "half")
