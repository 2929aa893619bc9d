"""Average precision as a loss: scores are shared out to bins, so that a ranking has a gradient (method.md 5).

A score lies between two bins at most, so memory does not grow with the bins; of a batch, only some hundred queries have
their scores in memory at a time.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from deepir.distill.label_matrix import batch_labels, label_matrix, without_self
from deepir.errors import OptionError, ShapeError

_QUERIES = 256
_EPSILON = 1e-8
_ABOVE_ZERO = 1e-6
_STEEP = 1e-3
"""Within this mass above 1 the ties' share rises so steeply that its gradient would drown all others."""


def ap_loss(scores_qn: Tensor, label_matrix_qn: Tensor, bins: int = 25, *, distances: bool = False) -> Tensor:
    """1 - the mean average precision of the queries that have an answer, quantised: a scalar from 0 to 1.

    Args:
        scores_qn: Similarity of each query to each picture, (Q, N), from 0 (anything below counts as 0) to 1.
        label_matrix_qn: 1 where the picture answers the query, 0 where not, (Q, N): see `label_matrix`.
        bins: Steps of the ranking, 2 or more.
        distances: Rank by 1 - sqrt(2.001 - 2 s), which is steeper between very similar pictures.

    Raises:
        ShapeError: Two arrays that are not both (Q, N), or labels other than 0 and 1.
        OptionError: Fewer than two bins.
    """
    mass, hits = _bin_masses(scores_qn, label_matrix_qn, bins, distances=distances)
    precision = hits.cumsum(dim=1) / mass.cumsum(dim=1).clamp(min=_EPSILON)
    return _loss((precision * hits).sum(dim=1), hits)


def tie_aware_ap_loss(
    scores_qn: Tensor,
    label_matrix_qn: Tensor,
    bins: int = 25,
    *,
    simplified: bool = False,
    distances: bool = False,
) -> Tensor:
    """1 - the mean average precision expected when the pictures of one bin come in random order: a scalar.

    Takes the arguments of `ap_loss` and raises the same; `simplified` takes the middle of each bin instead of the
    closed form.
    """
    mass, hits = _bin_masses(scores_qn, label_matrix_qn, bins, distances=distances)
    all_mass, all_hits = mass.cumsum(dim=1), hits.cumsum(dim=1)
    mass_before, hits_before = all_mass - mass, all_hits - hits
    if simplified:
        return _loss((hits * (hits_before + all_hits + 1) / (mass_before + all_mass + 1)).sum(dim=1), hits)
    share = functional.relu(hits - 1) / (functional.relu(mass - 1) + _EPSILON)
    share = torch.where(mass > 1 + _STEEP, share, share.detach())
    growth = torch.log1p(mass / (mass_before + 1))
    expected = mass * share + (hits_before + 1 - share * (mass_before + 1)) * growth
    return _loss((hits * expected / (mass + _EPSILON)).sum(dim=1), hits)


class APLoss(nn.Module):
    """The AP loss of a batch in which every picture asks for the others of its label.

    Without a pair of one label, or of two, it is 0 with zero gradient. A query is among the pictures it ranks, as in
    the published loss; `drop_self` takes it out.
    """

    def __init__(self, bins: int = 25, *, distances: bool = False, drop_self: bool = False) -> None:
        super().__init__()
        _check_bins(bins)
        self.bins = bins
        self.distances = distances
        self.drop_self = drop_self

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        def of_scores(scores_qn: Tensor, matrix_qn: Tensor) -> Tensor:
            return ap_loss(scores_qn, matrix_qn, self.bins, distances=self.distances)

        return _over_queries(of_scores, descriptors_nd, batch_labels(descriptors_nd, labels_n), self.drop_self)


class TieAwareAPLoss(nn.Module):
    """The tie-aware AP loss of a batch; `drop_self` as in `APLoss`."""

    def __init__(
        self, bins: int = 25, simplified: bool = False, *, distances: bool = False, drop_self: bool = False
    ) -> None:
        super().__init__()
        _check_bins(bins)
        self.bins = bins
        self.simplified = simplified
        self.distances = distances
        self.drop_self = drop_self

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        def of_scores(scores_qn: Tensor, matrix_qn: Tensor) -> Tensor:
            simplified, distances = self.simplified, self.distances
            return tie_aware_ap_loss(scores_qn, matrix_qn, self.bins, simplified=simplified, distances=distances)

        return _over_queries(of_scores, descriptors_nd, batch_labels(descriptors_nd, labels_n), self.drop_self)


