"""Losses that rank by distance: triplet, contrastive, lifted structured, and the regression on a teacher.

A loss of a batch takes every pair or triplet that the labels allow. A batch without one gives 0 with zero gradient.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepir.distill.label_matrix import batch_labels
from deepir.errors import OptionError, ShapeError

TripletForm = Literal["dir", "caffe"]

_EPSILON = 1e-6
"""Added to each difference before its length is taken, as torch's pairwise distance does: no gradient is NaN."""


def triplet_loss(
    anchors_td: Tensor, positives_td: Tensor, negatives_td: Tensor, margin: float = 0.1, form: TripletForm = "dir"
) -> Tensor:
    """1/2 max(0, margin + |a - p|^2 - |a - n|^2), averaged: a scalar (method.md 6 and 4.4).

    `dir` averages over the triplets with loss, the only ones that its mining keeps; `caffe` over all of them.

    Raises:
        OptionError: Another form.
        ShapeError: Three arrays that are not all (T, D).
    """
    _check_form(form)
    _check_rows(anchors_td, positives_td, negatives_td)
    nearer = (anchors_td - positives_td).square().sum(dim=1)
    farther = (anchors_td - negatives_td).square().sum(dim=1)
    return _mean_triplet(functional.relu(margin + nearer - farther) / 2, form)


def triplet_logexp_loss(anchors_td: Tensor, positives_td: Tensor, negatives_td: Tensor) -> Tensor:
    """log(1 + exp(|a - p| - |a - n|)), averaged: a scalar (method.md 5).

    Raises:
        ShapeError: Three arrays that are not all (T, D).
    """
    _check_rows(anchors_td, positives_td, negatives_td)
    nearer = functional.pairwise_distance(anchors_td, positives_td, eps=_EPSILON)
    farther = functional.pairwise_distance(anchors_td, negatives_td, eps=_EPSILON)
    return _mean(functional.softplus(nearer - farther))


def contrastive_loss(
    first_pd: Tensor, second_pd: Tensor, same_p: Tensor, margin: float = 0.7, *, squared: bool = False
) -> Tensor:
    """1/2 D^2 for pairs that are the same, 1/2 max(0, margin - D)^2 for the others, averaged: a scalar (method.md 5).

    With `squared` D is the squared distance and is not squared again: 1/2 D and 1/2 max(0, margin - D), the form of
    the lecture (method.md 6).

    Args:
        first_pd: One descriptor of each pair, (P, D).
        second_pd: The other, (P, D).
        same_p: Whether both show the same, (P,): booleans or 0 and 1.
        margin: The distance, or squared distance, from which a pair of different ones costs nothing.
        squared: The form of the lecture.

    Raises:
        ShapeError: Descriptors that are not both (P, D), `same_p` that is not (P,).
    """
    _check_rows(first_pd, second_pd)
    if same_p.shape != first_pd.shape[:1]:
        message = f"same_p needs one value for each of the {len(first_pd)} pairs, got {tuple(same_p.shape)}"
        raise ShapeError(message)
    distances = (first_pd - second_pd + (0 if squared else _EPSILON)).square().sum(dim=1)
    if not squared:
        distances = distances.sqrt()
    return _mean(_cost(torch.where(same_p.bool(), distances, functional.relu(margin - distances)), squared=squared)) / 2


def caffe_euclidean(students_nd: Tensor, teachers_nd: Tensor) -> Tensor:
    """1/(2N) sum of |student - teacher|^2, a scalar: mean(1 - cos) for descriptors of length 1 (method.md 4.3).

    Raises:
        ShapeError: Two arrays that are not both (N, D).
    """
    _check_rows(students_nd, teachers_nd)
    return _mean((students_nd - teachers_nd).square().sum(dim=1) / 2)


