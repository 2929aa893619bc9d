"""The head of a network as ONNX nodes: pooling, L2, whitening, L2, sum, L2, fusion of layers, projection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepir.card import REGIONS_INPUT
from deepir.export.dynamic_pool import dynamic_pool_function
from deepir.export.graph_nodes import GraphNodes, as_array
from deepir.export.pool_graph import DOMAIN, operator_name, pool_function
from deepir.graph_names import MAP_NAME
from deepir.pooling import GEM_FLOOR
from deepir.regions import Windows
from deepir.spec import Size

if TYPE_CHECKING:
    from deepir.distill.fusion import Branch
    from deepir.distill.network import RMacNetwork

REGIONS_NAME = "regions"
"""The tensor (N, R, C) between the pooling of the last map and the head; regions_0, ... of the middle maps."""


@dataclass(frozen=True, slots=True)
class MapRegions:
    """What is pooled of a map of fixed size: windows within it, and its height and width in cells."""

    windows: Windows
    map_size: Size


def layer_name(base: str, position: int, count: int) -> str:
    """The name of a tensor of one of `count` maps: the last has the plain name."""
    return base if position == count - 1 else f"{base}_{position}"


class HeadGraph(GraphNodes):
    """The nodes from the maps of one resolution to its descriptor, as `RMacNetwork.aggregate` makes it.

    Args:
        network: Its weights become constants.
        regions: For each map what is pooled of it; None where the windows are inputs of the graph.

    Attributes:
        functions: The bodies of the pooling operators in it.
        descriptor: The tensor (N, D) that comes out.
    """

    def __init__(self, network: "RMacNetwork", regions: Sequence[MapRegions] | None) -> None:
        super().__init__()
        self.functions: list[Any] = []
        self.constants["region_axis"] = np.array([1], dtype=np.int64)
        self._network = network
        maps = len(network.strides)
        for position in range(maps):
            self._pool(position, maps, None if regions is None else regions[position])
        vectors = [self._regions(position, maps) for position in range(maps)]
        branches = network.branch_list
        descriptors = [
            self._branch(branch, [vectors[layer] for layer in branch.plan.layers], prefix)
            for branch, prefix in zip(branches, _prefixes(len(branches)), strict=True)
        ]
        self.descriptor = self._fused(descriptors)

    def _pool(self, position: int, maps: int, fixed: MapRegions | None) -> None:
        source, rois = layer_name(MAP_NAME, position, maps), layer_name(REGIONS_INPUT, position, maps)
        regions = layer_name(REGIONS_NAME, position, maps)
        operator = self._operator(rois, None if position == maps - 1 else self._network.strides[position], fixed)
        pooling = self._network.head.pooling
        name = layer_name("roi_max_pool" if pooling == "max" else "roi_mean_pool", position, maps)
        power = self._network.pool_power(position)
        if power is None:
            self.add(operator, [source, rois], regions, name=name, domain=DOMAIN)
            return
        powers = f"{source}_power"
        self.constants |= {"gem_floor": np.array(GEM_FLOOR, dtype=np.float32), powers: as_array(power)}
        self.constants[f"{powers}_inverse"] = 1 / as_array(power)
        floored, raised, means = f"{source}_floored", f"{source}_raised", f"{regions}_mean"
        self.add("Max", [source, "gem_floor"], floored)
        self.add("Pow", [floored, powers], raised)
        self.add(operator, [raised, rois], means, name=name, domain=DOMAIN)
        self.add("Pow", [means, f"{powers}_inverse"], regions)

    def _operator(self, rois: str, stride: int | None, fixed: MapRegions | None) -> str:
        """The pooling operator of a map, whose body is added where it is not there yet."""
        if fixed is None:
            operator = operator_name(self._network.head.pooling, None)
            if not self.functions:
                self.functions.append(dynamic_pool_function(operator))
            return operator
        operator = operator_name(self._network.head.pooling, stride)
        self.constants[rois] = fixed.windows
        self.functions.append(pool_function(operator, fixed.windows, fixed.map_size))
        return operator

    def _regions(self, position: int, maps: int) -> str:
        regions = layer_name(REGIONS_NAME, position, maps)
        return self.normalise(regions, f"{regions}_normalised") if self._network.head.normalise_regions else regions

    def _branch(self, branch: "Branch", regions: list[str], prefix: str) -> str:
        if branch.plan.late:
            regions = [self._late(name) for name in regions]
        joined = self.join(regions, f"{prefix}joined", axis=2, add=branch.plan.add)
        if branch.whitening is not None:
            joined = self.project(branch.whitening, joined, f"{prefix}whitening")
            if branch.plan.relu:
                joined = self.add("Relu", [joined], f"{prefix}rectified")
            joined = self.normalise(joined, f"{prefix}whitened_normalised")
        aggregated = self.add("ReduceSum", [joined, "region_axis"], f"{prefix}aggregated", keepdims=0)
        if self._network.head.normalise_regions or branch.whitening is not None:
            return self.normalise(aggregated, f"{prefix}aggregated_normalised")
        return aggregated

    def _late(self, regions: str) -> str:
        summed = self.add("ReduceSum", [regions, "region_axis"], f"{regions}_sum", keepdims=1)
        return self.normalise(summed, f"{summed}_normalised")

    def _fused(self, descriptors: list[str]) -> str:
        network = self._network
        if network.head.fusion == "concat-weighted":
            descriptors = [self._weighted(*pair) for pair in zip(descriptors, network.branch_list, strict=True)]
        last = self.join(descriptors, "fused", axis=1, add=network.adds_branches)
        if network.fuse is not None:
            last = self.project(network.fuse, last, "fuse")
        if network.fuse is not None or len(descriptors) > 1 or not last.endswith("_normalised"):
            last = self.normalise(last, "fused_normalised")
        return last

    def _weighted(self, descriptor: str, branch: "Branch") -> str:
        weight = f"{descriptor}_weight"
        self.constants[weight] = np.array(branch.dim, dtype=np.float32)
        return self.add("Mul", [descriptor, weight], f"{descriptor}_weighted")


def last_nodes(network: "RMacNetwork", descriptors: list[str]) -> GraphNodes:
    """What follows the descriptors of the resolutions: they are combined, and projected where the network does."""
    graph = GraphNodes()
    last = descriptors[0]
    if len(descriptors) > 1:
        combined = graph.add("Sum" if network.head.combine == "sum" else "Max", descriptors, "combined")
        last = graph.normalise(combined, "combined_normalised")
    if network.projection is not None:
        graph.normalise(graph.project(network.projection, last, "projection"), "projection_normalised")
    return graph


def _prefixes(count: int) -> list[str]:
    return [*(f"branch_{number}_" for number in range(count - 1)), ""]
