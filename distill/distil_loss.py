"""What a student is told: be where your teacher is, see who is near to whom as it does, region by region."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepir.distill.layers import normalise
from deepir.distill.pair_losses import pair_loss
from deepir.distill.teachers import Targets
from deepir.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """The parts of a distillation's loss; a part of weight 0 is not computed.

    Attributes:
        cosine: Of 1 - cosine(student, teacher), which is the Euclidean loss of Caffe on length 1 (method.md 4.3).
        similarity: Of the divergence between the two rows of in-batch similarities; while the student is still far
            from its teacher a larger one outweighs the cosine and drives the two apart.
        regions: Of 1 - cosine between what each region adds for the student and for the teacher.
        pairs: Of the squared differences between squared distances of pairs (method.md 4.5).
        temperature: Softness of the similarities, above 0.
    """

    cosine: float = 4.0
    similarity: float = 0.3
    regions: float = 0.0
    pairs: float = 0.0
    temperature: float = 0.05

    def __post_init__(self) -> None:
        parts = (self.cosine, self.similarity, self.regions, self.pairs)
        if (
            min(parts) < 0
            or max(parts) == 0
            or not max(parts) < float("inf")
            or not 0 < self.temperature < float("inf")
        ):
            message = f"a loss needs weights from 0 on, one of them above 0, and a positive temperature; got {self}"
            raise OptionError(message)


def parse_weights(text: str, start: LossWeights | None = None) -> LossWeights:
    """Read `cosine=4,similarity=0.3,regions=1`; what is not named keeps its value in `start`.

    Raises:
        OptionError: A part that there is not, or no number.
    """
    known = [one.name for one in fields(LossWeights)]
    found = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.strip().partition("=")
        try:
            found[name] = float(value if equals else 1)
        except ValueError:
            found[name] = float("nan")
        if name not in known or found[name] != found[name]:
            message = f"a loss is written as cosine=4,similarity=0.3, of {', '.join(known)}; got {item.strip()!r}"
            raise OptionError(message)
    return replace(start or LossWeights(), **found)


class DistilLoss:
    """The loss of a batch against the targets of its views.

    Args:
        targets: Of all views.
        weights: Of its parts.
    """

    def __init__(self, targets: Targets, weights: LossWeights) -> None:
        self._targets = targets
        self._weights = weights

    def __call__(self, outputs: Tensor, numbers_n: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            outputs: (N, 1 + R, D), the student's descriptor and what each region adds to it.
            numbers_n: Which views they are of.
        """
        weights = self._weights
        rows = numbers_n.tolist()
        students, teachers = outputs[:, 0], _tensor(self._targets.descriptors_nd[rows], outputs)
        loss = weights.cosine * (1 - (students * teachers).sum(dim=1)).mean()
        if weights.similarity and len(rows) > 1:
            loss = loss + weights.similarity * similarity_divergence(students, teachers, weights.temperature)
        if weights.pairs and len(rows) > 1:
            loss = loss + weights.pairs * pair_loss(students, teachers)
        if weights.regions and self._targets.regions is not None:
            loss = loss + weights.regions * _region_loss(outputs[:, 1:], [self._targets.regions[row] for row in rows])
        return loss


def similarity_divergence(students_nd: Tensor, teachers_nd: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence between each picture's similarities to the others in the batch (retrieval.md 7 B).

    Args:
        students_nd: (N, D), length 1, N of 2 or more.
        teachers_nd: (N, E), length 1.
        temperature: Similarities are divided by it before the softmax.
    """
    others = ~torch.eye(len(teachers_nd), dtype=torch.bool, device=teachers_nd.device)

    def rows(descriptors_nd: Tensor) -> Tensor:
        similarities = (descriptors_nd @ descriptors_nd.T)[others].view(len(others), -1)
        return functional.log_softmax(similarities / temperature, dim=1)

    return functional.kl_div(rows(students_nd), rows(teachers_nd), reduction="batchmean", log_target=True)


def _region_loss(students_nrd: Tensor, teachers: list[np.ndarray]) -> Tensor:
    """1 - cosine, the mean over regions and those views whose teachers have as many regions as the student."""
    count = students_nrd.shape[1]
    fitting = [row for row, part_rd in enumerate(teachers) if count and len(part_rd) == count]
    if not fitting:
        return students_nrd.sum() * 0
    wanted = normalise(_tensor(np.stack([teachers[row] for row in fitting]), students_nrd))
    return (1 - (normalise(students_nrd[fitting]) * wanted).sum(dim=2)).mean()


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, like.dtype)
