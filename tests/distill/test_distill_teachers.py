"""Targets are the teachers' descriptors; regions add up to them; fusion, dimension, maxima and neighbours keep that."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from deepir.descriptors import combine_resolutions
from deepir.distill.answers import answer, region_parts
from deepir.distill.backbone import Trunk, wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.describe import describe
from deepir.distill.layers import WhiteningLayer
from deepir.distill.teachers import TargetConfig, make_targets
from deepir.distill.views import View
from deepir.errors import InputError, ModelError, OptionError, ShapeError
from deepir.head import Head
from deepir.image import list_images, prepare, read_image
from deepir.regions import image_regions
from deepir.whitening import Whitening

FileSizeLimit = Callable[[int], AbstractContextManager[None]]

MakeModel = Callable[..., Model]
SIZES = ((48, 48), (64, 64), (96, 96))
REGIONS = TargetConfig(regions=True)


@pytest.fixture
def views(pictures: Path) -> list[View]:
    return [View(path, number) for path in list_images(pictures)[::6] for number in range(3)]


@pytest.fixture
def teacher(make_model: MakeModel) -> Model:
    return make_model(sizes=SIZES, dim=6)


def layer(channels: int, dim: int, seed: int = 0) -> WhiteningLayer:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(dim, channels)), rng.normal(scale=0.2, size=dim)
    return WhiteningLayer.of(Whitening(weight.astype(np.float32), bias.astype(np.float32)))


def seen(views: list[View]) -> list[np.ndarray]:
    return [view.read() for view in views]


def sums(regions: list[np.ndarray] | None) -> np.ndarray:
    assert regions is not None
    return np.stack([rows.sum(axis=0) for rows in regions])


def count_trunk_calls(model: Model) -> list[int]:
    calls: list[int] = []
    model.network.trunk.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


def test_targets_of_one_teacher_are_its_descriptors(teacher: Model, views: list[View], tmp_path: Path) -> None:
    targets = make_targets([teacher], views, tmp_path)
    np.testing.assert_allclose(targets.descriptors_nd, describe(teacher, seen(views)), atol=1e-6)
    assert targets.regions is None
    assert targets.projection is None
    assert teacher.spec.fingerprint in targets.provenance


def test_a_region_row_is_the_sum_of_its_whitened_vectors_over_the_sizes(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    expected_rd = np.zeros((len(image_regions(64, 64, 2)), 6))
    for size in SIZES:
        image_nchw = torch.from_numpy(prepare(views[1].read(), teacher.spec, size))
        with torch.no_grad():
            whitened = teacher.network.whitening(teacher.network.region_vectors(image_nchw)[0])[0].numpy()
        vectors_rd = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
        expected_rd += vectors_rd / np.linalg.norm(vectors_rd.sum(axis=0))
    expected_rd /= np.linalg.norm(expected_rd.sum(axis=0))
    rows = make_targets([teacher], views, tmp_path, REGIONS).regions[1]
    np.testing.assert_allclose(rows, expected_rd, atol=1e-5)


@pytest.mark.parametrize("combine", ["teacher", "max"])
@pytest.mark.parametrize("projected", [False, True])
def test_the_rows_of_the_regions_add_up_to_the_descriptor(
    teacher: Model, views: list[View], tmp_path: Path, combine: str, projected: bool
) -> None:
    if projected:
        teacher.network.projection = layer(6, 4)
        teacher = teacher.sealed()
    targets = make_targets([teacher], views, tmp_path, TargetConfig(regions=True, combine=combine))
    assert all(len(rows) == 5 for rows in targets.regions)
    np.testing.assert_allclose(sums(targets.regions), targets.descriptors_nd, atol=1e-5)


def test_the_maximum_over_scales_is_the_largest_of_each_value(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    singles = [describe(Model(teacher.network, teacher.spec.at_sizes((size,))), seen(views)) for size in SIZES]
    targets = make_targets([teacher], views, tmp_path, TargetConfig(combine="max"))
    np.testing.assert_allclose(targets.descriptors_nd, combine_resolutions(np.stack(singles), "max"), atol=1e-6)
    assert "largest" in targets.provenance
    summed = make_targets([teacher], views, tmp_path)
    assert np.abs(summed.descriptors_nd - targets.descriptors_nd).max() > 1e-4


def test_fused_teachers_keep_the_similarities_of_their_joined_descriptors(
    make_model: MakeModel, views: list[View], tmp_path: Path
) -> None:
    teachers = [make_model(sizes=SIZES, dim=6), make_model(sizes=((64, 64),), seed=1, dim=4)]
    joined = np.concatenate([describe(teacher, seen(views)) for teacher in teachers], axis=1) / np.sqrt(2)
    whole = make_targets(teachers, views, tmp_path, TargetConfig(regions=True, dim=10))
    np.testing.assert_allclose(whole.descriptors_nd @ whole.descriptors_nd.T, joined @ joined.T, atol=1e-5)
    np.testing.assert_allclose(sums(whole.regions), whole.descriptors_nd, atol=1e-5)
    assert all(teacher.spec.fingerprint in whole.provenance for teacher in teachers)


@pytest.mark.parametrize("dim", [None, 3])
def test_a_fused_target_is_the_projection_of_the_joined_descriptors_with_most_energy(
    make_model: MakeModel, views: list[View], tmp_path: Path, dim: int | None
) -> None:
    teachers = [make_model(sizes=SIZES, dim=6), make_model(sizes=((64, 64),), seed=1, dim=4)]
    targets = make_targets(teachers, views, tmp_path, TargetConfig(regions=True, dim=dim))
    joined = np.concatenate([describe(teacher, seen(views)) for teacher in teachers], axis=1)
    assert targets.descriptors_nd.shape == (len(views), dim or 6)
    projected = joined @ targets.projection.T
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(targets.descriptors_nd, unit, atol=1e-5)
    np.testing.assert_allclose(sums(targets.regions), targets.descriptors_nd, atol=1e-5)
    singular = np.linalg.svd(joined, compute_uv=False)
    assert (projected**2).sum() == pytest.approx((singular[: dim or 6] ** 2).sum(), rel=1e-5)


def test_a_smaller_dim_of_one_teacher_is_a_projection_and_its_own_dim_is_none(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    smaller = make_targets([teacher], views, tmp_path, TargetConfig(dim=3))
    assert smaller.projection.shape == (3, 6)
    assert smaller.descriptors_nd.shape == (len(views), 3)
    np.testing.assert_allclose(np.linalg.norm(smaller.descriptors_nd, axis=1), 1, atol=1e-6)
    assert make_targets([teacher], views, tmp_path, TargetConfig(dim=6)).projection is None


def test_smoothed_regions_still_add_up_and_their_neighbours_are_of_other_pictures(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    plain = make_targets([teacher], views, tmp_path, REGIONS)
    smoothed = make_targets([teacher], views, tmp_path, TargetConfig(regions=True, neighbours=1))
    np.testing.assert_allclose(sums(smoothed.regions), smoothed.descriptors_nd, atol=1e-5)
    similarity = plain.descriptors_nd @ plain.descriptors_nd.T
    for row, view in enumerate(views):
        others = [other for other, each in enumerate(views) if each.path != view.path]
        nearest = max(others, key=lambda other: similarity[row, other])
        mean = plain.descriptors_nd[row] + plain.descriptors_nd[nearest]
        np.testing.assert_allclose(smoothed.descriptors_nd[row], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "adds_up"),
    [
        ("concat", True),
        ("concat-weighted", True),
        ("eltwise", True),
        ("rmac-eltwise", False),
        ("pca-concat-pca", True),
        ("1x1conv-eltwise-pca", True),
        ("concat-pca-relu", True),
    ],
)
def test_the_parts_of_fused_heads_add_up_or_there_are_none(
    staged_trunk: Callable[[int], Trunk], fusion: str, adds_up: bool
) -> None:
    network = new_model(staged_trunk(1), sizes=((64, 64),), head=Head(fusion=fusion, middle=(2,))).network.eval()
    for branch in network.branch_list:
        branch.whitening = layer(branch.channels, 5)
    if fusion == "pca-concat-pca":
        network.fuse = layer(10, 7)
    regions = network.region_vectors(torch.rand(3, 3, 64, 64, generator=torch.manual_seed(0)))
    parts = region_parts(network, regions)
    assert parts.shape == (3, 5 if adds_up else 0, network.dim)
    if adds_up:
        torch.testing.assert_close(parts.sum(dim=1), network.aggregate(regions), atol=1e-5, rtol=0)


def test_a_head_over_the_whole_map_has_one_part_the_descriptor(make_model: MakeModel, views: list[View]) -> None:
    head = Head(levels=0, normalise_regions=False, pooling="gem")
    model = new_model(wrap_module("tiny", make_model().network.trunk), sizes=((64, 64),), head=head)
    model.network.eval()
    descriptors_nd, parts = answer(model, seen(views), "sum", regions=True)
    np.testing.assert_allclose(np.concatenate(parts), descriptors_nd, atol=1e-6)


def test_resolutions_with_other_regions_give_a_descriptor_and_no_rows(make_model: MakeModel, pictures: Path) -> None:
    model = make_model(sizes=((64, 64), (64, 128)), dim=6)
    images = [read_image(path) for path in list_images(pictures)[:2]]
    descriptors_nd, parts = answer(model, images, "sum", regions=True)
    assert [rows.shape for rows in parts] == [(0, 6), (0, 6)]
    np.testing.assert_allclose(descriptors_nd, describe(model, images), atol=1e-6)


def test_views_of_mixed_shapes_are_answered_as_if_each_came_alone(make_model: MakeModel, views: list[View]) -> None:
    model = make_model(sizes=SIZES, dim=6)
    model = Model(model.network, dataclasses.replace(model.spec, resize="longest"))
    together, parts = answer(model, seen(views), "sum", regions=True)
    for row, view in enumerate(views):
        alone, rows = answer(model, [view.read()], "sum", regions=True)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)
        np.testing.assert_allclose(parts[row], rows[0], atol=1e-5)


def test_views_of_one_size_go_through_the_teacher_together(teacher: Model, views: list[View], tmp_path: Path) -> None:
    calls = count_trunk_calls(teacher)
    make_targets([teacher], views[:12], tmp_path)
    assert calls == [12] * len(SIZES)


def test_only_views_without_an_answer_are_shown_to_the_teacher(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    first = make_targets([teacher], views[:5], tmp_path)
    calls = count_trunk_calls(teacher)
    second = make_targets([teacher], views[::-1], tmp_path)
    assert sum(calls) == len(SIZES) * (len(views) - 5)
    np.testing.assert_array_equal(second.descriptors_nd[::-1][:5], first.descriptors_nd)
    make_targets([teacher], views + views, tmp_path)
    assert sum(calls) == len(SIZES) * (len(views) - 5)
    # what was kept without regions is shown again for them, and then never more
    make_targets([teacher], views, tmp_path, REGIONS)
    make_targets([teacher], views, tmp_path, REGIONS)
    assert sum(calls) == len(SIZES) * (2 * len(views) - 5)


def test_a_picture_is_known_by_its_bytes_not_by_its_name(teacher: Model, views: list[View], tmp_path: Path) -> None:
    whole = views[0].path.read_bytes()
    (tmp_path / "copy.png").write_bytes(whole)
    first = make_targets([teacher], views[:3], tmp_path / "cache").descriptors_nd
    calls = count_trunk_calls(teacher)
    copies = [View(tmp_path / "copy.png", view.number) for view in views[:3]]
    np.testing.assert_array_equal(make_targets([teacher], copies, tmp_path / "cache").descriptors_nd, first)
    assert calls == []
    (tmp_path / "copy.png").write_bytes(views[3].path.read_bytes())
    other = make_targets([teacher], copies, tmp_path / "cache").descriptors_nd
    assert np.abs(other - first).max() > 1e-3


def test_another_teacher_answers_for_itself(make_model: MakeModel, views: list[View], tmp_path: Path) -> None:
    one, other = (make_targets([make_model(seed=seed, dim=6)], views, tmp_path) for seed in (0, 1))
    assert np.abs(one.descriptors_nd - other.descriptors_nd).max() > 1e-3


def test_a_picture_that_does_not_decode_is_named_and_the_rest_is_kept(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    broken = tmp_path / "zz.png"
    broken.write_bytes(views[0].path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"cannot decode .*zz\.png"):
        make_targets([teacher], [*views, View(broken, 0)], tmp_path / "cache")
    calls = count_trunk_calls(teacher)
    make_targets([teacher], views, tmp_path / "cache")
    # a batch that held the broken picture is shown again, the one before it is not
    assert sum(calls) <= len(SIZES) * (len(views) - 16)


def test_a_teacher_that_answers_nan_is_refused_and_nothing_of_it_is_kept(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    with torch.no_grad():
        teacher.network.whitening.bias[0] = float("nan")
    with pytest.raises(ModelError, match=f"{teacher.spec.fingerprint} answers NaN"):
        make_targets([teacher], views, tmp_path)
    assert not next(iter(tmp_path.rglob("rows.f32"))).stat().st_size


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(
    file_size_limit: FileSizeLimit, teacher: Model, views: list[View], tmp_path: Path
) -> None:
    with file_size_limit(1800), pytest.raises(InputError) as raised:
        make_targets([teacher], views, tmp_path)
    left = len(views) - 16
    sentence = str(raised.value)
    assert str(tmp_path / teacher.spec.fingerprint / "sum") in sentence
    assert f"{left} views still need about 1 MB" in sentence
    assert "nothing that was written is lost" in sentence
    calls = count_trunk_calls(teacher)
    make_targets([teacher], views, tmp_path)
    assert sum(calls) == len(SIZES) * left


def test_a_cache_that_cannot_be_a_folder_is_one_sentence(teacher: Model, views: list[View], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="choose another folder"):
        make_targets([teacher], views, tmp_path / "cache")


@pytest.mark.parametrize("config", [{"dim": 0}, {"neighbours": -1}, {"combine": "mean"}])
def test_contradictory_target_options_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        TargetConfig(**config)


def test_targets_that_cannot_be_are_refused_before_the_teacher_works(
    teacher: Model, views: list[View], tmp_path: Path
) -> None:
    calls = count_trunk_calls(teacher)
    with pytest.raises(OptionError, match="0 teachers"):
        make_targets([], views, tmp_path)
    with pytest.raises(OptionError, match="0 views"):
        make_targets([teacher], [], tmp_path)
    with pytest.raises(ShapeError, match="cannot give targets of 7"):
        make_targets([teacher], views, tmp_path, TargetConfig(dim=7))
    with pytest.raises(ShapeError, match="2 views are too few for targets of 3"):
        make_targets([teacher], views[:2] * 2, tmp_path, TargetConfig(dim=3))
    with pytest.raises(OptionError, match="neighbours"):
        make_targets([teacher], views[:3], tmp_path, TargetConfig(neighbours=1))
    with pytest.raises(InputError, match="cannot read"):
        make_targets([teacher], [View(tmp_path / "missing.png", 0)], tmp_path)
    assert calls == []


def test_progress_counts_views_and_says_where_they_are_kept(teacher: Model, views: list[View], tmp_path: Path) -> None:
    lines: list[str] = []
    make_targets([teacher], views, tmp_path, report=lines.append)
    assert lines[-1] == f"teacher descriptors {len(views)}/{len(views)} (kept in {tmp_path}, safe to stop)"
