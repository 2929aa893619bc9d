"""How middle layers join the last one: which maps each branch takes, how its vectors are joined and trained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepir.distill.layers import WhiteningLayer, normalise
from deepir.head import Head

_CONCATENATED = ("concat", "concat-weighted", "pca-concat-pca", "fpn", "fpn0")

NEEDS_WHITENING = ("eltwise", "rmac-eltwise")
"""Fusions that add descriptors, which have one dimension only after the middle layers are whitened to it."""


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """One branch of a head (method.md 4.1, 4.3).

    Attributes:
        layers: Positions among the trunk's maps, whose region vectors are joined in this order; the last map is the
            position after all middle ones.
        add: Join by adding instead of concatenating.
        relu: A ReLU after the whitening.
        late: Whiten the image's vector, not each region's.
    """

    layers: tuple[int, ...]
    add: bool = False
    relu: bool = False
    late: bool = False


def plan_branches(head: Head) -> tuple[BranchPlan, ...]:
    """The branches of a head; the master branch, which ends in the last map, is the last."""
    middle = tuple(range(len(head.middle)))
    last = len(middle)
    if head.fusion in _CONCATENATED:
        return tuple(BranchPlan((layer,)) for layer in (*middle, last))
    if head.fusion in NEEDS_WHITENING:
        return BranchPlan(middle, late=head.fusion == "rmac-eltwise"), BranchPlan((last,))
    if head.fusion == "1x1conv-eltwise-pca":
        return (BranchPlan((last, *middle), add=True),)
    return (BranchPlan((last, *middle), relu=head.fusion == "concat-pca-relu"),)


class Branch(nn.Module):
    """Region vectors of some maps to one vector of the image."""

    def __init__(self, plan: BranchPlan, channels: tuple[int, ...], *, normalised: bool) -> None:
        super().__init__()
        self.plan = plan
        self.channels = channels[0] if plan.add else sum(channels)
        self.whitening: WhiteningLayer | None = None
        self._layer_channels = channels
        self._normalised = normalised

    @property
    def dim(self) -> int:
        """Values of the vector that comes out."""
        return self.channels if self.whitening is None else self.whitening.out_features

    def whitening_inputs(self, regions_nrc: Tensor) -> Tensor:
        """What the whitening sees: the joined region vectors (N, R, C), or the image's as (N, 1, C) when late."""
        if not self.plan.late:
            return regions_nrc
        parts = torch.split(regions_nrc, list(self._layer_channels), dim=-1)
        return torch.cat([normalise(part.sum(dim=1, keepdim=True)) for part in parts], dim=-1)

    def forward(self, regions_nrc: Tensor) -> Tensor:
        vectors = self.whitening_inputs(regions_nrc)
        if self.whitening is not None:
            vectors = self.whitening(vectors)
            if self.plan.relu:
                vectors = vectors.relu()
            vectors = normalise(vectors)
        aggregated = vectors.sum(dim=1)
        return normalise(aggregated) if self._normalised or self.whitening is not None else aggregated
