"""PCA whitening of a model's branches, and the whitening learned from labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepir.descriptors import normalise
from deepir.distill.backbone import wrap_module
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.describe import describe, region_vectors
from deepir.distill.layers import WhiteningLayer
from deepir.distill.whitening import MOST_PICTURES, WhitenConfig, name_pictures, spread, whiten
from deepir.distill.whitening_labels import paired_groups, read_labels, whiten_learned
from deepir.errors import InputError, OptionError, ShapeError
from deepir.head import Head
from deepir.image import list_images, read_image

MakeModel = Callable[..., Model]


class TwoMaps(nn.Module):
    """A middle map of 8 channels at stride 4 and a last one of 12 at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        middle = self.middle(images)
        return [middle, self.last(middle)]


def fused_model(fusion: str) -> Model:
    torch.manual_seed(0)
    return new_model(wrap_module("two", TwoMaps()), sizes=((64, 64),), head=Head(fusion=fusion, middle=(3,)))


def read(paths: list[Path]) -> list[np.ndarray]:
    return [read_image(path) for path in paths]


def whitened(model: Model, paths: list[Path], branch: int = -1) -> np.ndarray:
    layer = model.network.branch_list[branch].whitening
    vectors = np.concatenate(region_vectors(model, read(paths), branch))
    return vectors @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


@pytest.mark.parametrize("standardise", [False, True])
def test_whitening_decorrelates_the_regions_it_was_fitted_on(
    make_model: MakeModel, pictures: Path, standardise: bool
) -> None:
    paths = list_images(pictures)
    model = whiten(make_model(), [paths], WhitenConfig(dim=6, power=0.5, standardise=standardise))
    np.testing.assert_allclose(np.cov(whitened(model, paths).T, bias=True), np.eye(6), atol=1e-2)
    assert ("dim 6 power 0.5 standardised" if standardise else "dim 6 power 0.5 on") in model.spec.whitening


def test_folders_weigh_the_same_however_many_pictures_they_hold(make_model: MakeModel, pictures: Path) -> None:
    tea, milk = list_images(pictures / "tea"), list_images(pictures / "milk")
    config = WhitenConfig(dim=4)
    once = whiten(make_model(), [tea, milk], config).network.whitening.weight.detach()
    often = whiten(make_model(), [tea * 5, milk], config).network.whitening.weight.detach()
    torch.testing.assert_close(once, often, rtol=1e-3, atol=1e-3)
    other = whiten(make_model(), [tea * 5 + milk], config).network.whitening.weight.detach()
    assert not torch.allclose(once, other, rtol=1e-3, atol=1e-3)


def test_the_description_says_what_the_whitening_saw(make_model: MakeModel, pictures: Path) -> None:
    groups = [list_images(pictures / "tea"), list_images(pictures / "milk")]
    words = whiten(make_model(), groups, WhitenConfig(dim=4)).spec.whitening
    assert words.startswith("pca dim 4 power 0.25 on 80 regions of 8+8 pictures (tea, milk, list ")
    fewer = whiten(make_model(), [groups[0][1:], groups[1]], WhitenConfig(dim=4)).spec.whitening
    assert words.partition("list")[2] != fewer.partition("list")[2]


def test_a_picture_list_has_the_same_hash_wherever_it_lies(tmp_path: Path) -> None:
    here, there = ([tmp_path / root / name for name in ("a/1.png", "b/1.png")] for root in ("x/shop", "y/z/shop"))
    assert name_pictures([here]) == name_pictures([there])
    assert name_pictures([here[::-1]]) != name_pictures([here])
    assert name_pictures([here]).startswith("2 pictures (shop, list ")


def test_more_dimensions_than_channels_are_refused(make_model: MakeModel, pictures: Path) -> None:
    with pytest.raises(ShapeError, match="cannot carry 13"):
        whiten(make_model(), [list_images(pictures)], WhitenConfig(dim=13))


def test_few_vectors_for_the_dimensions_are_warned_of(make_model: MakeModel, pictures: Path) -> None:
    lines: list[str] = []
    whiten(make_model(), [list_images(pictures / "tea")], WhitenConfig(dim=8), lines.append)
    assert lines == []
    whiten(make_model(), [list_images(pictures / "tea")[:5]], WhitenConfig(dim=8), lines.append)
    assert lines == ["warning: 25 region vectors are few for 8 dimensions; use more pictures or a smaller --dim"]


