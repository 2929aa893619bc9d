"""Losses by distance: golden values, gradients, loops in plain numpy, and batches that have no pair."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from deepir.distill.losses import (
    ContrastiveLoss,
    LiftedStructuredLoss,
    TripletLogExpLoss,
    TripletLoss,
    caffe_euclidean,
    contrastive_loss,
    triplet_logexp_loss,
    triplet_loss,
)
from deepir.errors import OptionError, ShapeError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())
TOY = torch.tensor(GOLDEN["toy_X"], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
QUERY, SECOND, THIRD = TOY[0:1], TOY[1:2], TOY[2:3]

BATCH_LOSSES: dict[str, Callable[[], nn.Module]] = {
    "triplet": TripletLoss,
    "triplet of Caffe": lambda: TripletLoss(1.0, "caffe"),
    "triplet logexp": TripletLogExpLoss,
    "contrastive": ContrastiveLoss,
    "contrastive of the lecture": lambda: ContrastiveLoss(1.0, squared=True),
    "lifted": LiftedStructuredLoss,
}
each_loss = pytest.mark.parametrize("loss", [make() for make in BATCH_LOSSES.values()], ids=list(BATCH_LOSSES))


def unit(seed: int, count: int, dim: int = 4) -> Tensor:
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(rows, dim=1)


def gradient(loss: Callable[..., Tensor], descriptors: Tensor, labels: Tensor) -> Tensor:
    leaf = descriptors.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, labels), leaf)
    return found


def same(value: Tensor, golden: float) -> None:
    assert value.ndim == 0
    assert value.item() == pytest.approx(golden, abs=1e-6)


def test_the_triplet_losses_have_their_golden_values() -> None:
    same(triplet_loss(QUERY, THIRD, SECOND), GOLDEN["dir_triplet_m0.1_anchor0_pos2_neg1"])
    same(triplet_loss(QUERY, SECOND, THIRD), GOLDEN["dir_triplet_m0.1"])
    same(triplet_loss(QUERY, THIRD, SECOND, 1.0, "caffe"), GOLDEN["caffe_tripletloss_m1_anchor0_pos2_neg1"])
    same(triplet_logexp_loss(QUERY, SECOND, THIRD), GOLDEN["triplet_logexp"])


def test_the_contrastive_losses_have_their_golden_values() -> None:
    lecture = GOLDEN["lecture_siamese_D_is_squared_m1"]
    same(contrastive_loss(QUERY, SECOND, torch.tensor([1])), GOLDEN["cirtorch_contrastive_m0.7"])
    same(contrastive_loss(QUERY, SECOND, torch.tensor([1]), 1.0, squared=True), lecture["pos"])
    same(contrastive_loss(QUERY, SECOND, torch.tensor([0]), 1.0, squared=True), lecture["neg"])


def test_lifted_and_euclidean_have_their_golden_values() -> None:
    same(LiftedStructuredLoss()(TOY, LABELS), GOLDEN["lifted_margin1"])
    same(LiftedStructuredLoss()(TOY.float(), LABELS), GOLDEN["lifted_margin1"])
    same(caffe_euclidean(TOY[:3], TOY[3:]), GOLDEN["caffe_euclidean_rows0-2_vs_3-5"])


def test_the_euclidean_loss_of_unit_rows_is_one_less_the_cosine() -> None:
    students, teachers = unit(0, 8), unit(1, 8)
    cosines = (students * teachers).sum(dim=1)
    same(caffe_euclidean(students, teachers), (1 - cosines).mean().item())


def test_the_gradient_of_a_triplet_is_the_published_one() -> None:
    leaves = [row.clone().requires_grad_() for row in (QUERY, THIRD, SECOND)]
    found = torch.autograd.grad(triplet_loss(*leaves), leaves)
    expected = (SECOND - THIRD, THIRD - QUERY, QUERY - SECOND)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_only_dir_leaves_triplets_without_loss_out_of_the_average() -> None:
    anchors, positives, negatives = (torch.cat(rows) for rows in ((QUERY, QUERY), (THIRD, SECOND), (SECOND, THIRD)))
    golden = GOLDEN["dir_triplet_m0.1_anchor0_pos2_neg1"]
    same(triplet_loss(anchors, positives, negatives), golden)
    same(triplet_loss(anchors, positives, negatives, form="caffe"), golden / 2)


@pytest.mark.parametrize("form", ["dir", "caffe"])
def test_the_triplet_loss_of_a_batch_is_that_of_all_its_triplets(form: str) -> None:
    descriptors, labels = unit(3, 7), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    rows = [
        (a, p, n)
        for a in range(7)
        for p in range(7)
        for n in range(7)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    anchors, positives, negatives = torch.tensor(rows).T
    explicit = triplet_loss(descriptors[anchors], descriptors[positives], descriptors[negatives], 0.3, form)
    same(TripletLoss(0.3, form)(descriptors, labels), explicit.item())
    softer = triplet_logexp_loss(descriptors[anchors], descriptors[positives], descriptors[negatives])
    assert TripletLogExpLoss()(descriptors, labels).item() == pytest.approx(softer.item(), abs=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_the_contrastive_loss_of_a_batch_is_the_sum_of_two_means(squared: bool) -> None:
    descriptors, labels = unit(4, 7), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    pulls, pushes = [], []
    for i in range(7):
        for j in range(i):
            distance = (descriptors[i] - descriptors[j]).norm().item() ** (2 if squared else 1)
            power = 1 if squared else 2
            if labels[i] == labels[j]:
                pulls.append(distance**power / 2)
            elif distance < 1.2:
                pushes.append((1.2 - distance) ** power / 2)
    assert pushes
    same(ContrastiveLoss(1.2, squared=squared)(descriptors, labels), float(np.mean(pulls) + np.mean(pushes)))


def test_the_lifted_loss_is_what_plain_loops_give() -> None:
    descriptors, labels = unit(5, 7), [0, 1, 0, 2, 1, 0, 3]
    far = torch.cdist(descriptors, descriptors).tolist()
    costs = []
    for i in range(7):
        for j in range(i + 1, 7):
            if labels[i] == labels[j]:
                pushes = [math.exp(1 - far[a][k]) for a in (i, j) for k in range(7) if labels[k] != labels[a]]
                costs.append(max(0.0, far[i][j] + math.log(sum(pushes))) ** 2)
    same(LiftedStructuredLoss()(descriptors, torch.tensor(labels)), sum(costs) / len(costs) / 2)


@each_loss
def test_the_gradient_is_that_of_finite_differences(loss: nn.Module) -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 0])
    assert torch.autograd.gradcheck(lambda rows: loss(rows, labels), unit(6, 7).requires_grad_())


@each_loss
@given(seed=st.integers(0, 1 << 16), order=st.permutations(range(8)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_batch_changes_nothing(loss: nn.Module, seed: int, order: list[int]) -> None:
    descriptors, labels = unit(seed, 8), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    assert loss(descriptors[order], labels[order]).item() == pytest.approx(loss(descriptors, labels).item(), abs=1e-9)


@each_loss
def test_duplicate_pictures_give_numbers_and_finite_gradients(loss: nn.Module) -> None:
    descriptors = unit(7, 3, dim=8).float().repeat(12, 1)
    labels = torch.arange(36) % 4
    found = gradient(loss, descriptors, labels)
    assert found.isfinite().all()
    assert found.abs().max() < 10
    assert loss(torch.zeros(4, 8), torch.tensor([0, 0, 1, 1])).isfinite()


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0]], ids=["no positive", "one picture"])
@each_loss
def test_a_batch_without_a_positive_pair_pulls_nothing(loss: nn.Module, labels: list[int]) -> None:
    # far apart, so that a contrastive loss has nothing to push either
    descriptors = torch.eye(4, dtype=torch.float64)[: len(labels)]
    assert loss(descriptors, torch.tensor(labels)).item() == 0
    assert not gradient(loss, descriptors, torch.tensor(labels)).any()


@each_loss
def test_a_batch_without_a_negative_gives_a_number(loss: nn.Module) -> None:
    value, found = loss(unit(8, 4), torch.zeros(4).long()), gradient(loss, unit(8, 4), torch.zeros(4).long())
    assert found.isfinite().all()
    if isinstance(loss, ContrastiveLoss):
        assert value > 0
    else:
        assert value == 0
        assert not found.any()


@each_loss
def test_nan_reaches_the_loss_where_the_training_sees_it(loss: nn.Module) -> None:
    assert loss(TOY * torch.nan, LABELS).isnan()


@each_loss
@pytest.mark.parametrize(
    ("descriptors", "labels", "said"),
    [
        (TOY, LABELS[:5], "got 5 labels for 6"),
        (TOY, LABELS[:, None], r"got the shape \(6, 1\)"),
        (TOY, LABELS.double(), "got float64"),
        (TOY[0], LABELS, r"got \(4,\)"),
        (TOY[:0], LABELS[:0], r"got \(0, 4\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(loss: nn.Module, descriptors: Tensor, labels: Tensor, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        loss(descriptors, labels)


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 4\) and \(2, 4\) and \(1, 4\)"):
        triplet_loss(QUERY, TOY[:2], SECOND)
    with pytest.raises(ShapeError, match=r"\(3, 4\) and \(3, 2\)"):
        caffe_euclidean(TOY[:3], TOY[:3, :2])
    with pytest.raises(ShapeError, match=r"each of the 3 pairs, got \(2,\)"):
        contrastive_loss(TOY[:3], TOY[3:], torch.tensor([0, 1]))


def test_another_form_of_triplet_is_refused() -> None:
    with pytest.raises(OptionError, match="dir or caffe, got 'torch'"):
        TripletLoss(form="torch")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="dir or caffe"):
        triplet_loss(QUERY, SECOND, THIRD, form="torch")  # type: ignore[arg-type]