class TripletLoss(nn.Module):
    """The triplet loss over all triplets of a batch; needs memory for pairs of one label x pictures."""

    def __init__(self, margin: float = 0.1, form: TripletForm = "dir") -> None:
        super().__init__()
        _check_form(form)
        self.margin = margin
        self.form: TripletForm = form

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        anchors, positives, negatives_pn = _triplets(descriptors_nd, labels_n)
        distances = torch.cdist(descriptors_nd, descriptors_nd).square()
        nearer = distances[anchors, positives][:, None]
        losses = functional.relu(self.margin + nearer - distances[anchors]) / 2
        return _mean_triplet(losses[negatives_pn], self.form)


class TripletLogExpLoss(nn.Module):
    """log(1 + exp(|a - p| - |a - n|)) over all triplets of a batch."""

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        anchors, positives, negatives_pn = _triplets(descriptors_nd, labels_n)
        distances = torch.cdist(descriptors_nd, descriptors_nd)
        nearer = distances[anchors, positives][:, None]
        return _mean(functional.softplus(nearer - distances[anchors])[negatives_pn])


class ContrastiveLoss(nn.Module):
    """The mean over pairs of one label plus the mean over the pairs of two labels that are nearer than the margin.

    Two means, because a batch holds many times more pairs of two labels than of one.
    """

    def __init__(self, margin: float = 0.7, *, squared: bool = False) -> None:
        super().__init__()
        self.margin = margin
        self.squared = squared

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        labels = batch_labels(descriptors_nd, labels_n)
        same = labels[:, None] == labels[None]
        distances = torch.cdist(descriptors_nd, descriptors_nd)
        if self.squared:
            distances = distances.square()
        pulls, pushes = distances[same.triu(1)], functional.relu(self.margin - distances[~same])
        # each pair of two labels is in the matrix twice, which its mean does not show
        return (_mean(_cost(pulls, squared=self.squared)) + _mean_active(_cost(pushes, squared=self.squared))) / 2


class LiftedStructuredLoss(nn.Module):
    """The lifted structured loss with the plain distance (method.md 4.4); duplicates do no harm."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        labels = batch_labels(descriptors_nd, labels_n)
        same = labels[:, None] == labels[None]
        first, second = same.triu(1).nonzero(as_tuple=True)
        if not len(first) or same.all():
            return _nothing(descriptors_nd)
        distances = torch.cdist(descriptors_nd, descriptors_nd)
        pushes = (self.margin - distances).masked_fill(same, -torch.inf).logsumexp(dim=1)
        pulls = distances[first, second]
        return functional.relu(pulls + torch.logaddexp(pushes[first], pushes[second])).square().mean() / 2


def _triplets(descriptors_nd: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each ordered pair of one label, (P,) and (P,), and which pictures are negatives of its anchor, (P, N)."""
    labels = batch_labels(descriptors_nd, labels_n)
    same = labels[:, None] == labels[None]
    anchors, positives = same.fill_diagonal_(fill_value=False).nonzero(as_tuple=True)
    return anchors, positives, labels[anchors][:, None] != labels[None]


def _cost(distances: Tensor, *, squared: bool) -> Tensor:
    return distances if squared else distances.square()


def _mean_triplet(losses: Tensor, form: TripletForm) -> Tensor:
    return _mean_active(losses) if form == "dir" else _mean(losses)


def _mean_active(losses: Tensor) -> Tensor:
    return losses.sum() / (losses != 0).sum().clamp(min=1)


def _mean(losses: Tensor) -> Tensor:
    return losses.sum() / max(losses.numel(), 1)


def _nothing(descriptors_nd: Tensor) -> Tensor:
    return descriptors_nd.sum() * 0


def _check_form(form: str) -> None:
    if form not in {"dir", "caffe"}:
        message = f"the form of a triplet loss is dir or caffe, got {form!r}"
        raise OptionError(message)


def _check_rows(*arrays: Tensor) -> None:
    if arrays[0].ndim != 2 or any(array.shape != arrays[0].shape for array in arrays):
        shapes = " and ".join(str(tuple(array.shape)) for array in arrays)
        message = f"rows that belong together must all have the shape (N, D), got {shapes}"
        raise ShapeError(message)
