"""Metric learning: losses and mining by name, warm start, validation, and what bad pictures and labels do."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepir.datasets import LabelledImage, read_labelled_folder
from deepir.distill.checkpoint import Model
from deepir.distill.device import Device
from deepir.distill.epochs import Progress
from deepir.distill.lessons import (
    TUPLE_LOSSES,
    TupleConfig,
    random_lesson,
    triplet_lesson,
    tuple_lesson,
    tuple_loss,
)
from deepir.distill.losses import triplet_loss
from deepir.distill.metric import MetricConfig, train_metric
from deepir.distill.mining import HardTripletConfig
from deepir.distill.pictures import Augmentation, PictureSights, drawing
from deepir.distill.validation import split_labels, validation_of, with_partners
from deepir.errors import InputError, OptionError
from deepir.image import list_images

MakeModel = Callable[..., Model]
CPU = Device("cpu")
QUICK = MetricConfig(
    epochs=3,
    batch=12,
    per_label=2,
    learning_rate=5e-3,
    augmentation=Augmentation(smallest_crop=0.8),
    triplets=HardTripletConfig(refresh=3, triplets=6, hardest=4),
    tuples=TupleConfig(queries=12, pool=40, negatives=3, tuples=3),
)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])


def log(progress: Progress) -> list[dict[str, float]]:
    return [json.loads(line) for line in progress.log_path.read_text().splitlines()]


def fit(model: Model, pictures: Path, out: Path, config: MetricConfig = QUICK, **more: Any) -> Model:
    return train_metric(model, read_labelled_folder(pictures), config, Progress(out=out, **more), CPU)


def spread(numbers: list[int]) -> np.ndarray:
    """Descriptors of length 1 that do not follow the labels."""
    rows = np.random.default_rng(0).normal(size=(len(LABELS), 3)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True))[numbers]


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "MultiSimilarityLoss", "miner": "MultiSimilarityMiner"},
        {"loss": "NormalizedSoftmaxLoss", "miner": "none"},
        {"loss": "SmoothAPLoss", "miner": "none"},
        {"loss": "ap", "chunk": 5, "freeze_norm": True},
        {"loss": "triplet"},
        {"loss": "triplet", "mining": "triplets"},
        {"loss": "contrastive", "mining": "negatives"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_training_lowers_the_loss(
    make_model: MakeModel, pictures: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    model, progress = make_model(), Progress(out=tmp_path / "m.safetensors")
    images = read_labelled_folder(pictures)
    before = validation_of(model, images)()["mAP"]
    train_metric(model, images, replace(QUICK, epochs=6, **options), progress, CPU)
    losses = [row["loss"] for row in log(progress)]
    mined = "mining" in options
    # what is mined is as hard as ever, so there the pictures tell, not the loss
    assert validation_of(model, images)()["mAP"] > before if mined else losses[-1] < losses[0]


def test_training_changes_the_fingerprint(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    model = make_model()
    before = model.spec.fingerprint
    assert fit(model, pictures, tmp_path / "m.st", replace(QUICK, epochs=1)).spec.fingerprint != before


@pytest.mark.parametrize(
    "options",
    [{}, {"workers": 2}, {"mining": "triplets", "loss": "triplet"}, {"mining": "negatives", "loss": "contrastive"}],
    ids=str,
)
def test_a_seed_gives_the_same_weights_again(
    make_model: MakeModel, pictures: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = replace(QUICK, epochs=2, **options)
    prints = {fit(make_model(), pictures, tmp_path / name, config).spec.fingerprint for name in ("a.st", "b.st")}
    alone = fit(make_model(), pictures, tmp_path / "c.st", replace(config, workers=0))
    assert prints == {alone.spec.fingerprint}


@pytest.mark.parametrize(
    ("stop", "options"),
    [
        ("epoch 2/3", {"loss": "ProxyAnchorLoss"}),
        ("epoch 2/3", {"loss": "triplet", "mining": "triplets"}),
        ("epoch 1/2", {"warm_epochs": 2}),
        ("epoch 2/2", {"warm_epochs": 2}),
        ("epoch 1/3", {"warm_epochs": 2}),
    ],
    ids=str,
)
def test_an_interrupted_training_resumes_to_the_same_weights(
    make_model: MakeModel, pictures: Path, tmp_path: Path, stop: str, options: dict[str, Any]
) -> None:
    config = replace(QUICK, **options)
    unbroken = fit(make_model(), pictures, tmp_path / "a.st", config)
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith(stop):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), pictures, tmp_path / "b.st", config, command="x --resume", report=interrupt)
    assert lines[-1] == f"stopped after {stop.replace('/', ' of ')}; resume with: x --resume"
    resumed = fit(make_model(seed=9), pictures, tmp_path / "b.st", config, resume=True)
    assert resumed.spec == unbroken.spec
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".state")] == []


def test_the_warm_start_names_the_labels_better_and_better(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    fit(make_model(), pictures, tmp_path / "m.st", replace(QUICK, epochs=1, warm_epochs=6))
    losses = [row["loss"] for row in log(Progress(out=tmp_path / "m.st.warm"))]
    assert losses[-1] < losses[0]


def test_held_out_labels_are_validated_and_not_trained_on(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    config = replace(QUICK, epochs=2, held_out=0.4)
    fit(make_model(), pictures, tmp_path / "m.st", config)
    assert all(0 < row["mAP"] <= 1 and 0 <= row["recall@1"] <= 1 for row in log(Progress(out=tmp_path / "m.st")))
    learnt, held_out = split_labels(read_labelled_folder(pictures), 0.4, 0)
    assert len({image.label for image in held_out}) == 2
    assert not {image.label for image in learnt} & {image.label for image in held_out}


def test_training_stops_early_with_the_best_weights(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    images = read_labelled_folder(pictures)
    config = replace(QUICK, epochs=12, held_out=0.4, patience=1, learning_rate=0.3)
    progress = Progress(out=tmp_path / "m.st")
    model = train_metric(make_model(), images, config, progress, CPU)
    scores = [row["mAP"] for row in log(progress)]
    assert validation_of(model, split_labels(images, 0.4, 0)[1])()["mAP"] == pytest.approx(max(scores), abs=1e-6)
    assert len(scores) < 12


def test_the_validation_of_a_perfect_network_is_one(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    images = []
    for label, path in {"bread": pictures / "bread" / "0.png", "tea": pictures / "tea" / "0.png"}.items():
        for number in range(2):
            copy = tmp_path / f"{label}{number}.png"
            copy.write_bytes(path.read_bytes())
            images.append(LabelledImage(copy, label))
    assert validation_of(make_model(), images)() == {"mAP": 1.0, "recall@1": 1.0}


def test_labels_with_one_picture_are_left_out_and_named(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    images = [*read_labelled_folder(pictures), LabelledImage(pictures / "tea" / "0.png", "lonely")]
    progress = Progress(out=tmp_path / "m.st", report=lines.append)
    train_metric(make_model(), images, replace(QUICK, epochs=1), progress, CPU)
    assert lines[0] == "left out 1 of 7 labels, which have one picture only: lonely"


def test_many_labels_with_one_picture_are_named_in_part() -> None:
    lines: list[str] = []
    images = [LabelledImage(Path(f"{label}{copy}"), label) for label in "ab" for copy in range(2)]
    images += [LabelledImage(Path(label), label) for label in "vwxyz"]
    assert [image.label for image in with_partners(images, lines.append)] == list("aabb")
    assert lines == ["left out 5 of 7 labels, which have one picture only: v, w, x, ..."]


@pytest.mark.parametrize("labels", ["", "aa", "aab", "ab"])
def test_fewer_than_two_labels_with_two_pictures_are_not_enough(labels: str) -> None:
    images = [LabelledImage(Path(str(number)), label) for number, label in enumerate(labels)]
    with pytest.raises(InputError, match=r"two labels or more, got [01]"):
        with_partners(images, lambda _: None)


def test_holding_out_all_labels_is_refused() -> None:
    images = [LabelledImage(Path(f"{label}{copy}"), label) for label in "abc" for copy in range(2)]
    with pytest.raises(InputError, match="holding out 2 of 3 labels"):
        split_labels(images, 0.5, 0)


def test_a_picture_that_does_not_decode_is_named_and_training_resumes_once_it_is_replaced(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    for path in list_images(pictures):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    damaged = folder / "soap" / "3.png"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:50])
    with pytest.raises(InputError, match=r"cannot decode .*soap/3\.png.*the training is saved in epoch"):
        fit(make_model(), folder, tmp_path / "m.st")
    damaged.write_bytes(good)
    resumed = fit(make_model(), folder, tmp_path / "m.st", resume=True)
    assert resumed.spec == fit(make_model(), folder, tmp_path / "n.st").spec


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 10, "per_label": 4},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"mining": "gold"},
        {"mining": "triplets"},
        {"mining": "negatives", "loss": "ap"},
        {"held_out": 0.6},
        {"warm_epochs": -1},
        {"patience": 2},
    ],
    ids=str,
)
def test_contradictory_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        MetricConfig(**options)


def test_chunks_without_frozen_norm_are_refused(make_model: MakeModel, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"BatchNorm2d\) is in training mode.*--freeze-norm"):
        fit(make_model(), pictures, tmp_path / "m.st", replace(QUICK, chunk=4))


def test_an_unknown_loss_is_refused_with_those_that_are_close(
    make_model: MakeModel, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="TripletMarginLoss"):
        fit(make_model(), pictures, tmp_path / "m.st", replace(QUICK, loss="TripletMarginLos"))


@pytest.mark.parametrize("epochs", [1, 5])
def test_a_training_of_very_few_steps_runs(make_model: MakeModel, pictures: Path, tmp_path: Path, epochs: int) -> None:
    fit(make_model(), pictures, tmp_path / "m.st", replace(QUICK, epochs=epochs, batch=48, per_label=8))
    assert len(log(Progress(out=tmp_path / "m.st"))) == epochs


def test_random_batches_have_their_share_of_each_label() -> None:
    torch.manual_seed(0)
    batches = random_lesson(LABELS, 4, 2, torch.nn.Identity(), None).batches(0)
    assert len(batches) == 2
    for batch in batches:
        assert set(Counter(LABELS[list(batch.numbers)].tolist()).values()) == {2}


def test_mined_triplets_have_a_loss_and_change_with_the_epoch() -> None:
    config = HardTripletConfig(candidates=10, refresh=3, triplets=5)
    lesson = triplet_lesson(LABELS, config, "triplet", 0, spread)
    first, again, later = lesson.batches(0), lesson.batches(0), lesson.batches(1)
    assert first == again != later
    assert [len(batch.numbers) for batch in first] == [15] * 3
    for batch in first:
        rows = torch.from_numpy(spread(list(batch.numbers))).view(5, 3, 3)
        for triplet in rows:
            assert float(triplet_loss(*triplet[:, None], 0.1)) > 0
        assert float(lesson.loss(rows.flatten(0, 1), torch.tensor(batch.numbers))) > 0


def test_when_every_triplet_keeps_the_margin_those_come_that_keep_it_least() -> None:
    def perfect(numbers: list[int]) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[LABELS[numbers]]

    lesson = triplet_lesson(LABELS, HardTripletConfig(refresh=2, triplets=4), "triplet", 0, perfect)
    for batch in lesson.batches(0):
        labels = LABELS[list(batch.numbers)].view(4, 3)
        assert (labels[:, 0] == labels[:, 1]).all()
        assert (labels[:, 0] != labels[:, 2]).all()
        assert float(lesson.loss(torch.from_numpy(perfect(list(batch.numbers))), torch.tensor(batch.numbers))) == 0


def test_hard_negatives_are_of_other_labels_each_and_mined_anew_with_the_network() -> None:
    config = TupleConfig(queries=6, pool=10, negatives=2, tuples=4)
    turned = tuple_lesson(LABELS, config, "contrastive", 0, lambda numbers: spread(numbers)[:, ::-1] * [1, -1, 1])
    lesson = tuple_lesson(LABELS, config, "contrastive", 0, spread)
    batches = lesson.batches(0)
    assert batches == lesson.batches(0)
    assert [len(batch.numbers) for batch in batches] == [16, 8]
    assert turned.batches(0) != batches or lesson.batches(1) != batches
    for batch in batches:
        for query, positive, *negatives in torch.tensor(batch.numbers).view(-1, 4).tolist():
            assert query != positive
            assert LABELS[query] == LABELS[positive]
            labels = {int(LABELS[negative]) for negative in negatives}
            assert len(labels) == 2
            assert int(LABELS[query]) not in labels


@pytest.mark.parametrize("name", TUPLE_LOSSES)
def test_the_losses_of_tuples_are_those_of_their_pairs(name: str) -> None:
    rows = torch.nn.functional.normalize(torch.randn(12, 5, generator=torch.manual_seed(0)), dim=1)
    expected = []
    for query, positive, *negatives in rows.view(3, 4, 5):
        nearer = (query - positive).norm()
        for negative in negatives:
            farther = (query - negative).norm()
            if name == "triplet-logexp":
                expected.append(torch.log1p((nearer - farther).exp()))
            elif name.startswith("triplet"):
                expected.append((TUPLE_LOSSES[name] + nearer**2 - farther**2).clamp(min=0) / 2)
            elif name == "contrastive":
                expected.append((TUPLE_LOSSES[name] - farther).clamp(min=0) ** 2 / 2)
            else:
                expected.append((TUPLE_LOSSES[name] - farther**2).clamp(min=0) / 2)
        if name.startswith("contrastive"):
            expected.append(nearer**2 / 2)
    values = torch.stack(expected)
    mean = values[values > 0].mean() if name == "triplet" else values.mean()
    found = tuple_loss(name, 4)(rows, torch.arange(12))
    torch.testing.assert_close(found, mean, atol=1e-5, rtol=1e-5)


def test_a_sight_depends_on_seed_epoch_and_number_alone(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures)[:3]
    sights = PictureSights(paths, make_model().spec, Augmentation(), seed=3)
    torch.rand(5)
    first = sights.sight(1, 2, None)
    torch.rand(5)
    assert torch.equal(first, PictureSights(paths, make_model().spec, Augmentation(), seed=3).sight(1, 2, None))
    assert first.shape == (3, 64, 64)
    assert sights.sight(1, 2, (32, 48)).shape == (3, 32, 48)
    others = [sights.sight(1, 3, None), replace(sights, seed=4).sight(1, 2, None), sights.sight(2, 2, None)]
    assert not any(torch.equal(first, other) for other in others)


def test_drawing_leaves_what_is_drawn_afterwards_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with drawing(1, 2, 3):
        torch.rand(9)
    assert torch.equal(torch.rand(3), expected)
