"""The retrieval network in torch: trunk, region pooling, L2, whitening, L2, sum, L2, and its fused forms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepir.distill.fusion import NEEDS_WHITENING, Branch, plan_branches
from deepir.distill.layers import FeaturePyramid, RegionPool, WhiteningLayer, normalise
from deepir.errors import OptionError
from deepir.head import Head
from deepir.regions import head_windows
from deepir.spec import Size
from deepir.whitening import Whitening

_OPTIONAL_LAYERS = ("fuse", "projection")


class RMacNetwork(nn.Module):
    """Images (N, 3, H, W) of any size to descriptors (N, D) of length 1 (method.md 2.1, 4.1, 4.3, 5).

    Without any whitening layer the descriptor is the sum of the length-1 region vectors, of length 1.

    Attributes:
        trunk: Gives one map, or the maps of the head's middle stages and the last one.
        strides: Pixels for each cell of each of those maps.
        branches: One for each group of maps that is whitened together; the last is the master branch.
        fuse: Projects the joined vector of an image at one resolution.
        projection: Projects the descriptor after the resolutions are combined (learned whitening, dirtorch's PCA).
    """

    def __init__(self, trunk: nn.Module, head: Head, *, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.strides = tuple(strides)
        # a middle map widened by the 1x1 convolution has as many channels as the last one
        widened = head.fusion == "1x1conv-eltwise-pca"
        pooled_channels = [channels[-1]] * len(channels) if widened else list(channels)
        self.adapter = _widening(channels[0], channels[-1]) if widened else None
        self.fpn = FeaturePyramid(channels[0], channels[-1]) if head.fusion == "fpn" else None
        self.pools = nn.ModuleList(RegionPool(head.pooling) for _ in channels)
        self.branches = nn.ModuleList(
            Branch(plan, tuple(pooled_channels[layer] for layer in plan.layers), normalised=head.normalise_regions)
            for plan in plan_branches(head)
        )
        self.fuse: WhiteningLayer | None = None
        self.projection: WhiteningLayer | None = None

    def pool_power(self, position: int) -> Tensor | None:
        """The power of the generalised mean of a map; None for other poolings."""
        pool = self.pools[position]
        return pool.power if isinstance(pool, RegionPool) else None

    @property
    def branch_list(self) -> list[Branch]:
        """The branches as what they are."""
        return list(self.branches)  # type: ignore[arg-type]

    @property
    def master(self) -> Branch:
        """The branch that ends in the trunk's last map."""
        return self.branch_list[-1]

    @property
    def whitening(self) -> WhiteningLayer | None:
        """The whitening of the master branch."""
        return self.master.whitening

    @property
    def dim(self) -> int:
        """Values of a descriptor.

        Raises:
            OptionError: Branches of different dimensions are to be added.
        """
        for layer in (self.projection, self.fuse):
            if layer is not None:
                return layer.out_features
        dims = [branch.dim for branch in self.branch_list]
        if not self.adds_branches:
            return sum(dims)
        if len(set(dims)) > 1:
            message = (
                f"the fusion {self.head.fusion} adds descriptors of {dims[0]} and {dims[1]} values: whiten the middle "
                f"layers to {dims[1]} first, with deepir-distill fuse"
            )
            raise OptionError(message)
        return dims[0]

    def maps(self, images_nchw: Tensor) -> list[Tensor]:
        """What the regions are pooled from: the middle maps in the head's order, then the last one."""
        out = self.trunk(images_nchw)
        maps = [out] if isinstance(out, Tensor) else list(out)
        if self.adapter is not None:
            maps[0] = self.adapter(maps[0])
        if self.fpn is not None:
            maps[0] = self.fpn(maps[0], maps[-1])
        return maps

    def region_vectors(self, images_nchw: Tensor) -> list[Tensor]:
        """For each branch the joined region vectors before whitening, (N, R, C)."""
        image_size = (int(images_nchw.shape[2]), int(images_nchw.shape[3]))
        maps = self.maps(images_nchw)
        pooled = [self._pooled(position, map_nchw, image_size) for position, map_nchw in enumerate(maps)]
        return [
            _join([pooled[layer] for layer in branch.plan.layers], add=branch.plan.add) for branch in self.branch_list
        ]

    def aggregate(self, regions: Sequence[Tensor]) -> Tensor:
        """Region vectors of each branch to the descriptor of one resolution, (N, D)."""
        vectors = [branch(regions_nrc) for branch, regions_nrc in zip(self.branch_list, regions, strict=True)]
        if self.head.fusion == "concat-weighted":
            vectors = [vector * vector.shape[1] for vector in vectors]
        joined = _join(vectors, add=self.adds_branches)
        return normalise(joined if self.fuse is None else self.fuse(joined))

    def project(self, descriptors_nd: Tensor) -> Tensor:
        """What comes after the resolutions are combined: nothing, or the projection and L2."""
        return descriptors_nd if self.projection is None else normalise(self.projection(descriptors_nd))

    def forward(self, images_nchw: Tensor) -> Tensor:
        return self.project(self.aggregate(self.region_vectors(images_nchw)))

    def whiten_with(self, whitening: Whitening, branch: int = -1) -> None:
        """Put a fitted whitening into a branch, by default the master's."""
        device = next(self.trunk.parameters()).device
        self.branch_list[branch].whitening = WhiteningLayer.of(whitening).to(device)

    def add_layers_of(self, state: dict[str, Tensor]) -> None:
        """Make the optional layers that a state dict has weights for, so that it can be loaded."""
        for number, branch in enumerate(self.branch_list):
            branch.whitening = _layer_like(state, f"branches.{number}.whitening")
        for name in _OPTIONAL_LAYERS:
            setattr(self, name, _layer_like(state, name))

    @property
    def adds_branches(self) -> bool:
        """Whether the descriptors of the branches are added, not concatenated."""
        return self.head.fusion in NEEDS_WHITENING

    def _pooled(self, position: int, map_nchw: Tensor, image_size: Size) -> Tensor:
        map_size = (int(map_nchw.shape[2]), int(map_nchw.shape[3]))
        windows = head_windows(self.head, image_size, map_size, self.strides[position])
        pooled_nrc: Tensor = self.pools[position](map_nchw, windows.tolist())
        return normalise(pooled_nrc) if self.head.normalise_regions else pooled_nrc


class _Maps(nn.Module):
    """The maps of a network as a module of their own."""

    def __init__(self, network: RMacNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_nchw: Tensor) -> list[Tensor]:
        return self.network.maps(images_nchw)


def maps_module(network: RMacNetwork) -> nn.Module:
    """A module that gives the maps of `RMacNetwork.maps`, for exporters; the trunk itself where that is all."""
    return network.trunk if network.adapter is None and network.fpn is None else _Maps(network)


def _join(parts: Sequence[Tensor], *, add: bool) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.stack(list(parts)).sum(dim=0) if add else torch.cat(list(parts), dim=-1)


def _widening(channels: int, wider: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, wider, 1, bias=False), nn.BatchNorm2d(wider))


def _layer_like(state: dict[str, Tensor], name: str) -> WhiteningLayer | None:
    weight = state.get(f"{name}.weight")
    if weight is None:
        return None
    return WhiteningLayer(weight.shape[1], weight.shape[0], shifted=f"{name}.shift" in state)
