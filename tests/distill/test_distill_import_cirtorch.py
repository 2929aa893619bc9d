"""Networks of cnnimageretrieval-pytorch become the same functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

from deepir.distill.checkpoint import Model
from deepir.distill.import_cirtorch import read_cirtorch
from deepir.distill.import_plan import ImportOptions
from deepir.distill.importing import import_model
from deepir.errors import ModelError, OptionError
from deepir.regions import map_windows

State = dict[str, torch.Tensor]
Write = Callable[..., Path]
RNG = np.random.default_rng(12)
POSITIONS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
VGG16 = [kind for convolutions in (2, 2, 3, 3, 3) for kind in [*["convolution", "relu"] * convolutions, "pooling"]]
SHORT = {"features.0.weight": torch.zeros(64, 3, 7, 7), "pool.p": torch.ones(1)}
LW = {
    form: {"m": RNG.normal(size=(512, 1)) / 20, "P": RNG.normal(size=(512, 512)) / 20, "extra": None}
    for form in ("ss", "ms")
}


@pytest.fixture(scope="module")
def trunk() -> Any:
    torch.manual_seed(7)
    return torchvision.models.resnet18().eval()


@pytest.fixture(scope="module")
def features(trunk: Any) -> State:
    state = {}
    for name, value in trunk.state_dict().items():
        first, _, rest = name.partition(".")
        if first in POSITIONS:
            state[f"features.{POSITIONS[first]}.{rest}"] = value
    return state


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(state, changed meta...) writes a checkpoint m.pth."""

    def write(state: State, **meta: Any) -> Path:
        known = {"architecture": "resnet18", "pooling": "gem", "outputdim": 512, "mean": [0.5, 0.4, 0.3]}
        content = {"meta": {**known, "std": [0.2, 0.25, 0.3], **meta}, "state_dict": state}
        torch.save(content, tmp_path / "m.pth")
        return tmp_path / "m.pth"

    return write


@pytest.fixture(scope="module")
def image_nchw() -> torch.Tensor:
    return torch.rand(1, 3, 150, 230, generator=torch.Generator().manual_seed(2)) * 2 - 1


def layer(name: str, seed: int) -> State:
    torch.manual_seed(seed)
    return {f"{name}.weight": torch.randn(512, 512) / 22, f"{name}.bias": torch.randn(512) / 40}


def applied(state: State, name: str, vectors: torch.Tensor) -> torch.Tensor:
    return unit(vectors @ state[f"{name}.weight"].T + state[f"{name}.bias"])


def last_map(trunk: Any, images: torch.Tensor) -> torch.Tensor:
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    return trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x))))


def gem(map_nchw: torch.Tensor, power: float) -> torch.Tensor:
    return map_nchw.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return functional.normalize(vectors, dim=-1)


def windows(map_nchw: torch.Tensor) -> list[torch.Tensor]:
    height, width = map_nchw.shape[2:]
    grid = [[0, 0, height, width], *map_windows(height, width, 3).tolist()]
    return [map_nchw[:, :, top:end, left:right] for top, left, end, right in grid]


def described(model: Model, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.network(images).numpy()


def test_a_gem_network_whitened_inside_describes_as_cirtorch_does(
    trunk: Any, features: State, image_nchw: torch.Tensor, write: Write
) -> None:
    state = features | {"pool.p": torch.tensor([2.8])} | layer("whiten", 1)
    model, report = import_model(write(state, whitening=True, Lw={"retrieval-SfM-120k": LW}))
    with torch.inference_mode():
        expected = applied(state, "whiten", unit(gem(last_map(trunk, image_nchw), 2.8))).numpy()
    np.testing.assert_allclose(described(model, image_nchw), expected, atol=1e-5)
    assert (set(report.mapped), report.left) == (set(state), ())
    spec = model.spec
    assert (spec.backbone, spec.head.levels, spec.sizes) == ("torchvision:resnet18", 0, ((1024, 1024),))
    assert (spec.mean, spec.std, spec.resize) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "longest")
    assert spec.whitening.startswith("whiten, from m.pth sha256 ")


@pytest.mark.parametrize(("scales", "form"), [(None, "ss"), ("1,0.7071,0.5", "ms")])
def test_a_whitening_learned_beside_the_network_is_its_projection(
    scales: str | None, form: str, trunk: Any, features: State, image_nchw: torch.Tensor, write: Write
) -> None:
    path = write(features | {"pool.p": torch.tensor([3.0])}, Lw={"retrieval-SfM-120k": LW})
    model, _ = import_model(path, ImportOptions(scales=scales, dim=40))
    with torch.inference_mode():
        vector = unit(gem(last_map(trunk, image_nchw), 3.0)).double().numpy()
    vector = (vector - LW[form]["m"].T) @ LW[form]["P"][:40].T
    np.testing.assert_allclose(described(model, image_nchw), vector / np.linalg.norm(vector), atol=1e-5)
    whitening = f"retrieval-SfM-120k {form} learned whitening, first 40 values, from m.pth"
    assert model.spec.whitening.startswith(whitening)


