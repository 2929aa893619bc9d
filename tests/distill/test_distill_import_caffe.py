"""Caffe models of Deep Image Retrieval and their students become the same functions here."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from deepir.distill.checkpoint import Model
from deepir.distill.import_caffe import read_caffe
from deepir.distill.import_plan import ImportOptions, Parts
from deepir.distill.importing import import_model
from deepir.errors import InputError, ModelError, OptionError
from deepir.regions import image_regions, region_windows

MEAN_BGR = np.float32([103.93900299, 116.77899933, 123.68000031])
Blobs = dict[str, list[torch.Tensor]]


def blobs_of(layers: list[Any]) -> Blobs:
    return {layer.name: [torch.from_numpy(np.ascontiguousarray(blob)) for blob in layer.blobs] for layer in layers}


def caffe_unit(blobs: Blobs, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
    """Convolution, BatchNorm and Scale as Caffe computes them, one after the other."""
    rest = "_conv1" if name == "conv1" else name[3:]
    weight, *bias = blobs[name]
    x = functional.conv2d(x, weight, bias[0] if bias else None, stride, weight.shape[2] // 2)
    mean, variance, factor = blobs[f"bn{rest}"]
    inverse = 0 if factor == 0 else 1 / factor
    column = (1, -1, 1, 1)
    x = (x - (mean * inverse).view(column)) / torch.sqrt((variance * inverse).view(column) + 1e-5)
    gamma, beta = blobs[f"scale{rest}"]
    return x * gamma.view(column) + beta.view(column)


def caffe_maps(blobs: Blobs, image_rgb: np.ndarray) -> dict[int, torch.Tensor]:
    """The last map of each stage, from a BGR picture without division (method.md 1.4, 2.2, 3.2)."""
    bgr = image_rgb[:, :, ::-1].astype(np.float32) - MEAN_BGR
    x = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))[None]
    x = caffe_unit(blobs, x, "conv1", 2).relu()
    x = functional.max_pool2d(x, 3, 2, 0, ceil_mode=True)
    maps = {}
    for stage in range(2, 6):
        blocks = dict.fromkeys(name.split("_")[0] for name in blobs if name.startswith(f"res{stage}"))
        for place, block in enumerate(blocks):
            stride = 2 if stage > 2 and place == 0 else 1
            inner = caffe_unit(blobs, x, f"{block}_branch2a", stride).relu()
            inner = caffe_unit(blobs, inner, f"{block}_branch2b").relu()
            inner = caffe_unit(blobs, inner, f"{block}_branch2c")
            x = (inner + (x if place else caffe_unit(blobs, x, f"{block}_branch1", stride))).relu()
        maps[stage] = x
    return maps


def pooled(map_nchw: torch.Tensor, side: tuple[int, int], stride: int) -> torch.Tensor:
    windows = region_windows(image_regions(*side, 2), map_nchw.shape[2], map_nchw.shape[3], stride)
    return unit(torch.stack([map_nchw[0, :, top:end, left:right].amax((1, 2)) for top, left, end, right in windows]))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return functional.normalize(vectors, dim=-1)


def projected(blobs: Blobs, vectors: torch.Tensor, name: str, shift: str) -> torch.Tensor:
    scale, offset = blobs[shift]
    weight, bias = blobs[name]
    return (vectors * scale + offset) @ weight.T + bias


def our_descriptor(model: Model, image_rgb: np.ndarray) -> np.ndarray:
    spec = model.spec
    scaled = (image_rgb / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    with torch.inference_mode():
        batch = torch.from_numpy(scaled.astype(np.float32).transpose(2, 0, 1))[None].contiguous()
        return model.network(batch).numpy()[0]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (98, 130, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def resnet50(resnet50_caffemodel: Path) -> Model:
    return import_model(resnet50_caffemodel, ImportOptions(size="96x128", scales="-32,0,+32", dim=100))[0]


def test_the_released_resnet101_is_mapped_to_its_last_layer(resnet101_caffemodel: Path) -> None:
    model, report = import_model(resnet101_caffemodel)
    trunk = [name for name in report.mapped if not name.startswith("pooled")]
    assert (len(trunk), len(report.mapped), report.left) == (312, 314, ())
    assert [sum(name.startswith(kind) for name in trunk) for kind in ("bn", "scale")] == [104, 104]
    spec = model.spec
    assert (spec.backbone, spec.sizes, spec.dim) == ("caffe:resnet101", ((800, 800),), 2048)
    assert (spec.resize, spec.interpolation, spec.head.levels) == ("longest", "bilinear", 2)
    assert spec.whitening.startswith("pooled_rois/pca, from resnet101.caffemodel sha256 ")
    assert next(report.lines()) == "caffe file: caffe:resnet101, 314 names mapped, 0 left"


def test_the_resnet50_student_is_mapped_to_its_last_layer(resnet50_caffemodel: Path) -> None:
    parts = read_caffe(resnet50_caffemodel, ImportOptions())
    assert len([name for name in parts.mapped if not name.startswith("pooled")]) == 159
    assert parts.left == ()
    assert parts.trunk == "caffe:resnet50"


def test_an_imported_student_describes_as_caffe_does(
    resnet50: Model, resnet50_layers: list[Any], image: np.ndarray
) -> None:
    blobs = blobs_of(resnet50_layers)
    regions = pooled(caffe_maps(blobs, image)[5], image.shape[:2], 32)
    regions = unit(projected(blobs, regions, "pooled_rois/pca_512", "pooled_rois/centered")[:, :100])
    expected = unit(regions.sum(0)).numpy()
    np.testing.assert_allclose(our_descriptor(resnet50, image), expected, atol=2e-5)
    assert np.ptp(expected) > 0.01


def test_batch_norm_is_folded_as_caffe_means_it(caffe: SimpleNamespace, tmp_path: Path) -> None:
    layers = caffe.resnet("resnet50", thin=True, bias=True)
    values = {"bn_conv1": [np.float32([6]), np.float32([8]), np.float32([2])]}
    values["bn2a_branch2a"] = [np.float32([5]), np.float32([7]), np.float32([0])]
    for layer in layers:
        layer.blobs = values.get(layer.name, layer.blobs)
        if layer.name == "conv1":
            layer.blobs = [layer.blobs[0], np.float32([0.5])]
    state = read_caffe(caffe.write(tmp_path / "m.caffemodel", layers), ImportOptions()).state
    assert (float(state["bn1.running_mean"]), float(state["bn1.running_var"])) == (2.5, 4)
    assert (float(state["layer1.0.bn1.running_mean"]), float(state["layer1.0.bn1.running_var"])) == (0, 0)


def test_the_first_convolution_is_turned_from_bgr_to_rgb(resnet50_layers: list[Any], resnet50: Model) -> None:
    ours = resnet50.network.trunk.state_dict()["conv1.weight"].numpy()
    np.testing.assert_array_equal(ours, resnet50_layers[0].blobs[0][:, ::-1])


@pytest.fixture
def parts_of(caffe: SimpleNamespace, tmp_path: Path) -> Callable[..., Parts]:
    """parts_of(layers of the head, options...) reads a ResNet-50 that is good for its names only."""

    def parts(*head: list[Any], **options: Any) -> Parts:
        layers = caffe.resnet("resnet50", thin=True) + [layer for some in head for layer in some]
        return read_caffe(caffe.write(tmp_path / "thin.caffemodel", layers), ImportOptions(**options))

    return parts


@pytest.mark.parametrize("name", ["pooled_rois/pca", "pooled_rois/pca_512", "pooled_rois/pca_256"])
def test_the_projection_has_one_of_several_names(
    name: str, parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    parts = parts_of(caffe.projection(name, 4, 2048, "pooled_rois/centered"))
    assert parts.projections["branches.0.whitening"].weight.shape == (4, 2048)
    assert (parts.head.fusion, parts.left, parts.whitening) == ("none", (), name)


def test_a_student_beside_its_teacher_projection_is_taken_and_the_teacher_can_be_named(
    parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    head = caffe.projection("pooled_rois/pca", 9, 2048, "pooled_rois/centered")
    head += caffe.projection("pooled_rois_512/pca", 3, 2048)
    student = parts_of(head)
    assert len(student.projections["branches.0.whitening"].bias) == 3
    assert student.projections["branches.0.whitening"].shift is not None
    assert student.left == ("pooled_rois/pca",)
    teacher = parts_of(head, whiten="pooled_rois/pca")
    assert (len(teacher.projections["branches.0.whitening"].bias), teacher.left) == (9, ("pooled_rois_512/pca",))
    with pytest.raises(ModelError, match=r"did you mean 'pooled_rois/pca'\?.*it has"):
        parts_of(head, whiten="pooled_roi/pca")
    assert parts_of(head, whiten="none").projections == {}


def test_the_serial_student_projects_the_sum_of_its_regions(
    parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    head = caffe.projection("pooled_rois/pca", 2048, 2048, "pooled_rois/centered")
    parts = parts_of(head, caffe.projection("pooled_rois/reduce", 5, 2048, "pooled_rois/shift"))
    assert parts.projections["fuse"].weight.shape == (5, 2048)
    assert parts.whitening == "pooled_rois/pca and pooled_rois/reduce"


def test_the_student_of_joined_projections_has_two_branches(
    parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    parts = parts_of(
        caffe.projection("pooled_rois_branch_1/pca", 6, 1024, "pooled_rois_branch_1/centered"),
        caffe.projection("pooled_rois/pca", 7, 2048, "pooled_rois/centered"),
        caffe.projection("rmac/pca", 5, 13, "rmac/centered"),
    )
    assert (parts.head.fusion, parts.head.middle) == ("pca-concat-pca", (3,))
    shapes = {name: tuple(affine.weight.shape) for name, affine in parts.projections.items()}
    assert shapes == {"branches.0.whitening": (6, 1024), "branches.1.whitening": (7, 2048), "fuse": (5, 13)}


@pytest.mark.parametrize(
    ("listed", "said", "fusion"),
    [
        (True, None, "concat-pca-relu"),
        (False, None, "concat-pca"),
        (False, True, "concat-pca-relu"),
        (True, False, "concat-pca"),
    ],
)
def test_the_relu_of_a_concatenating_student_is_found_or_said(
    listed: bool, said: bool | None, fusion: str, parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    name = "pooled_rois/concat/pca"
    head = caffe.projection(name, 5, 3072, "pooled_rois/concat/centered")
    relu = [caffe.Layer(f"{name}/relu", "ReLU", bottoms=[name if listed else "res5c"])]
    parts = parts_of(head, relu, relu=said)
    assert (parts.head.fusion, parts.head.middle) == (fusion, (3,))
    assert bool(parts.notes) == (fusion == "concat-pca" and said is None)


def test_a_relu_has_no_place_in_other_students(parts_of: Callable[..., Parts], caffe: SimpleNamespace) -> None:
    with pytest.raises(OptionError, match="leave --relu out"):
        parts_of(caffe.projection("pooled_rois/pca", 5, 2048, "pooled_rois/centered"), relu=True)


def test_the_widened_student_describes_as_caffe_does(
    resnet50_layers: list[Any], caffe: SimpleNamespace, image: np.ndarray, large_path: Path
) -> None:
    trunk = [layer for layer in resnet50_layers if not layer.name.startswith("pooled")]
    layers = trunk + caffe.convolution("res5a_branch2", 2048, 1024, 1)
    layers += caffe.projection("pooled_rois/pca", 64, 2048, "pooled_rois/centered")
    model, report = import_model(caffe.write(large_path, layers))
    assert (model.spec.head.fusion, report.left) == ("1x1conv-eltwise-pca", ())
    blobs = blobs_of(layers)
    maps = caffe_maps({name: blobs[name] for name in blobs if name != "res5a_branch2"}, image)
    widened = pooled(caffe_unit(blobs, maps[4], "res5a_branch2"), image.shape[:2], 16)
    regions = pooled(maps[5], image.shape[:2], 32) + widened
    regions = unit(projected(blobs, regions, "pooled_rois/pca", "pooled_rois/centered"))
    np.testing.assert_allclose(our_descriptor(model, image), unit(regions.sum(0)).numpy(), atol=2e-5)


def test_the_student_of_joined_projections_describes_as_caffe_does(
    resnet50_layers: list[Any], caffe: SimpleNamespace, image: np.ndarray, large_path: Path
) -> None:
    layers = [layer for layer in resnet50_layers if not layer.name.startswith("pooled")]
    layers += caffe.projection("pooled_rois_branch_1/pca", 24, 1024, "pooled_rois_branch_1/centered")
    layers += caffe.projection("pooled_rois/pca", 40, 2048, "pooled_rois/centered")
    layers += caffe.projection("rmac/pca", 32, 64, "rmac/centered")
    model, _ = import_model(caffe.write(large_path, layers), ImportOptions(dim=20))
    blobs = blobs_of(layers)
    maps = caffe_maps(blobs, image)
    joined = []
    for name, stage, stride in (("pooled_rois_branch_1", 4, 16), ("pooled_rois", 5, 32)):
        regions = pooled(maps[stage], image.shape[:2], stride)
        joined.append(unit(unit(projected(blobs, regions, f"{name}/pca", f"{name}/centered")).sum(0)))
    expected = unit(projected(blobs, torch.cat(joined), "rmac/pca", "rmac/centered")[:20]).numpy()
    np.testing.assert_allclose(our_descriptor(model, image), expected, atol=2e-5)
    assert model.spec.whitening.startswith("pooled_rois/pca and rmac/pca, first 20 values, from m.caffemodel")


def test_three_equal_branches_are_one_network_at_three_sizes(caffe: SimpleNamespace, tmp_path: Path) -> None:
    single = caffe.resnet("resnet50", thin=True) + caffe.projection("pooled_rois/pca", 4, 2048, "pooled_rois/centered")
    copies = [caffe.Layer(mark + one.name, one.type, one.blobs) for mark in ("l_", "m_", "h_") for one in single]
    parts = read_caffe(caffe.write(tmp_path / "m.caffemodel", copies), ImportOptions())
    assert (parts.size, parts.scales, parts.left) == ("384x512", "0.5,1,1.5", ())
    assert len(parts.mapped) == len(single)
    assert parts.notes == ("the branches h_, l_, m_ have equal weights: one network at three sizes",)
    copies[-1].blobs = [copies[-1].blobs[0] + 1, copies[-1].blobs[1]]
    with pytest.raises(ModelError, match=r"copies of the layer 'pooled_rois/pca' differ"):
        read_caffe(caffe.write(tmp_path / "m.caffemodel", copies), ImportOptions())


def test_a_classifier_is_left_and_said(parts_of: Callable[..., Parts], caffe: SimpleNamespace) -> None:
    parts = parts_of(caffe.projection("fc1000", 10, 2048))
    assert (parts.left, parts.projections, parts.whitening) == (("fc1000",), {}, "none")


def test_size_scales_and_dim_are_as_asked(resnet50: Model) -> None:
    spec = resnet50.spec
    assert (spec.resize, spec.sizes) == ("stretch", ((64, 96), (96, 128), (128, 160)))
    assert spec.dim == 100
    assert spec.whitening.startswith("pooled_rois/pca_512, first 100 values, from resnet50.caffemodel sha256 ")


def test_levels_are_as_asked(parts_of: Callable[..., Parts]) -> None:
    assert [parts_of(levels=levels).head.levels for levels in (None, 0, 3)] == [2, 0, 3]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda layers: layers[:-3], "1 convolutions are missing, the first is res5c_branch2c"),
        (lambda layers: [one for one in layers if one.name != "bn3b_branch2b"], "the layer bn3b_branch2b is missing"),
        (lambda layers: [one for one in layers if not one.name.startswith("res2c")], r"\(2, 4, 6, 3\) blocks"),
        (lambda layers: layers[3:], "the first is conv1"),
    ],
)
def test_a_network_with_a_hole_is_refused(
    change: Callable[..., Any], sentence: str, caffe: SimpleNamespace, tmp_path: Path
) -> None:
    path = caffe.write(tmp_path / "m.caffemodel", change(caffe.resnet("resnet50", thin=True)))
    with pytest.raises(ModelError, match=sentence):
        read_caffe(path, ImportOptions())


def test_unknown_layers_are_refused_by_name(parts_of: Callable[..., Parts], caffe: SimpleNamespace) -> None:
    with pytest.raises(ModelError, match="1 of them, the first is 'attention/mask'"):
        parts_of(caffe.projection("attention/mask", 1, 4))


def test_two_layers_of_one_name_must_be_equal(parts_of: Callable[..., Parts], caffe: SimpleNamespace) -> None:
    head = caffe.projection("pooled_rois/pca", 4, 2048, "pooled_rois/centered")
    assert parts_of(head, head).left == ()
    with pytest.raises(ModelError, match="two layers of different weights are called 'pooled_rois/pca'"):
        parts_of(head, caffe.projection("pooled_rois/pca", 5, 2048))


def test_weights_of_other_shapes_are_refused(caffe: SimpleNamespace, tmp_path: Path) -> None:
    path = caffe.write(tmp_path / "m.caffemodel", caffe.resnet("resnet50", thin=True))
    with pytest.raises(InputError, match=r"does not fit the trunk: .* the first is conv1\.weight"):
        import_model(path)


def test_a_damaged_projection_is_refused(resnet50_layers: list[Any], caffe: SimpleNamespace, large_path: Path) -> None:
    *trunk, last = resnet50_layers
    last = caffe.Layer(last.name, last.type, [np.full_like(last.blobs[0], np.nan), last.blobs[1]])
    path = caffe.write(large_path, [*trunk, last])
    with pytest.raises(ModelError, match=r"m\.caffemodel holds NaN or infinity in branches\.0\.whitening\.weight"):
        import_model(path)


@pytest.mark.parametrize(
    ("blobs", "sentence"),
    [
        ([np.zeros(8192, np.float32)], "expected 2 axes"),
        ([np.zeros((2, 2048), np.float32)] * 3, "has 3 arrays, expected 1 or 2"),
    ],
)
def test_a_projection_with_other_arrays_is_refused(
    blobs: list[np.ndarray], sentence: str, parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    with pytest.raises(ModelError, match=sentence):
        parts_of([caffe.Layer("pooled_rois/pca", "InnerProduct", blobs)])


def test_a_projection_without_bias_and_shift_has_a_bias_of_zero(
    parts_of: Callable[..., Parts], caffe: SimpleNamespace
) -> None:
    layer = caffe.Layer("pooled_rois/pca", "InnerProduct", [np.ones((1, 1, 2, 2048), np.float32)])
    affine = parts_of([layer]).projections["branches.0.whitening"]
    assert (affine.weight.shape, affine.bias.tolist(), affine.shift) == ((2, 2048), [0, 0], None)


def test_options_of_other_kinds_are_refused(resnet50_caffemodel: Path) -> None:
    with pytest.raises(OptionError, match="--whitenp means nothing for a caffe file"):
        import_model(resnet50_caffemodel, ImportOptions(whitenp=0.5))
    with pytest.raises(OptionError, match="--dim can be 1 to that, got 513"):
        import_model(resnet50_caffemodel, ImportOptions(dim=513))
    with pytest.raises(OptionError, match="--kind naver does not fit"):
        import_model(resnet50_caffemodel, kind="naver")
