"""A student: what it sees, what its loss says, and that it comes to its teachers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepir.descriptors import normalise, similarities
from deepir.distill.align import align_head
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe, describe_files
from deepir.distill.device import Device
from deepir.distill.distil_loss import DistilLoss, LossWeights, parse_weights, similarity_divergence
from deepir.distill.epochs import Progress
from deepir.distill.pictures import Augmentation
from deepir.distill.student import DistilConfig, distil, training_views
from deepir.distill.student_sights import StudentSights
from deepir.distill.teachers import TargetConfig, Targets, make_targets
from deepir.distill.whitening import WhitenConfig, whiten
from deepir.errors import OptionError
from deepir.image import list_images, prepare
from deepir.score import average_precision

MakeModel = Callable[..., Model]
CPU = Device("cpu")
STILL = Augmentation(smallest_crop=1, light=0, perspective=0, blur=0)


def unit_rows(seed: int, *shape: int) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def targets_of(descriptors_nd: np.ndarray, regions: list[np.ndarray] | None = None) -> Targets:
    return Targets(descriptors_nd, regions, "made up")


def outputs(students_nd: np.ndarray, regions_nrd: np.ndarray | None = None) -> torch.Tensor:
    parts = [students_nd[:, None]] + ([] if regions_nrd is None else [regions_nrd])
    return torch.from_numpy(np.concatenate(parts, axis=1))


def test_the_loss_of_a_perfect_student_is_zero() -> None:
    wanted = unit_rows(0, 6, 5)
    regions = list(unit_rows(1, 6, 4, 5))
    loss = DistilLoss(targets_of(wanted, regions), LossWeights(regions=1, pairs=1))
    assert float(loss(outputs(wanted, np.stack(regions)), torch.arange(6))) == pytest.approx(0, abs=1e-5)
    assert float(loss(outputs(wanted[::-1].copy(), np.stack(regions)), torch.arange(6))) > 0.1


def test_the_cosine_part_is_the_euclidean_loss_of_caffe_on_unit_length() -> None:
    students, teachers = unit_rows(2, 7, 5), unit_rows(3, 7, 5)
    euclidean = np.sum((students - teachers) ** 2) / (2 * len(students))
    loss = DistilLoss(targets_of(teachers), LossWeights(cosine=1, similarity=0))
    assert float(loss(outputs(students), torch.arange(7))) == pytest.approx(euclidean, rel=1e-5)


def test_targets_are_found_by_the_number_of_the_view() -> None:
    wanted = unit_rows(4, 9, 5)
    loss = DistilLoss(targets_of(wanted), LossWeights())
    numbers = torch.tensor([7, 2, 5])
    assert float(loss(outputs(wanted[[7, 2, 5]]), numbers)) == pytest.approx(0, abs=1e-5)


@given(count=st.integers(2, 6), seed=st.integers(0, 1000), temperature=st.floats(0.05, 2))
def test_the_divergence_is_that_of_softmax_rows(count: int, seed: int, temperature: float) -> None:
    students, teachers = unit_rows(seed, count, 4), unit_rows(seed + 1, count, 4)

    def rows(descriptors: np.ndarray) -> np.ndarray:
        similarity = (descriptors.astype(np.float64) @ descriptors.T) / temperature
        weights = np.exp(similarity[~np.eye(count, dtype=bool)].reshape(count, count - 1))
        return weights / weights.sum(axis=1, keepdims=True)

    wanted, found = rows(teachers), rows(students)
    expected = np.sum(wanted * np.log(wanted / found)) / count
    value = similarity_divergence(torch.from_numpy(students), torch.from_numpy(teachers), temperature)
    assert float(value) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_batch_of_one_has_no_similarities_and_no_nan() -> None:
    loss = DistilLoss(targets_of(unit_rows(0, 1, 5)), LossWeights(pairs=1))
    assert np.isfinite(float(loss(outputs(unit_rows(1, 1, 5)), torch.arange(1))))


def test_regions_count_only_where_the_teacher_has_as_many() -> None:
    wanted, students = unit_rows(0, 3, 5), unit_rows(1, 3, 4, 5)
    regions = [students[0], unit_rows(2, 3, 5), np.zeros((0, 5), np.float32)]
    only = LossWeights(cosine=0, similarity=0, regions=1)
    loss = DistilLoss(targets_of(wanted, regions), only)
    assert float(loss(outputs(wanted, students), torch.arange(3))) == pytest.approx(0, abs=1e-6)
    without = DistilLoss(targets_of(wanted, [regions[2]] * 3), only)
    assert float(without(outputs(wanted, students), torch.arange(3))) == 0


def test_weights_are_read_from_words() -> None:
    assert parse_weights("cosine=2, regions") == LossWeights(cosine=2, regions=1)
    assert parse_weights("", LossWeights(pairs=3)) == LossWeights(pairs=3)


@pytest.mark.parametrize(
    "text", ["cosin=1", "cosine=x", "cosine=-1", "cosine=nan", "cosine=0,similarity=0", "cosine=inf"]
)
def test_weights_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="loss"):
        parse_weights(text)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures that lie and six that stand, none like another."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for number in range(12):
        size = (120, 90) if number % 2 else (90, 121)
        picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), size)
        cv2.imwrite(str(folder / f"{number:02d}.png"), picture)
    return folder


def test_what_varies_depends_on_seed_epoch_and_number_alone(make_model: MakeModel, shapes: Path) -> None:
    views = training_views(list_images(shapes), 2)
    sights, again = (StudentSights(views, make_model().spec, Augmentation(), 5) for _ in range(2))
    first = sights.sight(3, 1, None)
    torch.rand(7)
    np.testing.assert_array_equal(again.sight(3, 1, None), first)
    assert not torch.equal(sights.sight(3, 2, None), first)


def test_a_still_sight_is_the_picture_as_everywhere_else(make_model: MakeModel, shapes: Path) -> None:
    views = training_views(list_images(shapes), 1)
    spec = make_model().spec
    sights = StudentSights(views, spec, STILL, 0)
    np.testing.assert_array_equal(sights.sight(2, 0, None)[None], prepare(views[2].read(), spec))
    np.testing.assert_array_equal(sights.plain([2]), prepare(views[2].read(), spec))


def test_a_mirrored_picture_keeps_its_target(make_model: MakeModel, shapes: Path) -> None:
    views = training_views(list_images(shapes), 1)
    spec = make_model().spec
    mirroring = StudentSights(views, spec, replace(STILL, flip=True), 0)
    plain = torch.from_numpy(prepare(views[4].read(), spec)[0])
    seen = [mirroring.sight(4, epoch, None) for epoch in range(8)]
    mirrored = [torch.allclose(sight, plain.flip(2), atol=0.05) for sight in seen]
    assert {*mirrored} == {True, False}
    assert all(torch.equal(sight, plain) for sight, flipped in zip(seen, mirrored, strict=True) if not flipped)
    # the loss looks the target up by the number, which a mirrored sight keeps (method.md 4.3)
    wanted = unit_rows(0, len(views), 5)
    assert float(DistilLoss(targets_of(wanted), LossWeights())(outputs(wanted[[4]]), torch.tensor([4]))) < 1e-5


def test_pictures_of_one_aspect_share_a_batch_at_a_size_of_whole_steps(make_model: MakeModel, shapes: Path) -> None:
    model = make_model(sizes=((128, 128),))
    views = training_views(list_images(shapes), 1)
    sights = StudentSights(views, replace(model.spec, resize="longest"), STILL, 0)
    seen: dict[int, tuple[int, int]] = {}
    for epoch in range(6):
        batches = sights.batches(range(12), 3, (0.7, 1.3))(epoch)
        assert sorted(number for batch in batches for number in batch.numbers) == list(range(12))
        for batch in batches:
            assert batch.size is not None
            assert [side % 32 for side in batch.size] == [0, 0]
            lies = {views[number].read().shape[1] > 100 for number in batch.numbers}
            assert len(lies) == 1
            assert batch.size[0] == batch.size[1] or (batch.size[1] > batch.size[0]) == lies.pop()
            assert sights.sight(batch.numbers[0], epoch, batch.size).shape == (3, *batch.size)
            seen[max(batch.size)] = batch.size
    assert len(seen) > 1


def test_batches_differ_between_epochs_and_not_between_runs(make_model: MakeModel, shapes: Path) -> None:
    sights = StudentSights(training_views(list_images(shapes), 1), make_model().spec, STILL, 3)
    of_epoch = sights.batches(range(12), 4, (1.0, 1.0))
    assert of_epoch(0) == of_epoch(0) != of_epoch(1)


def test_a_rest_of_less_than_half_a_batch_waits_for_the_next_epoch(make_model: MakeModel, shapes: Path) -> None:
    sights = StudentSights(training_views(list_images(shapes), 1), make_model().spec, STILL, 3)
    assert sorted(len(batch.numbers) for batch in sights.batches(range(12), 8, (1.0, 1.0))(0)) == [4, 8]
    assert [len(batch.numbers) for batch in sights.batches(range(11), 8, (1.0, 1.0))(0)] == [8]
    assert [len(batch.numbers) for batch in sights.batches(range(3), 8, (1.0, 1.0))(0)] == [3]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Eight things, five pictures of each: shifted, lit, with noise."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(1)
    labels = []
    for thing in range(8):
        pattern = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (120, 120), interpolation=cv2.INTER_CUBIC)
        for view in range(5):
            top, left = rng.integers(0, 24, 2)
            picture = pattern[top : top + 96, left : left + 96].astype(np.float32) * rng.uniform(0.7, 1.2)
            picture += rng.normal(0, 12, picture.shape)
            cv2.imwrite(str(folder / f"{thing}_{view}.png"), np.clip(picture, 0, 255).astype(np.uint8))
            labels.append(thing)
    return folder, labels


def mean_ap(descriptors_nd: np.ndarray, labels: list[int]) -> float:
    similarity = similarities(descriptors_nd, descriptors_nd)
    values = []
    for query, row in enumerate(similarity):
        order = [other for other in np.argsort(-row) if other != query]
        relevant = np.array([labels[other] == labels[query] for other in order])
        values.append(average_precision(relevant, int(relevant.sum())))
    return float(np.mean(values))


@pytest.mark.parametrize("regions", [0.0, 1.0])
def test_a_student_comes_to_its_teacher_and_finds_more_than_before(
    make_model: MakeModel, world: tuple[Path, list[int]], tmp_path: Path, regions: float
) -> None:
    folder, labels = world
    paths = list_images(folder)
    teacher = whiten(make_model(sizes=((48, 48), (64, 64), (96, 96)), seed=1), [paths], WhitenConfig(dim=8))
    views = training_views(paths, 3)
    targets = make_targets([teacher], views, tmp_path / "cache", TargetConfig(regions=True))
    whole = targets.descriptors_nd[[row for row, view in enumerate(views) if view.number == 0]]

    def judged(model: Model) -> tuple[float, float]:
        descriptors = np.concatenate(list(describe_files(model, paths)))
        return float((descriptors * whole).sum(axis=1).mean()), mean_ap(descriptors, labels)

    student = align_head(make_model(seed=2), views, targets.descriptors_nd)
    cosine_before, ap_before = judged(student)
    config = DistilConfig(
        epochs=10, batch=16, learning_rate=4e-3, weights=LossWeights(regions=regions, temperature=0.2), validation=0.1
    )
    student = distil(student, views, targets, config, Progress(out=tmp_path / "s.safetensors"), CPU)
    cosine_after, ap_after = judged(student)
    assert cosine_after > cosine_before + 0.02
    assert ap_after > ap_before
    assert "learnt on 108 views from custom:tiny" in student.spec.whitening
    log = (tmp_path / "s.safetensors.log.jsonl").read_text()
    assert log.count("validation_cosine") == 10


def test_held_out_pictures_are_not_trained_on(make_model: MakeModel, shapes: Path, tmp_path: Path) -> None:
    views = training_views(list_images(shapes), 2)
    model = make_model(dim=5)
    targets = make_targets([make_model(dim=5, seed=3)], views, tmp_path / "cache")
    learnt: set[int] = set()

    class Watched(DistilLoss):
        def __call__(self, found: torch.Tensor, numbers_n: torch.Tensor) -> torch.Tensor:
            learnt.update(numbers_n.tolist())
            return super().__call__(found, numbers_n)

    config = DistilConfig(epochs=3, batch=4, validation=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepir.distill.student.DistilLoss", Watched)
        distil(model, views, targets, config, Progress(out=tmp_path / "s.safetensors"), CPU)
    held = {views[number].path for number in set(range(24)) - learnt}
    assert len(held) == 3
    assert not held & {views[number].path for number in learnt}


def test_training_with_fake_quantisation_leaves_an_ordinary_network(
    make_model: MakeModel, shapes: Path, tmp_path: Path
) -> None:
    views = training_views(list_images(shapes), 1)
    model = make_model(dim=5)
    names = list(model.network.state_dict())
    before = describe(model, [views[0].read()])
    targets = make_targets([make_model(dim=5, seed=3)], views, tmp_path / "cache")
    config = DistilConfig(epochs=2, batch=4, quantised=True)
    student = distil(model, views, targets, config, Progress(out=tmp_path / "s.safetensors"), CPU)
    assert list(student.network.state_dict()) == names
    assert not np.array_equal(describe(student, [views[0].read()]), before)


def test_a_student_of_another_dimension_is_refused(make_model: MakeModel, shapes: Path, tmp_path: Path) -> None:
    views = training_views(list_images(shapes), 1)
    with pytest.raises(OptionError, match="must give 9 values"):
        distil(
            make_model(dim=5), views, targets_of(unit_rows(0, 12, 9)), DistilConfig(), Progress(out=tmp_path / "s"), CPU
        )


@pytest.mark.parametrize(
    ("count", "weights", "words"),
    [(11, LossWeights(), "12 views and 11 targets"), (12, LossWeights(regions=1), "targets have none")],
)
def test_targets_that_do_not_fit_are_refused(
    make_model: MakeModel, shapes: Path, tmp_path: Path, count: int, weights: LossWeights, words: str
) -> None:
    views = training_views(list_images(shapes), 1)
    config = DistilConfig(weights=weights)
    with pytest.raises(OptionError, match=words):
        distil(make_model(dim=5), views, targets_of(unit_rows(0, count, 5)), config, Progress(out=tmp_path / "s"), CPU)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 1}, "batch must be 2"),
        ({"learning_rate": 0}, "learning_rate positive"),
        ({"jitter": (1.2, 0.8)}, "the smaller first"),
        ({"validation": 1.0}, "a share of the pictures"),
        ({"trained": "tail"}, "all, head, head\\+last-stage, got 'tail'"),
        ({"weights": LossWeights(regions=1), "augmentation": Augmentation(smallest_crop=1, flip=True)}, "mirrored"),
        ({"weights": LossWeights(regions=1), "augmentation": Augmentation(smallest_crop=0.8)}, "no further crop"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        DistilConfig(**options)  # type: ignore[arg-type]
