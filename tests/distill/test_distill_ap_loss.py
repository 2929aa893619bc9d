"""AP losses: golden values, the ranking in plain numpy, gradients, and queries that have no answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from deepir.distill.ap_loss import APLoss, TieAwareAPLoss, ap_loss, tie_aware_ap_loss
from deepir.distill.label_matrix import label_matrix, without_self
from deepir.errors import OptionError, ShapeError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())
TOY = torch.tensor(GOLDEN["toy_X"], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "quantised": APLoss,
    "of distances": lambda: APLoss(distances=True),
    "without self": lambda: APLoss(drop_self=True),
    "tie-aware": TieAwareAPLoss,
    "simplified": lambda: TieAwareAPLoss(simplified=True),
    "tie-aware without self": lambda: TieAwareAPLoss(drop_self=True),
}
each_loss = pytest.mark.parametrize("loss", [make() for make in LOSSES.values()], ids=list(LOSSES))


def unit(seed: int, count: int, dim: int = 4) -> Tensor:
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(rows, dim=1)


def shares(score: float, bins: int) -> np.ndarray:
    """What each bin gets of a score: a triangle around its centre, flat beyond the ends."""
    centres = np.linspace(1, 0, bins)
    found = np.maximum(0, 1 - np.abs(centres - score) * (bins - 1))
    found[0], found[-1] = max(found[0], score >= 1), max(found[-1], score <= 0)
    return found


@pytest.mark.parametrize("bins", [20, 25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_has_the_golden_values(bins: int, dtype: torch.dtype) -> None:
    rows = TOY.to(dtype)
    found = [APLoss(bins), TieAwareAPLoss(bins), TieAwareAPLoss(bins, simplified=True)]
    names = ["APLoss", "TAPLoss", "TAPLoss_simplified"]
    for loss, name in zip(found, names, strict=True):
        assert loss(rows, LABELS).item() == pytest.approx(GOLDEN[f"{name}_nq{bins}_loss"], abs=1e-6)


@pytest.mark.parametrize("bins", [20, 25])
@pytest.mark.parametrize("query", range(6))
def test_each_query_has_its_golden_precision(query: int, bins: int) -> None:
    scores, matrix = (TOY @ TOY.T)[query, None], label_matrix(LABELS, drop_self=False)[query, None]
    found = [
        ap_loss(scores, matrix, bins),
        tie_aware_ap_loss(scores, matrix, bins),
        tie_aware_ap_loss(scores, matrix, bins, simplified=True),
    ]
    names = ["APLoss", "TAPLoss", "TAPLoss_simplified"]
    golden = [GOLDEN[f"{name}_nq{bins}_AP_per_query"][query] for name in names]
    assert [1 - one.item() for one in found] == pytest.approx(golden, abs=1e-6)


def test_the_loss_of_distances_has_its_golden_value() -> None:
    assert APLoss(distances=True)(TOY, LABELS).item() == pytest.approx(GOLDEN["APLoss_dist_nq25_loss"], abs=1e-6)


@pytest.mark.parametrize("loss", [ap_loss, tie_aware_ap_loss])
def test_distances_are_those_of_the_published_form(loss: Callable[..., Tensor]) -> None:
    scores, matrix = torch.tensor([[0.9999, 0.98, 0.95, 0.9, 0.8]]), torch.tensor([[0, 1, 0, 1, 0]])
    ranked = loss(1 - (2.001 - 2 * scores).sqrt(), matrix)
    assert loss(scores, matrix, distances=True).item() == pytest.approx(ranked.item(), abs=1e-6)
    # at a similarity of 1 the published form is far from the plain distance
    assert loss(1 - (2 - 2 * scores).sqrt(), matrix).item() != pytest.approx(ranked.item(), abs=1e-3)


def test_the_shares_of_the_reference_are_the_golden_ones() -> None:
    table = np.stack([shares(score, 5) for score in (0.1, 0.5, 0.95)], axis=1)
    np.testing.assert_allclose(table, GOLDEN["quantiser_nq5_scores_0.1_0.5_0.95"], atol=1e-12)


@given(seed=st.integers(0, 1 << 16), bins=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_both_losses_are_what_plain_loops_give(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.uniform(-0.5, 1.2, 9), rng.permutation([1, 1, 1, 0, 0, 0, 0, 0, 0])
    each = np.stack([shares(score, bins) for score in scores])
    mass, hits = each.sum(axis=0), each[labels == 1].sum(axis=0)
    quantised = tied = before = hits_before = 0.0
    for b in range(bins):
        quantised += hits[b] * (hits_before + hits[b]) / max(before + mass[b], 1e-16)
        share = max(hits[b] - 1, 0) / (max(mass[b] - 1, 0) + 1e-8)
        growth = np.log((before + mass[b] + 1) / (before + 1))
        tied += hits[b] * (mass[b] * share + (hits_before + 1 - share * (before + 1)) * growth) / (mass[b] + 1e-8)
        before, hits_before = before + mass[b], hits_before + hits[b]
    rows, matrix = torch.from_numpy(scores)[None], torch.from_numpy(labels)[None]
    assert ap_loss(rows, matrix, bins).item() == pytest.approx(1 - quantised / 3, abs=1e-6)
    assert tie_aware_ap_loss(rows, matrix, bins).item() == pytest.approx(1 - tied / 3, abs=1e-6)


@given(order=st.permutations(range(12)), seed=st.integers(0, 1 << 16))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_changes_nothing(order: list[int], seed: int) -> None:
    descriptors, labels = unit(seed, 12), torch.arange(12) % 4
    for loss in (make() for make in LOSSES.values()):
        moved = loss(descriptors[order], labels[order]).item()
        assert moved == pytest.approx(loss(descriptors, labels).item(), abs=1e-6)


@given(count=st.integers(2, 5), answers=st.integers(1, 4), seed=st.integers(0, 1 << 16))
@settings(max_examples=20, deadline=None)
def test_a_perfect_ranking_costs_next_to_nothing(count: int, answers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = torch.tensor([[1.0] * answers + [0.0] * 8] * count)[:, torch.from_numpy(rng.permutation(answers + 8))]
    scores = torch.where(matrix > 0, 0.8 + 0.2 * torch.rand(matrix.shape), 0.5 * torch.rand(matrix.shape))
    assert ap_loss(scores, matrix).item() == pytest.approx(0, abs=1e-5)
    assert ap_loss(1 - scores, matrix).item() > 0.5


@each_loss
def test_the_gradient_is_that_of_finite_differences(loss: nn.Module) -> None:
    # a row of length 1 has its own similarity on the edge of the first bin, where there is no derivative
    labels = torch.arange(9) % 3
    assert torch.autograd.gradcheck(lambda rows: loss(rows * 0.97, labels), unit(2, 9).requires_grad_())


def test_a_step_along_the_gradient_improves_the_ranking() -> None:
    rows, labels = unit(3, 24, 8).requires_grad_(), torch.arange(24) % 6
    for loss in (APLoss(), TieAwareAPLoss(), TieAwareAPLoss(simplified=True)):
        leaf = rows.detach().clone().requires_grad_()
        before = loss(leaf, labels)
        for _ in range(40):
            (step,) = torch.autograd.grad(loss(functional.normalize(leaf, dim=1), labels), leaf)
            leaf = (leaf - step).detach().requires_grad_()
        assert loss(functional.normalize(leaf, dim=1), labels) < 0.8 * before


def test_scores_below_the_least_fall_in_the_last_bin() -> None:
    matrix = torch.tensor([[1, 0, 0]])
    far = ap_loss(torch.tensor([[-0.9, -0.1, -0.5]]), matrix)
    assert far.item() == pytest.approx(ap_loss(torch.zeros(1, 3), matrix).item())
    assert far.item() == pytest.approx(2 / 3)


def test_a_query_without_an_answer_is_left_out() -> None:
    scores, matrix = TOY @ TOY.T, label_matrix(LABELS, drop_self=False)
    with_silent = torch.cat([matrix, torch.zeros(1, 6)]), torch.cat([scores, scores[:1]])
    for loss in (ap_loss, tie_aware_ap_loss):
        assert loss(with_silent[1], with_silent[0]).item() == pytest.approx(loss(scores, matrix).item())


@each_loss
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5], [0]], ids=["no positive", "no negative", "one picture"])
def test_a_batch_with_nothing_to_rank_costs_nothing(loss: nn.Module, labels: list[int]) -> None:
    rows = torch.eye(4)[: len(labels)].requires_grad_()
    value = loss(rows, torch.tensor(labels))
    (found,) = torch.autograd.grad(value, rows)
    assert value.item() == 0
    assert not found.any()


def test_a_ranking_of_answers_only_is_perfect() -> None:
    scores = torch.rand(3, 5, requires_grad=True)
    value = ap_loss(scores, torch.ones(3, 5))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-4


def test_the_gradient_stays_small_where_a_bin_holds_about_one_picture() -> None:
    for mass in (1.0, 1 + 1e-7, 1 + 1e-6, 1 + 1e-5, 1 + 1e-4):
        scores = torch.tensor([[1.0, (mass - 1) / 24 + 23 / 24, 0.2]], requires_grad=True)
        tie_aware_ap_loss(scores, torch.tensor([[1, 1, 0]])).backward()
        assert scores.grad is not None
        assert scores.grad.abs().max() < 100


@each_loss
def test_nan_reaches_the_loss_where_the_training_sees_it(loss: nn.Module) -> None:
    rows = TOY.clone()
    rows[2] = torch.nan
    assert loss(rows, LABELS).isnan()


def test_a_query_can_be_taken_out_of_its_own_ranking() -> None:
    scores, matrix = without_self(TOY @ TOY.T), label_matrix(LABELS, drop_self=True)
    assert APLoss(drop_self=True)(TOY, LABELS).item() == pytest.approx(ap_loss(scores, matrix).item())
    assert APLoss(drop_self=True)(TOY, LABELS) > APLoss()(TOY, LABELS)


@pytest.mark.parametrize("loss", [ap_loss, tie_aware_ap_loss])
@pytest.mark.parametrize(
    ("scores", "matrix", "said"),
    [
        (torch.rand(6, 6), label_matrix(LABELS, drop_self=True), r"got \(6, 6\) and \(6, 5\)"),
        (torch.rand(6), torch.ones(6), r"got \(6,\)"),
        (torch.rand(2, 6), torch.full((2, 6), 0.5), "0 and 1 only"),
        (torch.rand(2, 6), torch.full((2, 6), torch.nan), "0 and 1 only"),
        (torch.rand(2, 6), torch.full((2, 6), -1), "0 and 1 only"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(
    loss: Callable[..., Tensor], scores: Tensor, matrix: Tensor, said: str
) -> None:
    with pytest.raises(ShapeError, match=said):
        loss(scores, matrix)


def test_fewer_than_two_bins_are_refused() -> None:
    for make in (APLoss, TieAwareAPLoss):
        with pytest.raises(OptionError, match="two bins or more, got 1"):
            make(1)
    with pytest.raises(OptionError, match="got 0"):
        ap_loss(torch.rand(1, 2), torch.ones(1, 2), 0)


def test_labels_that_do_not_fit_the_batch_are_refused() -> None:
    with pytest.raises(ShapeError, match="got 5 labels for 6"):
        APLoss()(TOY, LABELS[:5])


@pytest.mark.parametrize("drop_self", [False, True])
@pytest.mark.parametrize("kind", [APLoss, TieAwareAPLoss])
def test_a_large_batch_in_parts_gives_the_loss_and_gradient_of_the_whole(
    kind: Callable[..., torch.nn.Module], drop_self: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.manual_seed(0)
    start = torch.nn.functional.normalize(torch.randn(61, 8, generator=generator, dtype=torch.float64), dim=1)
    # a label alone is a query without an answer once it is out of its own ranking
    labels = torch.cat([torch.arange(60) % 11, torch.tensor([99])])
    found = []
    for queries in (256, 16):
        monkeypatch.setattr("deepir.distill.ap_loss._QUERIES", queries)
        descriptors = start.clone().requires_grad_()
        loss = kind(drop_self=drop_self)(descriptors, labels)
        loss.backward()
        found.append((loss.detach(), descriptors.grad))
    torch.testing.assert_close(found[1], found[0])
