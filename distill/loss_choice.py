"""Losses and miners by name: our own first, then the classes of pytorch-metric-learning."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deepir.distill.ap_loss import APLoss, TieAwareAPLoss
from deepir.distill.classify import ClassificationForm, ClassificationLoss
from deepir.distill.label_matrix import batch_labels
from deepir.distill.losses import ContrastiveLoss, LiftedStructuredLoss, TripletLogExpLoss, TripletLoss
from deepir.errors import OptionError, ShapeError
from deepir.optional import need

Pairs = tuple[Tensor, ...]
"""What a miner chose: numbers of anchors, positives and negatives within the batch."""


class Miner(Protocol):
    """Chooses the pairs or triplets of a batch that a loss is to see."""

    def __call__(self, descriptors_nd: Tensor, labels_n: Tensor) -> Pairs: ...


_OWN: dict[str, Callable[[], nn.Module]] = {
    "ap": APLoss,
    "tap": TieAwareAPLoss,
    "tap-simplified": lambda: TieAwareAPLoss(simplified=True),
    "triplet": TripletLoss,
    "triplet-caffe": lambda: TripletLoss(margin=1.0, form="caffe"),
    "triplet-logexp": TripletLogExpLoss,
    "contrastive": ContrastiveLoss,
    "contrastive-squared": lambda: ContrastiveLoss(margin=1.0, squared=True),
    "lifted": LiftedStructuredLoss,
}
_CLASSIFYING: dict[str, ClassificationForm] = {"softmax": "softmax", "softmax-normalized": "normalized"}

# they take no pairs; for SmoothAP a miner's numbers would point at the order before the batch is sorted
_PAIRLESS = {"InstanceLoss", "P2SGradLoss", "PNPLoss", "RankedListLoss", "SmoothAPLoss"}
# made of other losses, without labels, or of a second view of each picture
_UNFIT = {"GenericPairLoss", "ManifoldLoss", "SelfSupervisedLoss", "VICRegLoss"}
# the paper's margin and, of its temperatures, the highest that the library does not warn of
_DEFAULTS = {"RankedListLoss": {"margin": 0.4, "Tn": 5}}


class LibraryLoss(nn.Module):
    """A loss of pytorch-metric-learning with our form of labels and errors.

    Attributes:
        name: Its class.
        loss: The loss itself; its parameters, such as a proxy for each label, are trained too.
    """

    def __init__(self, name: str, loss: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.loss = loss

    def forward(self, descriptors_nd: Tensor, labels_n: Tensor, pairs: Pairs | None = None) -> Tensor:
        """The loss of a batch, of the pairs that a miner chose where there are any.

        Raises:
            ShapeError: Labels that do not fit the descriptors; for SmoothAP, labels with unequal numbers of pictures.
        """
        labels = batch_labels(descriptors_nd, labels_n)
        if self.name == "SmoothAPLoss":
            # it reads label after label, whatever the labels say
            order = labels.argsort(stable=True)
            descriptors_nd, labels = descriptors_nd[order], labels[order]
            _check_equal_shares(labels)
        loss: Tensor = self.loss(descriptors_nd, labels, pairs)
        return loss


def build_loss(name: str, *, classes: int, dim: int) -> nn.Module:
    """A loss: (descriptors (N, D), labels (N,)) -> scalar; those that `takes_pairs` take a miner's pairs as well.

    Args:
        name: ap, tap, tap-simplified, triplet, triplet-caffe, triplet-logexp, contrastive, contrastive-squared,
            lifted, softmax, softmax-normalized, or a class of pytorch_metric_learning.losses such as SmoothAPLoss.
        classes: Number of labels, 0 to classes - 1: some losses learn a vector for each.
        dim: Values in a descriptor.

    Raises:
        OptionError: A name that neither has; says which are close.
    """
    if name in _OWN:
        return _OWN[name]()
    if name in _CLASSIFYING:
        return ClassificationLoss(classes, dim, _CLASSIFYING[name])
    known = _library_losses()
    if name not in known:
        raise OptionError(_unknown("loss", name, [*_OWN, *_CLASSIFYING, *known]))
    sizes = {"num_classes": classes, "embedding_size": dim, "descriptors_dim": dim}
    options = {key: value for key, value in sizes.items() if key in _parameters(known[name])}
    return LibraryLoss(name, known[name](**options, **_DEFAULTS.get(name, {})))


def build_miner(name: str) -> Miner | None:
    """A miner of pytorch_metric_learning by its class, with the library's own settings; `none` gives None.

    Raises:
        OptionError: A miner that the library does not have; says which are close.
    """
    if name == "none":
        return None
    library = need("pytorch_metric_learning.miners")
    known = [key for key in dir(library) if key.endswith("Miner") and key != "BaseMiner"]
    if name not in known:
        raise OptionError(_unknown("miner", name, ["none", *known]))
    miner: Miner = getattr(library, name)()
    return miner


def takes_pairs(name: str) -> bool:
    """Whether a miner has a say in a loss of that name; the others take all pairs of the batch themselves."""
    return name not in {*_OWN, *_CLASSIFYING, *_PAIRLESS}


def _library_losses() -> dict[str, Any]:
    library = need("pytorch_metric_learning.losses")
    return {name: getattr(library, name) for name in dir(library) if name.endswith("Loss") and name not in _UNFIT}


def _parameters(kind: type[nn.Module]) -> set[str]:
    # a class that hands its arguments on has them in the signature of the next one only
    makers = [vars(one)["__init__"] for one in kind.__mro__[:-1] if "__init__" in vars(one)]
    return {name for maker in makers for name in inspect.signature(maker).parameters}


def _unknown(what: str, name: str, known: list[str]) -> str:
    folded = {one.lower(): one for one in known}
    close = [folded[one] for one in difflib.get_close_matches(name.lower(), folded, n=3)]
    advice = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    return f"there is no {what} {name!r}: {advice}"


def _check_equal_shares(labels: Tensor) -> None:
    counts = torch.unique(labels, return_counts=True)[1]
    if len(counts.unique()) > 1:
        message = (
            f"SmoothAPLoss needs equally many pictures of each label in a batch, got {counts.min()} to {counts.max()}: "
            "use batches of so many per label, or the loss ap"
        )
        raise ShapeError(message)
