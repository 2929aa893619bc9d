"""Checkpoints of NAVER's deep-image-retrieval become the same functions, without scikit-learn or unpickling."""

import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from deepir.distill.checkpoint import Model
from deepir.distill.import_naver import read_naver
from deepir.distill.import_plan import ImportOptions
from deepir.distill.importing import import_model
from deepir.distill.torch_file import read_torch_file
from deepir.errors import DeepIRError, InputError, ModelError, OptionError

State = dict[str, torch.Tensor]
WriteNaver = Callable[..., Path]
PCA = "sklearn.decomposition.pca"
SHORT = {
    "conv1.weight": torch.zeros(64, 3, 7, 7),
    "adpool.p": torch.ones(1),
    "fc.weight": torch.zeros(24, 512),
    "fc.bias": torch.zeros(24),
}
"""A state dict that is good for what is refused before the trunk is built."""
RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def trunk() -> torch.nn.Module:
    torch.manual_seed(4)
    model = torchvision.models.resnet18().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def state(trunk: torch.nn.Module) -> State:
    torch.manual_seed(5)
    kept = {name: value for name, value in trunk.state_dict().items() if not name.startswith("fc.")}
    head = {"adpool.p": torch.tensor([2.5]), "fc.weight": torch.randn(24, 512) / 22, "fc.bias": torch.randn(24) / 9}
    return kept | head


@pytest.fixture(scope="module")
def pca() -> dict[str, Any]:
    return {
        "components_": np.asfortranarray(np.linalg.qr(RNG.normal(size=(24, 24)))[0][:20]),
        "mean_": RNG.normal(size=24) / 9,
        "explained_variance_": np.sort(RNG.uniform(0.1, 2, 20))[::-1].copy(),
        "whiten": True,
        "n_components_": 20,
        "noise_variance_": np.float64(0.1),
    }


@pytest.fixture(scope="module")
def image_nchw() -> torch.Tensor:
    return torch.rand(1, 3, 100, 140, generator=torch.Generator().manual_seed(1)) * 2 - 1


def content_of(state: State, **change: Any) -> dict[str, Any]:
    options = {"arch": "resnet18_rmac", "out_dim": 24, "pooling": "gem", "gemp": 3, **change}
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "input_size": 224}
    return {"state_dict": state, "model_options": options, "preprocess": preprocess, "current_iter": 296}


@pytest.fixture
def naver(write_naver: WriteNaver, tmp_path: Path) -> WriteNaver:
    """naver(state, pca by name, legacy=..., module=..., changed options) writes a checkpoint m.pt."""

    def write(state: State, pca: Any = None, *, legacy: bool = False, module: str = PCA, **change: Any) -> Path:
        return write_naver(tmp_path / "m.pt", content_of(state, **change), pca, legacy=legacy, module=module)

    return write


