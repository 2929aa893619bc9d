"""Pair losses: a shorter descriptor learns to keep the distances of a longer one, without labels (method.md 4.5)."""

import torch
from torch import Tensor

from deepir.errors import ShapeError


def pair_loss(students_nd: Tensor, teachers_ne: Tensor) -> Tensor:
    """The mean over all pairs of (|s_i - s_j|^2 - |t_i - t_j|^2)^2: a scalar, 0 when every distance is kept.

    Args:
        students_nd: The shorter descriptors, (N, D).
        teachers_ne: The longer ones of the same pictures, (N, E); they get no gradient.

    Returns:
        A scalar; 0 with zero gradient for fewer than two pictures.

    Raises:
        ShapeError: Arrays that are not (N, D) and (N, E).
    """
    costs = _costs(students_nd, teachers_ne)
    return costs.sum() / max(len(costs), 1)


def pair_log_sum_loss(students_nd: Tensor, teachers_ne: Tensor) -> Tensor:
    """Log of the sum over all pairs of exp((|s_i - s_j|^2 - |t_i - t_j|^2)^2), over the number of pairs.

    The worst pairs weigh most. Not 0 at its best, but log(P) / P for P pairs. Arguments and errors as in `pair_loss`.
    """
    costs = _costs(students_nd, teachers_ne)
    if not len(costs):
        return costs.sum()
    return costs.logsumexp(dim=0) / len(costs)


def _costs(students_nd: Tensor, teachers_ne: Tensor) -> Tensor:
    """For each pair i < j the squared difference of the squared distances, (P,)."""
    if students_nd.ndim != 2 or teachers_ne.ndim != 2 or len(students_nd) != len(teachers_ne):
        shapes = f"{tuple(students_nd.shape)} and {tuple(teachers_ne.shape)}"
        message = f"student and teacher need a descriptor of the same pictures, (N, D) and (N, E), got {shapes}"
        raise ShapeError(message)
    first, second = torch.triu_indices(len(students_nd), len(students_nd), 1, device=students_nd.device)
    kept = torch.cdist(students_nd, students_nd).square() - torch.cdist(teachers_ne, teachers_ne).detach().square()
    return kept[first, second].square()