@pytest.mark.parametrize("options", [{"power": 0.6}, {"power": -0.1}, {"power": float("nan")}, {"dim": 0}])
def test_a_whitening_that_cannot_be_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=str(next(iter(options.values())))):
        WhitenConfig(**options)


@pytest.mark.parametrize("groups", [[], [[]]])
def test_no_pictures_are_refused(make_model: MakeModel, groups: list[list[Path]]) -> None:
    with pytest.raises(InputError, match="needs pictures"):
        whiten(make_model(), groups, WhitenConfig(dim=4))


@pytest.mark.parametrize("fusion", ["concat", "concat-weighted", "eltwise", "rmac-eltwise"])
def test_each_branch_is_whitened_on_its_own_vectors(pictures: Path, fusion: str) -> None:
    paths = list_images(pictures)
    config = WhitenConfig(dim=6, power=0.5, standardise=True)
    model = whiten(fused_model(fusion), [paths], config)
    for branch in (0, 1):
        np.testing.assert_allclose(np.cov(whitened(model, paths, branch).T, bias=True), np.eye(6), atol=1e-2)
    assert model.spec.whitening.startswith("pca dim 6+6 power 0.5 standardised on ")
    assert model.spec.dim == (12 if fusion.startswith("concat") else 6)


@pytest.mark.parametrize(("dim", "dims"), [(None, [8, 12]), (10, [8, 10]), (4, [4, 4])])
def test_a_middle_layer_keeps_at_most_its_channels_where_it_is_concatenated(
    pictures: Path, dim: int | None, dims: list[int]
) -> None:
    model = whiten(fused_model("concat"), [list_images(pictures)], WhitenConfig(dim=dim))
    assert [branch.dim for branch in model.network.branch_list] == dims


def test_a_whitened_master_branch_stays_when_asked(pictures: Path) -> None:
    paths = list_images(pictures)
    once = whiten(fused_model("eltwise"), [paths[:24]], WhitenConfig(dim=7))
    master, words = once.network.whitening.weight.detach().clone(), once.spec.whitening
    again = whiten(once, [paths], WhitenConfig(dim=4, power=0.5, keep_master=True))
    torch.testing.assert_close(again.network.whitening.weight.detach(), master)
    assert [branch.dim for branch in again.network.branch_list] == [7, 7]
    np.testing.assert_allclose(np.cov(whitened(again, paths, 0).T, bias=True), np.eye(7), atol=1e-2)
    assert again.spec.whitening.startswith("pca dim 7 power 0.5 on ")
    assert again.spec.whitening.endswith(f"last layer: {words}")


@pytest.mark.parametrize("fusion", ["none", "eltwise"])
def test_there_must_be_a_master_to_keep_and_a_layer_to_fit(make_model: MakeModel, pictures: Path, fusion: str) -> None:
    model = make_model(dim=4) if fusion == "none" else fused_model(fusion)
    with pytest.raises(OptionError, match="needs a whitened last layer and middle layers"):
        whiten(model, [list_images(pictures)], WhitenConfig(keep_master=True))


def test_what_was_fitted_on_the_earlier_whitening_is_dropped(make_model: MakeModel, pictures: Path) -> None:
    model, lines = make_model(dim=4), []
    model.network.projection = WhiteningLayer(4, 3)
    model = whiten(model, [list_images(pictures)], WhitenConfig(dim=5), lines.append)
    assert (model.network.projection, model.spec.dim) == (None, 5)
    assert lines == ["warning: the projection fitted on the earlier whitening is dropped"]


def test_the_whitening_of_a_checkpoint_is_one_affine_map_before_the_second_norm(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    paths = list_images(pictures)
    model = whiten(make_model(), [paths], WhitenConfig(dim=5, power=0.5, standardise=True))
    vectors = np.stack(region_vectors(model, read(paths))).astype(np.float64)
    flat = vectors.reshape(-1, 12)
    standardised = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    variances, components = np.linalg.eigh(np.cov(standardised.T, bias=True))
    in_turn = (standardised @ components[:, ::-1][:, :5]) / np.sqrt(variances[::-1][:5])
    expected = normalise(normalise(in_turn.reshape(len(paths), -1, 5)).sum(axis=1))
    save_model(model, tmp_path / "white.safetensors")
    kept = load_model(tmp_path / "white.safetensors", make_model().network.trunk)
    found = describe(kept, read(paths))
    # components are known up to their sign
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-5)


