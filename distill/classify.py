"""The warm start: a trunk first learns to name the labels, and its descriptors are ranked afterwards."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from deepir.distill.label_matrix import batch_labels
from deepir.errors import OptionError, ShapeError

ClassificationForm = Literal["softmax", "normalized"]

_TEMPERATURE = 0.05
"""Of the normalized form: similarities lie within 1 of each other, too near for a softmax."""


class ClassificationLoss(nn.Module):
    """Cross-entropy of a linear layer that names the label of each descriptor (method.md 6, C-Clean).

    `softmax` has free weights and an offset. `normalized` compares directions only, so that each label's weights are a
    descriptor of it, as retrieval will compare them.
    """

    def __init__(self, classes: int, dim: int, form: ClassificationForm = "softmax") -> None:
        """Two labels or more, descriptors of `dim` values; OptionError for fewer or another form."""
        super().__init__()
        if classes < 2 or dim < 1:
            message = f"naming labels needs two or more and descriptors of 1 value or more, got {classes} and {dim}"
            raise OptionError(message)
        if form not in {"softmax", "normalized"}:
            message = f"the form of a classification is softmax or normalized, got {form!r}"
            raise OptionError(message)
        self.form = form
        self.layer = nn.Linear(dim, classes, bias=form == "softmax")

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
        """The mean cross-entropy, a scalar.

        Raises:
            ShapeError: Labels that do not fit the descriptors or lie outside 0 to classes - 1, another dimension.
        """
        labels = batch_labels(descriptors_nd, labels_n)
        classes, dim = self.layer.weight.shape
        if descriptors_nd.shape[1] != dim:
            message = f"this classification is of descriptors of {dim} values, got {descriptors_nd.shape[1]}"
            raise ShapeError(message)
        if labels.min() < 0 or labels.max() >= classes:
            message = f"labels must lie from 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
            raise ShapeError(message)
        return functional.cross_entropy(self._scores(descriptors_nd), labels.long())

    def _scores(self, descriptors_nd: Tensor) -> Tensor:
        if self.form == "softmax":
            scores: Tensor = self.layer(descriptors_nd)
            return scores
        directions = functional.normalize(self.layer.weight, dim=1)
        return functional.normalize(descriptors_nd, dim=1) @ directions.T / _TEMPERATURE