def maps(trunk: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    x4 = trunk.layer3(trunk.layer2(trunk.layer1(x)))
    return x4, trunk.layer4(x4)


def gem(map_nchw: torch.Tensor, power: float) -> torch.Tensor:
    return map_nchw.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return functional.normalize(vectors, dim=-1)


def described(model: Model, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.network(images).numpy()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("module", ["sklearn.decomposition.pca", "sklearn.decomposition._pca"])
def test_both_formats_are_read_without_scikit_learn(
    legacy: bool, module: str, pca: dict[str, Any], naver: WriteNaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = naver(SHORT, {"Landmarks_clean": pca}, legacy=legacy, module=module)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    read = read_torch_file(path)
    found = read["pca"]["Landmarks_clean"].state
    for name in ("components_", "mean_", "explained_variance_"):
        np.testing.assert_array_equal(found[name].array(), pca[name], strict=True)
    assert read["meters"]["loss"].state["vals"][0].array() == 0.5


def test_an_imported_checkpoint_says_what_it_is(state: State, pca: dict[str, Any], naver: WriteNaver) -> None:
    on_several = {f"module.{name}": value for name, value in state.items()}
    model, report = import_model(naver(on_several, {"Landmarks_clean": pca}))
    assert (len(report.mapped), report.left) == (len(state), ())
    assert (model.spec.mean, model.spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    assert (model.spec.sizes, model.spec.resize, model.spec.dim) == (((1024, 1024),), "longest", 20)
    assert re.fullmatch(
        r"fc and Landmarks_clean pca p 0\.25 v 20 m 1, from m\.pt sha256 [0-9a-f]{12}", model.spec.whitening
    )


@pytest.mark.parametrize(("norm_features", "power", "count", "factor"), [(False, 0.25, None, 1.0), (True, 0.5, 7, 3.0)])
def test_a_gem_network_with_its_pca_describes_as_dirtorch_does(
    norm_features: bool, power: float, count: int | None, factor: float, request: pytest.FixtureRequest
) -> None:
    trunk, state, pca, images, naver = map(request.getfixturevalue, ("trunk", "state", "pca", "image_nchw", "naver"))
    path = naver(state, {"Landmarks_clean": pca, "other": {}}, norm_features=norm_features)
    model, _ = import_model(path, ImportOptions(whitenp=power, whitenv=count, whitenm=factor))
    with torch.inference_mode():
        vector = gem(maps(trunk, images)[1], 2.5)
        vector = unit(vector) if norm_features else vector
        vector = unit(vector @ state["fc.weight"].T + state["fc.bias"]).double().numpy()
    vector = (vector - pca["mean_"]) @ pca["components_"][:count].T
    vector /= factor * pca["explained_variance_"][:count] ** power
    expected = vector / np.linalg.norm(vector)
    np.testing.assert_allclose(described(model, images), expected, atol=1e-5)


@pytest.mark.parametrize(("pooling", "reduce"), [("max", "amax"), ("avg", "mean")])
def test_networks_of_other_poolings_are_read(
    pooling: str, reduce: str, trunk: Any, state: State, image_nchw: torch.Tensor, naver: WriteNaver
) -> None:
    kept = {name: value for name, value in state.items() if name != "adpool.p"}
    model, _ = import_model(naver(kept, pooling=pooling))
    with torch.inference_mode():
        vector = getattr(maps(trunk, image_nchw)[1], reduce)((2, 3))
        expected = unit(vector @ state["fc.weight"].T + state["fc.bias"]).numpy()
    np.testing.assert_allclose(described(model, image_nchw), expected, atol=1e-5)
    assert model.spec.whitening.startswith("fc, from m.pt")


@pytest.mark.parametrize("arch", ["resnet18_fpn_rmac", "resnet18_fpn0_rmac"])
def test_a_pyramid_describes_as_dirtorch_does(
    arch: str, trunk: Any, state: State, image_nchw: torch.Tensor, naver: WriteNaver
) -> None:
    torch.manual_seed(6)
    own = {name: value for name, value in state.items() if not name.startswith(("fc.", "adpool"))}
    own |= {"adpoolc4.p": torch.tensor([2.0]), "adpoolx5.p": torch.tensor([3.5])}
    own |= {"fc.weight": torch.randn(30, 768) / 28, "fc.bias": torch.randn(30) / 9}
    if arch == "resnet18_fpn_rmac":
        own |= {"conv1x5.weight": torch.randn(256, 512, 1, 1) / 22, "conv3c4.weight": torch.randn(256, 256, 3, 3) / 48}
    model, report = import_model(naver(own, arch=arch))
    assert report.left == ()
    with torch.inference_mode():
        x4, x5 = maps(trunk, image_nchw)
        if "conv1x5.weight" in own:
            above = functional.interpolate(x5, size=x4.shape[2:], mode="nearest")
            x4 = x4 + functional.conv2d(above, own["conv1x5.weight"]).relu()
            x4 = functional.conv2d(x4, own["conv3c4.weight"], padding=1).relu()
        vector = torch.cat([gem(x4, 2.0), gem(x5, 3.5)], 1)
        expected = unit(vector @ own["fc.weight"].T + own["fc.bias"]).numpy()
    np.testing.assert_allclose(described(model, image_nchw), expected, atol=1e-5)


def test_a_network_told_to_use_no_fc_leaves_it(naver: WriteNaver) -> None:
    parts = read_naver(read_torch_file(naver(SHORT, without_fc=True)), ImportOptions())
    assert (parts.projections, parts.left) == ({}, ("fc.weight", "fc.bias"))


@pytest.mark.parametrize(("whiten", "shape"), [(None, (6, 24)), ("none", (6, 512))])
def test_dim_keeps_the_first_values_of_the_last_projection(
    whiten: str | None, shape: tuple[int, int], state: State, pca: dict[str, Any], naver: WriteNaver
) -> None:
    model, _ = import_model(naver(state, {"x": pca}), ImportOptions(whiten=whiten, dim=6))
    last = model.network.whitening if whiten else model.network.projection
    assert (tuple(last.weight.shape), model.spec.dim) == (shape, 6)
    assert ", first 6 values, from m.pt" in model.spec.whitening


def test_a_downloaded_archive_is_opened(naver: WriteNaver, tmp_path: Path) -> None:
    path = naver(SHORT)
    with zipfile.ZipFile(tmp_path / "download.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "Resnet-101.pt")
        archive.writestr("readme.txt", "hello")
    assert read_torch_file(tmp_path / "download.zip")["current_iter"] == 296


@pytest.mark.parametrize(("names", "found"), [((), "none"), (("a.pt", "b.pth"), "a.pt, b.pth")])
def test_an_archive_of_none_or_two_is_refused(names: tuple[str, ...], found: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
        for name in names:
            archive.writestr(name, "content")
    with pytest.raises(ModelError, match=f"found {found}"):
        import_model(tmp_path / "download.zip")


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.pt", bytes(8 << 20))
    with pytest.raises(ModelError, match="would grow to 8388608 bytes"):
        import_model(tmp_path / "bomb.zip")


class Hostile:
    """A pickle that would make a folder if it ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["state_dict", "pca", "epoch"])
def test_a_hostile_pickle_is_refused_and_does_not_run(legacy: bool, place: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "m.pt", tmp_path / "marker"
    content = {**content_of(SHORT), place: Hostile(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"m\.pt asks for .*\.mkdir.*refused") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the pickle of this test would not have run anyway"


@pytest.mark.parametrize("module", ["sklearn.decomposition.nmf", "utils.other"])
def test_any_other_class_is_refused_by_name(module: str, naver: WriteNaver) -> None:
    with pytest.raises(ModelError, match=f"asks for '{module}.PCA'"):
        import_model(naver(SHORT, {"x": {}}, module=module))


@pytest.mark.parametrize("array", [np.array([["text", None]], dtype=object), np.array([["text"]])])
def test_an_array_of_anything_but_numbers_is_refused(array: np.ndarray, naver: WriteNaver, pca: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="a pickled array is not what numpy writes: values of type"):
        import_model(naver(SHORT, {"x": {**pca, "components_": array}}))


@pytest.mark.parametrize(
    ("wanted", "names", "sentence"),
    [
        ("Lankmarks_clean", ("Landmarks_clean", "x"), r"did you mean 'Landmarks_clean'\? it has Landmarks_clean, x"),
        ("Lankmarks_clean", (), "it has none"),
        (None, ("a", "b"), "several whitenings, choose one with --whiten: a, b, or none"),
    ],
)
def test_an_unknown_whitening_lists_those_there_are(
    wanted: str | None, names: tuple[str, ...], sentence: str, pca: dict[str, Any], naver: WriteNaver
) -> None:
    path = naver(SHORT, dict.fromkeys(names, pca))
    with pytest.raises(ModelError, match=sentence):
        import_model(path, ImportOptions(whiten=wanted))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"center_bias": 1.5}, "weighs the middle of pictures .center_bias 1.5"),
        ({"arch": "resnext101_rmac"}, "'resnext101_rmac': known are resnet18"),
        ({"arch": "resnet18"}, "'resnet18': known are"),
        ({"arch": None}, "architecture None"),
        ({"pooling": "net"}, "pools with 'net'"),
        ({"arch": "resnet18_fpn_rmac", "norm_features": True}, "norm_features True, which the form fpn does not"),
        ({"arch": "resnet18_fpn_rmac"}, "lacks adpoolc4"),
        ({"arch": "resnet18_rmac"}, "does not fit the trunk"),
        ({"center_bias": torch.ones(2)}, "not its contents"),
    ],
)
def test_networks_that_are_not_known_are_refused(change: dict[str, Any], sentence: str, naver: WriteNaver) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        import_model(naver(SHORT, **change))
    assert "m.pt" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mean_": None}, "was not fitted"),
        ({"components_": np.zeros((3, 3, 3))}, "disagrees with itself"),
        ({"components_": np.zeros(3)}, "disagrees with itself"),
        ({"mean_": np.zeros(7)}, "disagrees with itself"),
        ({"mean_": np.float64(7)}, "disagrees with itself"),
    ],
)
def test_a_damaged_pca_is_refused(
    change: dict[str, Any], sentence: str, pca: dict[str, Any], naver: WriteNaver
) -> None:
    with pytest.raises(ModelError, match=sentence):
        import_model(naver(SHORT, {"x": {**pca, **change}}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"explained_variance_": np.zeros(20)}, "NaN or infinity in projection.weight"),
        ({"components_": np.ones((20, 9)), "mean_": np.ones(9)}, r"projection of shape \(20, 9\) .* follows 24 values"),
    ],
)
def test_a_pca_that_does_not_fit_the_network_is_refused(
    change: dict[str, Any], sentence: str, state: State, pca: dict[str, Any], naver: WriteNaver
) -> None:
    with pytest.raises(ModelError, match=sentence):
        import_model(naver(state, {"x": {**pca, **change}}))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ImportOptions(whitenp=-0.1), "--whitenp must be between 0 and 1"),
        (ImportOptions(whitenp=float("nan")), "--whitenp must be between 0 and 1"),
        (ImportOptions(whitenm=0), "--whitenm above 0"),
        (ImportOptions(whitenv=21), "between 1 and the 20 components"),
        (ImportOptions(levels=2), "--levels means nothing for a naver file"),
    ],
)
def test_values_out_of_range_are_refused(
    options: ImportOptions, sentence: str, pca: dict[str, Any], naver: WriteNaver
) -> None:
    with pytest.raises(OptionError, match=sentence):
        import_model(naver(SHORT, {"x": pca}), options)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("length", [4, 300, 5000, -1])
def test_a_truncated_checkpoint_is_refused(legacy: bool, length: int, naver: WriteNaver) -> None:
    path = naver(SHORT, legacy=legacy)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"m\.pt.*truncated, damaged") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "m.pt"
    state = {name: value[:1, :1] if value.ndim > 1 else value[:1] for name, value in SHORT.items()}
    torch.save({**content_of(state), "array": np.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    return path


@given(place=st.integers(0, 1199), byte=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_no_changed_byte_causes_anything_but_a_sentence(place: int, byte: int, small: Path) -> None:
    content = bytearray(small.read_bytes())
    content[place % len(content)] = byte
    changed = small.with_name("changed.pt")
    changed.write_bytes(content)
    with pytest.raises(DeepIRError) as caught:
        import_model(changed)
    assert "\n" not in str(caught.value)