def test_learned_whitening_gives_pairs_unit_covariance(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures)
    before = describe(make_model(dim=4), read(paths)).astype(np.float64)
    model = whiten_learned(make_model(dim=4), [paths], read_labels(pictures, paths), 3)
    assert (model.spec.dim, model.network.whitening.out_features) == (3, 4)
    weight = model.network.projection.weight.detach().numpy()
    projected = (before @ weight.T).reshape(6, 8, 3)
    one, other = np.triu_indices(8, 1)
    differences = (projected[:, one] - projected[:, other]).reshape(-1, 3)
    np.testing.assert_allclose(differences.T @ differences / len(differences), np.eye(3), atol=1e-2)
    assert "; learned dim 3 on 168 pairs of 48 pictures" in model.spec.whitening


def test_learning_again_replaces_the_projection(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures)
    labels = read_labels(pictures, paths)
    once = whiten_learned(make_model(dim=8), [paths], labels, 5)
    again = whiten_learned(once, [paths], labels, 6)
    assert (again.spec.dim, again.spec.whitening.count("learned")) == (6, 1)


def test_learned_whitening_joins_labels_over_folders(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures)
    labels = read_labels(pictures, paths)
    split = [paths[::2], paths[1::2]]
    assert "168 pairs of 24+24 pictures" in whiten_learned(make_model(dim=8), split, labels, 5).spec.whitening


def test_learned_whitening_without_labels_is_refused(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures / "tea")
    with pytest.raises(InputError, match="no two of 8 pictures share a label"):
        whiten_learned(make_model(dim=8), [paths], read_labels(pictures / "tea", paths))


def test_learned_whitening_of_too_few_pairs_is_refused(make_model: MakeModel, pictures: Path) -> None:
    paths = [path for path in list_images(pictures) if path.name in ("0.png", "1.png")]
    with pytest.raises(ShapeError, match="6 matching pairs are too few to learn a whitening of 8 values"):
        whiten_learned(make_model(dim=8), [paths], read_labels(pictures, paths))


def test_labels_are_folders_and_loose_pictures_have_none(tmp_path: Path) -> None:
    loose, one, deep = (tmp_path / name for name in ("0.png", "tea/1.png", "brand/tea/2.png"))
    assert read_labels(tmp_path, [loose, one, deep]) == {one: "tea", deep: "brand/tea"}


def test_labels_of_a_benchmark_are_those_of_its_training_pictures(tmp_path: Path) -> None:
    manifest = tmp_path / "benchmark.json"
    manifest.write_text('{"train": [{"image": "a.png", "label": "tea"}], "sets": {}}')
    expected = {tmp_path / "a.png": "tea"}
    assert read_labels(tmp_path, []) == read_labels(manifest, []) == expected


def test_pairs_are_taken_from_many_labels_rather_than_from_few() -> None:
    paths = [Path(f"{label:04}/{view}.png") for label in range(1000) for view in range(3)]
    taken = paired_groups([paths], {path: path.parent.name for path in paths})[0]
    labels = {path.parent.name for path in taken}
    assert 200 <= len(labels) <= MOST_PICTURES // 2
    assert len(taken) == 2 * len(labels)


def test_a_label_with_one_picture_makes_no_pair() -> None:
    tea, milk, salt = Path("r/tea.png"), Path("r/milk.png"), Path("p/tea.png")
    assert paired_groups([[tea, milk], [salt]], {tea: "tea", milk: "milk", salt: "tea"}) == [[tea], [salt]]


@pytest.mark.parametrize(("count", "most", "kept"), [(5, 10, 5), (10, 10, 10), (11, 10, 6), (100, 10, 10)])
def test_spreading_keeps_at_most_so_many_from_the_whole_range(count: int, most: int, kept: int) -> None:
    found = spread(range(count), most)
    assert (len(found), found[0]) == (kept, 0)
    assert found[-1] >= count - 1 - count // kept
