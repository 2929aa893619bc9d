"""Pair losses: golden values, gradients, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deepir.distill.pair_losses import pair_log_sum_loss, pair_loss
from deepir.errors import ShapeError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "losses.json").read_text())


def toy(count: int, dim: int) -> Tensor:
    i, j = np.arange(count)[:, None], np.arange(dim)[None]
    rows = np.sin(1 + 1.7 * i * (j + 1) + 0.3 * j) + 0.1 * np.cos(3.1 * i - j)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))


STUDENTS, TEACHERS = toy(6, 4), toy(6, 7)


def test_both_forms_have_their_golden_values() -> None:
    assert pair_loss(STUDENTS, TEACHERS).item() == pytest.approx(GOLDEN["pair_l2"], abs=1e-6)
    assert pair_log_sum_loss(STUDENTS, TEACHERS).item() == pytest.approx(GOLDEN["pair_lifted"], abs=1e-6)


@pytest.mark.parametrize("loss", [pair_loss, pair_log_sum_loss])
def test_the_gradient_goes_to_the_student_alone(loss: object) -> None:
    students, teachers = STUDENTS.clone().requires_grad_(), TEACHERS.clone().requires_grad_()
    loss(students, teachers).backward()  # type: ignore[operator]
    assert students.grad is not None
    assert students.grad.any()
    assert teachers.grad is None or not teachers.grad.any()


@pytest.mark.parametrize("loss", [pair_loss, pair_log_sum_loss])
def test_the_gradient_is_that_of_finite_differences(loss: object) -> None:
    assert torch.autograd.gradcheck(lambda rows: loss(rows, TEACHERS), STUDENTS.clone().requires_grad_())  # type: ignore[operator]


def test_distances_that_are_kept_cost_nothing() -> None:
    rotation, _ = torch.linalg.qr(toy(7, 7).T @ toy(7, 7))
    assert pair_loss(TEACHERS @ rotation, TEACHERS).item() == pytest.approx(0, abs=1e-12)
    assert pair_log_sum_loss(TEACHERS, TEACHERS).item() == pytest.approx(math.log(15) / 15)


@pytest.mark.parametrize("loss", [pair_loss, pair_log_sum_loss])
def test_a_single_picture_has_no_pair(loss: object) -> None:
    students = STUDENTS[:1].clone().requires_grad_()
    value = loss(students, TEACHERS[:1])  # type: ignore[operator]
    value.backward()
    assert value.item() == 0
    assert students.grad is not None
    assert not students.grad.any()


def test_duplicate_pictures_give_a_finite_gradient() -> None:
    students = STUDENTS.float().repeat(6, 1).requires_grad_()
    pair_loss(students, TEACHERS.float().repeat(6, 1)).backward()
    assert students.grad is not None
    assert students.grad.isfinite().all()


def test_large_differences_do_not_overflow() -> None:
    assert pair_log_sum_loss(STUDENTS * 100, TEACHERS).isfinite()


def test_descriptors_of_other_pictures_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(6, 4\) and \(5, 7\)"):
        pair_loss(STUDENTS, TEACHERS[:5])
    with pytest.raises(ShapeError, match=r"\(4,\)"):
        pair_log_sum_loss(STUDENTS[0], TEACHERS)