def _over_queries(
    of_scores: Callable[[Tensor, Tensor], Tensor], descriptors_nd: Tensor, labels_n: Tensor, drop_self: bool
) -> Tensor:
    """The mean loss of a batch's queries, of which a few hundred at a time keep their row of scores in memory."""
    if not _has_pairs(labels_n):
        return descriptors_nd.sum() * 0
    if len(descriptors_nd) <= _QUERIES:
        scores, matrix = descriptors_nd @ descriptors_nd.T, label_matrix(labels_n, drop_self=drop_self)
        return of_scores(without_self(scores) if drop_self else scores, matrix)

    def of_rows(descriptors: Tensor, start: int) -> Tensor:
        rows = torch.arange(start, min(start + _QUERIES, len(descriptors)), device=descriptors.device)
        scores = descriptors[rows] @ descriptors.T
        matrix = label_matrix(labels_n[rows], labels_n, drop_self=False)
        if drop_self:
            others = torch.arange(len(descriptors), device=rows.device) != rows[:, None]
            scores, matrix = (whole[others].view(len(rows), -1) for whole in (scores, matrix))
        return of_scores(scores, matrix) * matrix.any(dim=1).sum()

    starts = range(0, len(descriptors_nd), _QUERIES)
    # what lies between descriptors and loss is computed again in the backward pass instead of being kept
    sums = [checkpoint(of_rows, descriptors_nd, start, use_reentrant=False) for start in starts]
    counts = torch.bincount(torch.unique(labels_n, return_inverse=True)[1])
    answered = counts[counts > 1].sum() if drop_self else len(labels_n)
    return torch.stack(sums).sum() / answered


def _has_pairs(labels_n: Tensor) -> bool:
    """Whether there is a pair of one label and a pair of two."""
    return 1 < len(set(labels_n.tolist())) < len(labels_n)


def _bin_masses(scores_qn: Tensor, label_matrix_qn: Tensor, bins: int, *, distances: bool) -> tuple[Tensor, Tensor]:
    """How many pictures, and how many answers, lie in each bin of each query that has an answer, (Q, bins) twice."""
    _check_bins(bins)
    _check_matrix(scores_qn, label_matrix_qn)
    # a query without an answer has no average precision
    answered = label_matrix_qn.any(dim=1)
    scores, labels = scores_qn[answered], label_matrix_qn[answered].to(scores_qn.dtype)
    if distances:
        scores = 1 - (2.001 - 2 * scores).clamp(min=_ABOVE_ZERO).sqrt()
    place = ((1 - scores) * (bins - 1)).clamp(0, bins - 1)
    # NaN has no place of its own, but must reach the loss, where the training sees it
    first = place.detach().nan_to_num(0).long().clamp(max=bins - 2)
    second_share = place - first
    shares = torch.cat([1 - second_share, second_share], dim=1)
    places = torch.cat([first, first + 1], dim=1)
    empty = shares.new_zeros(len(shares), bins)
    return empty.scatter_add(1, places, shares), empty.scatter_add(1, places, shares * labels.repeat(1, 2))


def _loss(precision_sums_q: Tensor, hits_qb: Tensor) -> Tensor:
    if not len(hits_qb):
        return hits_qb.sum()
    return 1 - (precision_sums_q / hits_qb.sum(dim=1)).mean()


def _check_bins(bins: int) -> None:
    if bins < 2:
        message = f"a ranking needs two bins or more, got {bins}"
        raise OptionError(message)


def _check_matrix(scores_qn: Tensor, label_matrix_qn: Tensor) -> None:
    if scores_qn.ndim != 2 or scores_qn.shape != label_matrix_qn.shape:
        message = (
            f"scores and label matrix must both be queries x pictures, got {tuple(scores_qn.shape)} and "
            f"{tuple(label_matrix_qn.shape)}: make the matrix with label_matrix, and take each query out of both"
        )
        raise ShapeError(message)
    if not ((label_matrix_qn == 0) | (label_matrix_qn == 1)).all():
        message = "a label matrix holds 0 and 1 only: make it from labels with label_matrix"
        raise ShapeError(message)
