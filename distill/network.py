"""The R-MAC network in torch: trunk, RoI max pooling, L2, whitening, L2, sum, L2."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deepir.descriptors import LENGTH_FLOOR, Whitening
from deepir.regions import image_regions, region_windows


def normalise(vectors: Tensor) -> Tensor:
    """Scale along the last axis to length 1, as `deepir.descriptors.normalise` does."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.clamp(min=LENGTH_FLOOR)


def roi_max_pool(map_nchw: Tensor, windows: Sequence[Sequence[int]]) -> Tensor:
    """The maximum over each window (y0, x0, y1, x1, ends exclusive): (N, C, H, W) gives (N, R, C)."""
    return torch.stack(
        [
            map_nchw[:, :, top:bottom, left:right].amax(dim=(2, 3))
            if bottom > top and right > left
            else map_nchw.new_zeros(map_nchw.shape[:2])
            for top, left, bottom, right in windows
        ],
        dim=1,
    )


class RMacNetwork(nn.Module):
    """Images (N, 3, H, W) of any size to descriptors (N, D) of length 1 (method.md 2.1).

    Without a whitening layer the descriptor is the sum of the length-1 region vectors, of length 1.
    """

    def __init__(self, trunk: nn.Module, *, stride: int, levels: int, whitening: nn.Linear | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.whitening = whitening
        self.stride = stride
        self.levels = levels

    def region_vectors(self, images_nchw: Tensor) -> Tensor:
        """Max-pooled regions of length 1, before whitening: (N, R, C)."""
        map_nchw = self.trunk(images_nchw)
        regions = image_regions(int(images_nchw.shape[2]), int(images_nchw.shape[3]), self.levels)
        windows = region_windows(regions, int(map_nchw.shape[2]), int(map_nchw.shape[3]), self.stride)
        return normalise(roi_max_pool(map_nchw, windows.tolist()))

    def aggregate(self, regions_nrc: Tensor) -> Tensor:
        """Region vectors to descriptors: whiten, L2, sum, L2."""
        if self.whitening is not None:
            regions_nrc = normalise(self.whitening(regions_nrc))
        return normalise(regions_nrc.sum(dim=1))

    def forward(self, images_nchw: Tensor) -> Tensor:
        return self.aggregate(self.region_vectors(images_nchw))

    def whiten_with(self, whitening: Whitening) -> None:
        """Put a fitted whitening into the network's last layer."""
        dim, channels = whitening.weight_dc.shape
        device = next(self.trunk.parameters()).device
        self.whitening = nn.Linear(channels, dim, device=device)
        with torch.no_grad():
            self.whitening.weight.copy_(torch.from_numpy(np.asarray(whitening.weight_dc)))
            self.whitening.bias.copy_(torch.from_numpy(np.asarray(whitening.bias_d)))
