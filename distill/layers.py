"""The layers between a trunk's maps and a descriptor: L2, region pooling, whitening, the feature pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepir.descriptors import LENGTH_FLOOR
from deepir.pooling import GEM_FLOOR, GEM_POWER
from deepir.whitening import Whitening

Windows = Sequence[Sequence[int]]
"""y0, x0, y1, x1 in map cells, ends exclusive."""


def normalise(vectors: Tensor) -> Tensor:
    """Scale along the last axis to length 1, as `deepir.descriptors.normalise` does."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.clamp(min=LENGTH_FLOOR)


def roi_max_pool(map_nchw: Tensor, windows: Windows) -> Tensor:
    """The maximum over each window: (N, C, H, W) gives (N, R, C); an empty window gives 0."""
    return _over_windows(map_nchw, windows, largest=True)


class RegionPool(nn.Module):
    """`deepir.pooling.roi_pool` in torch; the power of `gem` is learnt."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.power = nn.Parameter(torch.full((1,), GEM_POWER)) if pooling == "gem" else None

    def forward(self, map_nchw: Tensor, windows: Windows) -> Tensor:
        if self.power is not None:
            powers = map_nchw.clamp(min=GEM_FLOOR) ** self.power
            means: Tensor = _over_windows(powers, windows, largest=False) ** (1 / self.power)
            return means
        return _over_windows(map_nchw, windows, largest=self.pooling == "max")


class WhiteningLayer(nn.Linear):
    """weight @ (scale * x + shift) + bias; only models that train a shift of their own have shift and scale.

    The shift of the Caffe models is a Scale layer whose factor stays as it is and whose bias is trained
    (method.md 3.2, 4.3).
    """

    scale: Tensor | None

    def __init__(self, channels: int, dim: int, *, shifted: bool = False) -> None:
        super().__init__(channels, dim)
        self.shift = nn.Parameter(torch.zeros(channels)) if shifted else None
        self.register_buffer("scale", torch.ones(channels) if shifted else None)

    @classmethod
    def of(cls, whitening: Whitening, *, shift: Tensor | None = None, scale: Tensor | None = None) -> "WhiteningLayer":
        """A layer with these weights; `scale` is 1 where only a shift is given."""
        dim, channels = whitening.weight_dc.shape
        layer = cls(channels, dim, shifted=shift is not None)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(whitening.weight_dc))
            layer.bias.copy_(torch.as_tensor(whitening.bias_d))
            if shift is not None and layer.shift is not None:
                layer.shift.copy_(shift)
            if scale is not None and layer.scale is not None:
                layer.scale.copy_(scale)
        return layer

    def forward(self, vectors: Tensor) -> Tensor:
        if self.shift is not None and self.scale is not None:
            vectors = vectors * self.scale + self.shift
        return super().forward(vectors)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (D, C) and bias (D,) of the one affine map that this is."""
        if self.shift is None or self.scale is None:
            return self.weight, self.bias
        return self.weight * self.scale, self.weight @ self.shift + self.bias


class FeaturePyramid(nn.Module):
    """The top-down path of dirtorch's FPN models: the last map refines the middle one (method.md 5)."""

    def __init__(self, middle: int, last: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(last, middle, 1, bias=False)
        self.conv3x3 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)

    def forward(self, middle_nchw: Tensor, last_nchw: Tensor) -> Tensor:
        upsampled = functional.interpolate(last_nchw, size=middle_nchw.shape[2:], mode="nearest")
        refined: Tensor = self.conv3x3(middle_nchw + self.conv1x1(upsampled).relu()).relu()
        return refined


def _over_windows(map_nchw: Tensor, windows: Windows, *, largest: bool) -> Tensor:
    def pooled(top: int, left: int, bottom: int, right: int) -> Tensor:
        if bottom <= top or right <= left:
            return map_nchw.new_zeros(map_nchw.shape[:2])
        cells = map_nchw[:, :, top:bottom, left:right]
        return cells.amax(dim=(2, 3)) if largest else cells.mean(dim=(2, 3))

    return torch.stack([pooled(*window) for window in windows], dim=1)
