"""The warm start by classification: it learns, its descriptors rank afterwards, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from deepir.distill.ap_loss import APLoss
from deepir.distill.classify import ClassificationLoss
from deepir.errors import OptionError, ShapeError

LABELS = torch.arange(40) % 5


def toy_pictures() -> torch.Tensor:
    """Points of five labels in 12 dimensions: most of what they differ in says nothing about the label."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 12, generator=random)
    return centres[LABELS] + torch.randn(40, 12, generator=random) * torch.tensor([0.3] * 8 + [4.0] * 4)


@pytest.mark.parametrize("form", ["softmax", "normalized"])
def test_the_loss_falls_and_the_descriptors_start_a_better_ranking(form: str) -> None:
    torch.manual_seed(0)
    pictures, trunk = toy_pictures(), nn.Linear(12, 6)
    loss = ClassificationLoss(5, 6, form)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam([*trunk.parameters(), *loss.parameters()], lr=0.02)

    def described() -> torch.Tensor:
        return functional.normalize(trunk(pictures), dim=1)

    first, ranked = loss(described(), LABELS).item(), APLoss(drop_self=True)(described(), LABELS).item()
    for _ in range(120):
        optimiser.zero_grad()
        loss(described(), LABELS).backward()
        optimiser.step()
    assert loss(described(), LABELS).item() < 0.5 * first
    assert APLoss(drop_self=True)(described(), LABELS).item() < 0.7 * ranked


def test_the_softmax_is_a_cross_entropy_of_a_linear_layer() -> None:
    loss, rows = ClassificationLoss(5, 6), torch.randn(40, 6)
    expected = functional.cross_entropy(rows @ loss.layer.weight.T + loss.layer.bias, LABELS)
    torch.testing.assert_close(loss(rows, LABELS), expected)


def test_the_normalized_form_sees_directions_only() -> None:
    loss, rows = ClassificationLoss(5, 6, "normalized"), torch.randn(40, 6)
    before = loss(rows, LABELS)
    with torch.no_grad():
        loss.layer.weight.mul_(7)
    torch.testing.assert_close(loss(rows * 3, LABELS), before)
    assert [name for name, _ in loss.named_parameters()] == ["layer.weight"]


def test_a_row_without_direction_gives_a_finite_gradient() -> None:
    rows = torch.zeros(2, 6, requires_grad=True)
    ClassificationLoss(5, 6, "normalized")(rows, torch.tensor([0, 1])).backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("labels", [[0, 5], [-1, 0]])
def test_a_label_outside_the_classes_is_refused(labels: list[int]) -> None:
    with pytest.raises(ShapeError, match="from 0 to 4, got"):
        ClassificationLoss(5, 6)(torch.zeros(2, 6), torch.tensor(labels))


def test_descriptors_of_another_dimension_or_number_are_refused() -> None:
    with pytest.raises(ShapeError, match="of 6 values, got 7"):
        ClassificationLoss(5, 6)(torch.zeros(2, 7), torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match="got 3 labels for 2"):
        ClassificationLoss(5, 6)(torch.zeros(2, 6), torch.tensor([0, 1, 2]))


def test_a_classification_that_cannot_be_is_refused() -> None:
    with pytest.raises(OptionError, match="got 1 and 6"):
        ClassificationLoss(1, 6)
    with pytest.raises(OptionError, match="got 5 and 0"):
        ClassificationLoss(5, 0)
    with pytest.raises(OptionError, match="got 'arcface'"):
        ClassificationLoss(5, 6, "arcface")  # type: ignore[arg-type]
