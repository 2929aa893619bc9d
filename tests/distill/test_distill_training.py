"""Training lowers its loss, resumes exactly, and stops cleanly."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepir.datasets import read_labelled_folder
from deepir.descriptors import similarities
from deepir.distill.align import align_head
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe, describe_files
from deepir.distill.device import Device, find_device
from deepir.distill.epochs import Progress, run_epochs
from deepir.distill.metric import MetricConfig, set_training, train_metric
from deepir.distill.pictures import Augmentation
from deepir.distill.student import DistilConfig, distil, distil_loss, training_views
from deepir.distill.targets import TargetStore, View, teacher_targets
from deepir.distill.whitening import WhitenConfig, whiten
from deepir.errors import InputError, MissingDependency, OptionError
from deepir.image import list_images, read_image

MakeModel = Callable[..., Model]
CPU = Device("cpu")
QUICK = MetricConfig(epochs=3, batch=12, per_label=2, learning_rate=5e-3, augmentation=Augmentation(smallest_crop=0.8))


def log(progress: Progress) -> list[dict[str, float]]:
    return [json.loads(line) for line in progress.log_path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("loss", "miner"),
    [("MultiSimilarityLoss", "MultiSimilarityMiner"), ("NormalizedSoftmaxLoss", "none"), ("TripletMarginLoss", "none")],
)
def test_metric_training_lowers_its_loss(
    make_model: MakeModel, pictures: Path, tmp_path: Path, loss: str, miner: str
) -> None:
    progress = Progress(out=tmp_path / "m.safetensors")
    config = replace(QUICK, epochs=6, loss=loss, miner=miner)
    train_metric(make_model(), read_labelled_folder(pictures), config, progress, CPU)
    losses = [row["loss"] for row in log(progress)]
    assert losses[-1] < losses[0]


def test_metric_training_changes_the_fingerprint(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    model = make_model()
    before = model.spec.fingerprint
    images = read_labelled_folder(pictures)
    after = train_metric(model, images, replace(QUICK, epochs=1), Progress(out=tmp_path / "m.safetensors"), CPU)
    assert after.spec.fingerprint != before


def test_a_seed_gives_the_same_weights_again(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    images = read_labelled_folder(pictures)
    prints = {
        train_metric(
            make_model(), images, replace(QUICK, epochs=1), Progress(out=tmp_path / name), CPU
        ).spec.fingerprint
        for name in ("a.safetensors", "b.safetensors")
    }
    assert len(prints) == 1


def test_an_interrupted_training_resumes_to_the_same_weights(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    images = read_labelled_folder(pictures)
    unbroken = train_metric(make_model(), images, QUICK, Progress(out=tmp_path / "a.safetensors"), CPU)
    lines: list[str] = []

    def interrupt_after_two(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    broken = Progress(out=tmp_path / "b.safetensors", command="deepir-distill x --resume", report=interrupt_after_two)
    with pytest.raises(KeyboardInterrupt):
        train_metric(make_model(), images, QUICK, broken, CPU)
    assert lines[-1] == "stopped after epoch 2 of 3; resume with: deepir-distill x --resume"
    resumed = train_metric(
        make_model(seed=9), images, QUICK, Progress(out=tmp_path / "b.safetensors", resume=True), CPU
    )
    assert resumed.spec == unbroken.spec
    assert not broken.state_path.exists()


def test_an_interruption_before_the_first_epoch_ended_promises_no_resume(tmp_path: Path) -> None:
    lines: list[str] = []

    def interrupt(_: int) -> dict[str, float]:
        raise KeyboardInterrupt

    progress = Progress(out=tmp_path / "m.safetensors", command="x --resume", report=lines.append)
    with pytest.raises(KeyboardInterrupt):
        run_epochs(progress, {}, epochs=2, seed=0, train_epoch=interrupt)
    assert lines == ["stopped after epoch 0 of 2; no epoch was finished, so run it anew without --resume"]


def test_resuming_without_a_state_is_refused(tmp_path: Path) -> None:
    progress = Progress(out=tmp_path / "m.safetensors", resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        run_epochs(progress, {}, epochs=1, seed=0, train_epoch=lambda _: {})


def test_resuming_from_a_truncated_state_is_refused(tmp_path: Path) -> None:
    progress = Progress(out=tmp_path / "m.safetensors", resume=True)
    progress.state_path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="cannot resume"):
        run_epochs(progress, {}, epochs=1, seed=0, train_epoch=lambda _: {})


def test_one_label_is_not_enough(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    images = [image for image in read_labelled_folder(pictures) if image.label == "tea"]
    with pytest.raises(InputError, match=r"two labels or more, got 1: tea"):
        train_metric(make_model(), images, QUICK, Progress(out=tmp_path / "m.safetensors"), CPU)


@pytest.mark.parametrize("options", [{"batch": 10, "per_label": 4}, {"epochs": 0}, {"learning_rate": 0.0}])
def test_contradictory_training_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        MetricConfig(**options)


def test_an_unknown_loss_is_refused_with_those_that_exist(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    config = replace(QUICK, loss="Nonsense")
    with pytest.raises(OptionError, match="TripletMarginLoss"):
        train_metric(make_model(), read_labelled_folder(pictures), config, Progress(out=tmp_path / "m.st"), CPU)


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDependency, match="--device cpu"):
        find_device("cuda")


def test_frozen_batch_norm_keeps_its_statistics(make_model: MakeModel) -> None:
    network = make_model().network
    set_training(network, freeze_norm=True)
    before = network.trunk.stem[1].running_mean.clone()
    network(torch.rand(4, 3, 64, 64))
    torch.testing.assert_close(network.trunk.stem[1].running_mean, before)


def test_a_view_is_the_same_crop_every_time(pictures: Path) -> None:
    path = list_images(pictures)[0]
    np.testing.assert_array_equal(View(path, 3).read(), View(path, 3).read())
    assert View(path, 1).read().shape != View(path, 2).read().shape
    np.testing.assert_array_equal(View(path, 0).read(), read_image(path))


def test_targets_on_disk_are_not_computed_again(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    views = training_views(list_images(pictures / "tea"), 2)
    teacher = make_model(sizes=((32, 32), (64, 64)), dim=5)
    first = teacher_targets(teacher, views, tmp_path)
    teacher.network.trunk = torch.nn.Identity()
    np.testing.assert_array_equal(teacher_targets(teacher, list(reversed(views)), tmp_path), first[::-1])


def test_targets_are_the_teachers_descriptors(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    views = training_views(list_images(pictures / "tea"), 2)
    teacher = make_model(sizes=((32, 32), (64, 64)), dim=5)
    expected = describe(teacher, [view.read() for view in views])
    np.testing.assert_allclose(teacher_targets(teacher, views, tmp_path), expected, atol=1e-6)


@pytest.mark.parametrize("lost", [1, 7, 21])
def test_a_store_cut_off_while_writing_goes_on_from_its_last_whole_row(
    make_model: MakeModel, tmp_path: Path, lost: int
) -> None:
    teacher = make_model(dim=5)
    store = TargetStore(tmp_path, teacher)
    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    store.append(["a", "b", "c", "d"], rows)
    values = tmp_path / teacher.spec.fingerprint / "descriptors.f32"
    values.write_bytes(values.read_bytes()[:-lost])
    again = TargetStore(tmp_path, teacher)
    kept = 4 - (lost + 19) // 20
    assert [key in again for key in "abcd"] == [number < kept for number in range(4)]
    again.append(["e"], rows[:1])
    np.testing.assert_array_equal(again.gather(["e", "a"]), rows[[0, 0]])


def test_the_distillation_loss_is_zero_for_a_perfect_student() -> None:
    descriptors = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.manual_seed(0)), dim=1)
    assert float(distil_loss(descriptors, descriptors, DistilConfig())) == pytest.approx(0, abs=1e-5)
    assert float(distil_loss(descriptors.flip(0), descriptors, DistilConfig())) > 0.1


def test_distillation_brings_the_student_to_its_teacher(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    paths = list_images(pictures)
    teacher = whiten(make_model(sizes=((48, 48), (64, 64), (96, 96)), seed=1), [paths], WhitenConfig(dim=8))
    views = training_views(paths, 3)
    targets = teacher_targets(teacher, views, tmp_path / "cache")
    whole = [row for row, view in enumerate(views) if view.number == 0]

    def agreement(model: Model) -> float:
        descriptors = np.concatenate(list(describe_files(model, paths)))
        return float(np.mean(np.diag(similarities(descriptors, targets[whole]))))

    student = align_head(make_model(seed=2), views, targets)
    aligned = agreement(student)
    # these pictures are so alike that at a low temperature their order outweighs where they lie
    config = DistilConfig(epochs=8, views=3, batch=16, learning_rate=3e-3, temperature=0.2)
    student = distil(student, views, targets, config, Progress(out=tmp_path / "s.safetensors"), CPU)
    assert agreement(student) > aligned + 0.02


@pytest.mark.parametrize("epochs", [1, 5])
def test_a_training_of_very_few_steps_runs(make_model: MakeModel, pictures: Path, tmp_path: Path, epochs: int) -> None:
    config = replace(QUICK, epochs=epochs, batch=48, per_label=8)
    progress = Progress(out=tmp_path / "m.safetensors")
    train_metric(make_model(), read_labelled_folder(pictures), config, progress, CPU)
    assert len(log(progress)) == epochs


def test_a_student_of_another_dimension_is_refused(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    views = training_views(list_images(pictures / "tea"), 1)
    targets = np.zeros((len(views), 9), np.float32)
    with pytest.raises(OptionError, match="must give 9 values"):
        distil(make_model(dim=5), views, targets, DistilConfig(), Progress(out=tmp_path / "s.st"), CPU)
