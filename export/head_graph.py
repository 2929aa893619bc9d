"""The head of a network as ONNX nodes: pooling, L2, whitening, L2, sum, L2, fusion of layers, projection."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import OUTPUT_NAME
from deepir.descriptors import LENGTH_FLOOR
from deepir.export.pool_graph import DOMAIN, operator_name, pool_function
from deepir.optional import need
from deepir.pooling import GEM_FLOOR
from deepir.regions import Windows

if TYPE_CHECKING:
    from torch import Tensor

    from deepir.distill.fusion import Branch
    from deepir.distill.layers import WhiteningLayer
    from deepir.distill.network import RMacNetwork

MAP_NAME = "map"
"""The trunk's last map; middle maps are called map_0, map_1, ..."""

REGIONS_NAME = "regions"
"""The tensor (N, R, C) between the pooling of the last map and the head; regions_0, ... of the middle maps."""


def layer_name(base: str, position: int, count: int) -> str:
    """The name of a tensor of one of `count` maps: the last has the plain name."""
    return base if position == count - 1 else f"{base}_{position}"


class HeadGraph:
    """Collects the nodes, constants and functions of a head.

    Args:
        network: Its weights become constants.
        windows: For each map what is pooled of it.
        map_widths: For each map its cells in a row.
    """

    def __init__(self, network: "RMacNetwork", windows: Sequence[Windows], map_widths: Sequence[int]) -> None:
        self.nodes: list[Any] = []
        self.functions: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {
            "length_floor": np.array(LENGTH_FLOOR, dtype=np.float32),
            "region_axis": np.array([1], dtype=np.int64),
        }
        self._network = network
        maps = len(windows)
        for position in range(maps):
            self._pool(position, maps, windows[position], map_widths[position])
        vectors = [self._regions(position, maps) for position in range(maps)]
        branches = network.branch_list
        descriptors = [
            self._branch(branch, [vectors[layer] for layer in branch.plan.layers], prefix)
            for branch, prefix in zip(branches, _prefixes(len(branches)), strict=True)
        ]
        self._finish(descriptors)

    def _pool(self, position: int, maps: int, windows: Windows, map_width: int) -> None:
        head = self._network.head
        source, rois = layer_name(MAP_NAME, position, maps), layer_name("rois", position, maps)
        regions = layer_name(REGIONS_NAME, position, maps)
        operator = operator_name(head.pooling, None if position == maps - 1 else self._network.strides[position])
        self.constants[rois] = windows
        self.functions.append(pool_function(operator, windows, map_width))
        name = layer_name("roi_max_pool" if head.pooling == "max" else "roi_mean_pool", position, maps)
        power = self._network.pool_power(position)
        if power is None:
            self._add(operator, [source, rois], regions, name=name, domain=DOMAIN)
            return
        powers = f"{source}_power"
        self.constants |= {"gem_floor": np.array(GEM_FLOOR, dtype=np.float32), powers: _array(power)}
        self.constants[f"{powers}_inverse"] = 1 / _array(power)
        floored, raised, means = f"{source}_floored", f"{source}_raised", f"{regions}_mean"
        self._add("Max", [source, "gem_floor"], floored)
        self._add("Pow", [floored, powers], raised)
        self._add(operator, [raised, rois], means, name=name, domain=DOMAIN)
        self._add("Pow", [means, f"{powers}_inverse"], regions)

    def _regions(self, position: int, maps: int) -> str:
        regions = layer_name(REGIONS_NAME, position, maps)
        return self._normalise(regions, f"{regions}_normalised") if self._network.head.normalise_regions else regions

    def _branch(self, branch: "Branch", regions: list[str], prefix: str) -> str:
        if branch.plan.late:
            regions = [self._late(name) for name in regions]
        joined = self._join(regions, f"{prefix}joined", axis=2, add=branch.plan.add)
        if branch.whitening is not None:
            joined = self._project(branch.whitening, joined, f"{prefix}whitening")
            if branch.plan.relu:
                joined = self._add("Relu", [joined], f"{prefix}rectified")
            joined = self._normalise(joined, f"{prefix}whitened_normalised")
        aggregated = self._add("ReduceSum", [joined, "region_axis"], f"{prefix}aggregated", keepdims=0)
        if self._network.head.normalise_regions or branch.whitening is not None:
            return self._normalise(aggregated, f"{prefix}aggregated_normalised")
        return aggregated

    def _late(self, regions: str) -> str:
        summed = self._add("ReduceSum", [regions, "region_axis"], f"{regions}_sum", keepdims=1)
        return self._normalise(summed, f"{summed}_normalised")

    def _finish(self, descriptors: list[str]) -> None:
        network = self._network
        if network.head.fusion == "concat-weighted":
            descriptors = [self._weighted(*pair) for pair in zip(descriptors, network.branch_list, strict=True)]
        last = self._join(descriptors, "fused", axis=1, add=network.adds_branches)
        if network.fuse is not None:
            last = self._project(network.fuse, last, "fuse")
        if network.fuse is not None or len(descriptors) > 1 or not last.endswith("_normalised"):
            last = self._normalise(last, "fused_normalised")
        if network.projection is not None:
            last = self._normalise(self._project(network.projection, last, "projection"), "projection_normalised")
        # the last node takes the name of the graph's output
        self.nodes[-1].output[0] = OUTPUT_NAME

    def _weighted(self, descriptor: str, branch: "Branch") -> str:
        weight = f"{descriptor}_weight"
        self.constants[weight] = np.array(branch.dim, dtype=np.float32)
        return self._add("Mul", [descriptor, weight], f"{descriptor}_weighted")

    def _join(self, parts: list[str], target: str, *, axis: int, add: bool) -> str:
        if len(parts) == 1:
            return parts[0]
        return self._add("Sum", parts, target) if add else self._add("Concat", parts, target, axis=axis)

    def _project(self, layer: "WhiteningLayer", source: str, name: str) -> str:
        weight, bias = layer.folded()
        self.constants[f"{name}.weight"] = np.ascontiguousarray(_array(weight).T)
        self.constants[f"{name}.bias"] = _array(bias)
        product = self._add("MatMul", [source, f"{name}.weight"], f"{name}_product", name=name)
        return self._add("Add", [product, f"{name}.bias"], f"{name}_sum", name=f"{name}_bias")

    def _normalise(self, source: str, target: str) -> str:
        """Division by the length, in plain operators that every TensorRT fuses."""
        length, floored = f"{target}_length", f"{target}_floored"
        self._add("ReduceL2", [source], length, axes=[-1], keepdims=1)
        self._add("Max", [length, "length_floor"], floored)
        return self._add("Div", [source, floored], target)

    def _add(self, operator: str, inputs: list[str], output: str, *, name: str = "", **attributes: Any) -> str:
        make = need("onnx.helper").make_node
        self.nodes.append(make(operator, inputs, [output], name=name or output, **attributes))
        return output


def _prefixes(count: int) -> list[str]:
    return [*(f"branch_{number}_" for number in range(count - 1)), ""]


def _array(tensor: "Tensor") -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array