def test_rmac_sums_the_whole_map_and_its_regions(
    trunk: Any, features: State, image_nchw: torch.Tensor, write: Write
) -> None:
    state = features | layer("whiten", 3)
    model, _ = import_model(write(state, pooling="rmac", whitening=True))
    with torch.inference_mode():
        regions = [unit(window.amax((2, 3))) for window in windows(last_map(trunk, image_nchw))]
        expected = applied(state, "whiten", unit(sum(regions))).numpy()
    np.testing.assert_allclose(described(model, image_nchw), expected, atol=1e-5)
    assert (model.spec.head.grid, model.spec.head.levels) == ("map+whole", 3)


def test_dim_cuts_what_comes_last(features: State, write: Write) -> None:
    path = write(features | layer("whiten", 3), pooling="rmac", whitening=True, Lw={"x": LW})
    network = import_model(path, ImportOptions(whiten="x", dim=9))[0].network
    assert (network.fuse.weight.shape, network.projection.weight.shape) == ((512, 512), (9, 512))


def test_regional_pooling_whitens_each_region(
    trunk: Any, features: State, image_nchw: torch.Tensor, write: Write
) -> None:
    state = features | {"pool.rpool.p": torch.tensor([2.2])} | layer("pool.whiten", 4) | layer("whiten", 5)
    model, report = import_model(write(state, regional=True, whitening=True))
    with torch.inference_mode():
        regions = [
            applied(state, "pool.whiten", unit(gem(window, 2.2))) for window in windows(last_map(trunk, image_nchw))
        ]
        expected = applied(state, "whiten", unit(sum(regions))).numpy()
    np.testing.assert_allclose(described(model, image_nchw), expected, atol=1e-5)
    assert report.left == ()
    assert model.spec.whitening.startswith("pool.whiten and whiten, from m.pth")


def test_a_network_of_positions_ends_before_its_last_pooling(write: Write) -> None:
    torch.manual_seed(8)
    parts = torchvision.models.alexnet().eval().features[:12]
    state = {f"features.{name}": value for name, value in parts.state_dict().items()}
    model, report = import_model(write(state, architecture="alexnet", pooling="mac"))
    assert (model.spec.backbone, report.left) == ("torchvision:alexnet@11", ())
    images = torch.rand(1, 3, 100, 90)
    with torch.inference_mode():
        expected = unit(parts(images).amax((2, 3))).numpy()
    np.testing.assert_allclose(described(model, images), expected, atol=1e-5)


def test_the_layout_of_vgg16_is_known(write: Write) -> None:
    places = [place for place, kind in enumerate(VGG16) if kind == "convolution"]
    state = {f"features.{place}.{part}": torch.zeros(1) for place in places for part in ("weight", "bias")}
    path = write(state, architecture="vgg16", pooling="spoc")
    parts = read_cirtorch(torch.load(path, weights_only=True), ImportOptions())
    assert (parts.trunk, parts.head.pooling) == (f"torchvision:vgg16@{len(VGG16) - 2}", "mean")
    assert (len(parts.state), parts.left) == (26, ())


def test_the_meta_can_hold_several_whitenings(write: Write) -> None:
    path = write(SHORT, Lw={"retrieval-SfM-30k": LW, "retrieval-SfM-120k": LW})
    with pytest.raises(ModelError, match="several whitenings, choose one with --whiten: retrieval-SfM-30k, "):
        import_model(path)
    with pytest.raises(ModelError, match=r"did you mean 'retrieval-SfM-120k'\?"):
        import_model(path, ImportOptions(whiten="retrieval-Sfm-120k"))


def test_a_state_dict_names_what_is_left(write: Write) -> None:
    content = torch.load(write(SHORT | {"features.9.weight": torch.ones(1), "extra": torch.ones(1)}), weights_only=True)
    assert read_cirtorch(content, ImportOptions()).left == ("features.9.weight", "extra")


@pytest.mark.parametrize(
    ("meta", "options", "sentence"),
    [
        ({"architecture": "densenet121"}, {}, "architecture 'densenet121': known are resnet18"),
        ({"architecture": None}, {}, "architecture 'None'"),
        ({"pooling": "max"}, {}, "pooling 'max'"),
        ({"pooling": "rmac", "regional": True}, {}, "pooling regional 'rmac'"),
        ({"local_whitening": True}, {}, "whitens every cell"),
        ({"regional": True}, {}, "lacks pool.rpool.p"),
        ({"Lw": {"x": {}}}, {}, "x ss is not a mean m and a square P"),
        ({"Lw": {"x": LW}}, {"whiten": "y"}, "no whitening 'y'"),
        ({"mean": [1, 2]}, {}, "mean or std of three numbers"),
        ({"mean": "abc"}, {}, "mean or std of three numbers"),
    ],
)
def test_networks_that_are_not_known_are_refused(
    meta: dict[str, Any], options: dict[str, Any], sentence: str, write: Write
) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        import_model(write(SHORT, **meta), ImportOptions(**options))
    assert "m.pth: " in str(caught.value)


def test_a_gem_power_that_is_no_power_is_refused(features: State, write: Write) -> None:
    with pytest.raises(ModelError, match="generalised mean has the power"):
        import_model(write(features | {"pool.p": torch.tensor([0.0])}))


def test_levels_mean_nothing_where_the_whole_map_is_pooled(write: Write) -> None:
    with pytest.raises(OptionError, match="--levels can only be 0, got 2"):
        import_model(write(SHORT), ImportOptions(levels=2))
