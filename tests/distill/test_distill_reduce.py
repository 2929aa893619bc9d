"""A reduced descriptor keeps the distances of the full one; only the new layer learns; one layer is deployed."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepir.datasets import read_labelled_folder
from deepir.distill import reduce_inputs
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.describe import describe, describe_files
from deepir.distill.device import Device
from deepir.distill.epochs import Progress
from deepir.distill.layers import WhiteningLayer
from deepir.distill.pair_losses import pair_loss
from deepir.distill.reduce import ReduceConfig, reduce_model
from deepir.distill.targets import TargetStore
from deepir.distill.views import View
from deepir.errors import InputError, OptionError, ShapeError
from deepir.export.graph import build_onnx
from deepir.head import Head
from deepir.image import prepare, read_image
from deepir.runtime.ort import OnnxBackend
from deepir.whitening import Whitening

MakeModel = Callable[..., Model]
CPU = Device("cpu")
QUICK = ReduceConfig(dims=(5, 3), epochs=4, batch=16)


@pytest.fixture(scope="module")
def paths(pictures: Path) -> list[Path]:
    return [image.path for image in read_labelled_folder(pictures)]


@pytest.fixture
def views(paths: list[Path]) -> list[View]:
    """Half of the pictures of each label, whole and cropped; the others are held out."""
    return [View(path, number) for path in paths[::2] for number in range(2)]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model(dim=9)


def reduced(model: Model, views: list[View], config: ReduceConfig, folder: Path, **progress: object) -> Model:
    out = Progress(out=folder / "small.safetensors", **progress)  # type: ignore[arg-type]
    return reduce_model(model, views, config, folder / "cache", out, CPU)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "small.safetensors.log.jsonl").read_text().splitlines()]


def lost(model: Model, small: Model, paths: list[Path]) -> float:
    """The pair loss of the reduced descriptors on pictures."""
    rows = [torch.from_numpy(np.concatenate(list(describe_files(one, paths)))) for one in (small, model)]
    return float(pair_loss(*rows))


@pytest.mark.parametrize("form", ["serial", "parallel"])
@pytest.mark.parametrize("log_sum", [False, True])
def test_training_keeps_distances_of_held_out_pictures_better_than_the_principal_components(
    model: Model, views: list[View], paths: list[Path], tmp_path: Path, form: str, log_sum: bool
) -> None:
    config = replace(QUICK, dims=(4,), form=form, log_sum=log_sum, epochs=20)
    start = reduced(model, views, replace(config, epochs=1, learning_rate=1e-12), tmp_path)
    trained = reduced(model, views, config, tmp_path)
    assert lost(model, trained, paths[1::2]) < 0.9 * lost(model, start, paths[1::2])


@pytest.mark.parametrize("form", ["serial", "parallel"])
def test_a_reduced_model_has_one_new_layer_and_the_rest_is_untouched(
    model: Model, views: list[View], tmp_path: Path, form: str
) -> None:
    before = copy.deepcopy(model.network.state_dict())
    small = reduced(model, views, replace(QUICK, form=form), tmp_path)
    assert small.network.dim == small.spec.dim == 3
    after = small.network.state_dict()
    new = {key for key in after if key not in before or not torch.equal(after[key], before[key])}
    layer = "projection" if form == "serial" else "branches.0.whitening"
    expected = ("weight", "bias", "shift", "scale") if form == "serial" else ("weight", "bias")
    assert new == {f"{layer}.{name}" for name in expected}
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    assert "reduced from 9 to 5, 3 values" in small.spec.whitening


def test_the_shift_learns_in_the_serial_form_and_stays_what_it_was_in_the_parallel_one(
    model: Model, views: list[View], tmp_path: Path
) -> None:
    serial = reduced(model, views, QUICK, tmp_path).network.projection
    assert serial is not None
    assert serial.shift is not None
    assert serial.shift.abs().max() > 0
    whitening = model.network.whitening
    assert whitening is not None
    weights = Whitening(whitening.weight.detach().numpy(), whitening.bias.detach().numpy())
    shift = torch.linspace(-0.1, 0.1, 12)
    model.network.master.whitening = WhiteningLayer.of(weights, shift=shift, scale=torch.linspace(0.9, 1.1, 12))
    parallel = reduced(model.sealed(), views, replace(QUICK, form="parallel"), tmp_path).network.whitening
    assert parallel is not None
    assert parallel.shift is not None
    assert torch.equal(parallel.shift.detach(), shift)


@pytest.mark.parametrize("form", ["serial", "parallel"])
def test_a_stage_starts_from_the_first_rows_of_the_one_before(
    model: Model, views: list[View], tmp_path: Path, form: str
) -> None:
    frozen = replace(QUICK, epochs=1, learning_rate=1e-12, form=form)
    images = [read_image(views[0].path)]
    direct = describe(reduced(model, views, replace(frozen, dims=(3,)), tmp_path), images)
    staged = describe(reduced(model, views, frozen, tmp_path), images)
    np.testing.assert_allclose(staged, direct, atol=1e-6)


def test_a_projection_that_was_there_becomes_part_of_the_one_layer(
    model: Model, views: list[View], paths: list[Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    weights = Whitening(rng.normal(size=(8, 9)).astype(np.float32), rng.normal(size=8).astype(np.float32))
    model.network.projection = WhiteningLayer.of(weights)
    model = model.sealed()
    start = reduced(model, views, replace(QUICK, dims=(7,), epochs=1, learning_rate=1e-12), tmp_path)
    projection = start.network.projection
    assert projection is not None
    assert (projection.in_features, projection.out_features) == (9, 7)
    # 7 of 8 principal components lose little, whatever the projection was
    assert lost(model, start, paths) < 0.05


def test_the_parallel_form_sees_a_rectified_whitening_rectified(
    staged_trunk: Callable, views: list[View], tmp_path: Path
) -> None:
    plain = new_model(staged_trunk(1), sizes=((64, 64),), head=Head(fusion="concat-pca-relu", middle=(3,)))
    rng = np.random.default_rng(0)
    plain.network.whiten_with(Whitening(rng.normal(size=(9, 16)).astype(np.float32), np.zeros(9, np.float32)))
    plain.network.eval()
    plain = plain.sealed()
    still = replace(QUICK, dims=(5,), form="parallel", epochs=1, batch=len(views), learning_rate=1e-12)
    small = reduced(plain, views, still, tmp_path)
    images = [view.read() for view in views]
    after, before = (torch.from_numpy(describe(one, images)) for one in (small, plain))
    assert after.min() >= 0
    # what was trained is what is deployed
    assert log(tmp_path)[-1]["loss"] == pytest.approx(float(pair_loss(after, before)), rel=1e-3)


def test_a_reduced_model_is_saved_loaded_and_exported_as_any_other(
    model: Model, views: list[View], tmp_path: Path
) -> None:
    small = reduced(model, views, QUICK, tmp_path)
    save_model(small, tmp_path / "small.safetensors")
    again = load_model(tmp_path / "small.safetensors", copy.deepcopy(small.network.trunk))
    assert again.spec == small.spec
    (tmp_path / "small.onnx").write_bytes(build_onnx(small).SerializeToString())
    image = read_image(views[0].path)
    found = OnnxBackend(tmp_path / "small.onnx").run(prepare(image, small.spec))
    np.testing.assert_allclose(found, describe(again, [image]), atol=1e-5)


def test_an_interrupted_reduction_resumes_to_the_same_weights(model: Model, views: list[View], tmp_path: Path) -> None:
    unbroken = reduced(model, views, QUICK, tmp_path / "a")

    def interrupt(line: str) -> None:
        if line.startswith("epoch 6/8"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reduced(model, views, QUICK, tmp_path / "b", report=interrupt)
    lines: list[str] = []
    resumed = reduced(model, views, QUICK, tmp_path / "b", resume=True, report=lines.append)
    assert resumed.spec == unbroken.spec
    assert [row["dim"] for row in log(tmp_path / "b")] == [5] * 4 + [3] * 4
    assert not any("region vectors" in line for line in lines)


def test_a_seed_gives_the_same_weights_again_and_another_seed_others(
    model: Model, views: list[View], tmp_path: Path
) -> None:
    prints = [reduced(model, views, replace(QUICK, seed=seed), tmp_path).spec.weights for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_region_vectors_are_computed_once(
    model: Model, views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parallel = replace(QUICK, form="parallel")
    reduced(model, views, parallel, tmp_path)
    monkeypatch.setattr(reduce_inputs, "region_vectors", lambda *_: pytest.fail("computed again"))
    reduced(model, views, parallel, tmp_path)


def test_a_full_disk_is_one_sentence_and_what_was_written_is_found_again(
    model: Model, views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    append = TargetStore.append

    def full(store: TargetStore, keys: list[str], records: list[np.ndarray]) -> None:
        if store.folder.name == "region-vectors" and kept:
            raise OSError(28, "No space left on device")
        kept.extend([len(keys)] if store.folder.name == "region-vectors" else [])
        append(store, keys, records)

    monkeypatch.setattr(TargetStore, "append", full)
    parallel = replace(QUICK, form="parallel")
    with pytest.raises(InputError, match=r"No space left on device; 32 views still need about 1 MB there"):
        reduced(model, views, parallel, tmp_path)
    monkeypatch.undo()
    lines: list[str] = []
    reduced(model, views, parallel, tmp_path, report=lines.append)
    assert next(line for line in lines if line.startswith("region vectors")).startswith("region vectors 32/48")


def test_a_loss_that_diverges_is_one_sentence_and_the_state_is_kept(
    model: Model, views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def spoilt(students: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return pair_loss(students, teachers) * (float("nan") if len(calls) == 8 else 1)

    monkeypatch.setattr("deepir.distill.reduce.pair_loss", spoilt)
    with pytest.raises(OptionError, match=r"nan in epoch 3, step 2: the state of the epoch before is kept"):
        reduced(model, views, QUICK, tmp_path)
    monkeypatch.undo()
    resumed = reduced(model, views, QUICK, tmp_path, resume=True)
    assert resumed.spec.weights == reduced(model, views, QUICK, tmp_path / "unbroken").spec.weights


@pytest.mark.parametrize("dims", [(), (0,), (256, 512), (256, 256)])
def test_dimensions_that_do_not_fall_are_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="dims must be numbers from 1 on that fall"):
        ReduceConfig(dims=dims)


@pytest.mark.parametrize("wrong", [{"form": "both"}, {"epochs": 0}, {"batch": 1}, {"learning_rate": float("nan")}])
def test_other_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=str(next(iter(wrong.values())))):
        ReduceConfig(**wrong)  # type: ignore[arg-type]


def test_a_dimension_that_is_not_smaller_is_refused(model: Model, views: list[View], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="9 values cannot be reduced to 9"):
        reduced(model, views, ReduceConfig(dims=(9,)), tmp_path)


def test_fewer_views_than_values_are_refused(model: Model, views: list[View], tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="3 views are too few"):
        reduced(model, views[:3], QUICK, tmp_path)


def test_the_parallel_form_refuses_what_it_cannot_replace(
    make_model: MakeModel, views: list[View], tmp_path: Path
) -> None:
    parallel = replace(QUICK, form="parallel")
    for model in (make_model(), make_model(dim=9, sizes=((64, 64), (96, 96)))):
        with pytest.raises(OptionError, match="use the serial form"):
            reduced(model, views, parallel, tmp_path)
    reduced(make_model(dim=9, sizes=((64, 64), (96, 96))), views, QUICK, tmp_path)


def test_a_picture_that_does_not_decode_is_named(model: Model, views: list[View], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for form in ("serial", "parallel"):
        with pytest.raises(InputError, match=r"broken\.png"):
            reduced(model, [*views, View(tmp_path / "broken.png", 0)], replace(QUICK, form=form), tmp_path)
