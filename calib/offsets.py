"""Activations that use all 256 codes: what is never negative is shifted down by half its range before rounding.

After a Relu half of the codes of symmetric INT8 stay empty. Where all that reads a tensor takes a shift in, unpadded
convolutions and sums with a convolution by their bias, whatever makes the tensor is shifted down by 128 steps, by its
bias too, and the Relu goes: the codes end at -128, which now stands for 0. The numbers are those of unsigned codes,
the nodes those of symmetric ones with zero point 0, which is all that TensorRT takes (tensorrt.md 1.5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.channel_groups import attribute, clip_bound
from deepir.calib.constants import Constants
from deepir.calib.ranges import Ranges

Uses = Mapping[str, Sequence[tuple[int, int]]]
"""By tensor, the node and the number of its input of each quantised use."""

_TOLERANCE = 1e-3
"""A bound that lies within the range by less than this share of it is no bound; a step is eight times as much."""

DEQUANTISED = "/dequantised"
"""Added to the name of a tensor and of weights: what their codes are turned back into."""

_SHIFTED = "/shifted"
_UNPADDED = (b"NOTSET", b"VALID")
_LARGEST_CODE = 127
_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True)
class Codes:
    """How a tensor becomes codes.

    Attributes:
        source: What is rounded: the tensor, or what its activation reads where the end of the codes stands in for it.
        dequantised: What the codes are turned back into.
        scale: Of a step.
        offset: The tensor is the sum of `dequantised` and this.
    """

    source: str
    dequantised: str
    scale: float
    offset: float = 0.0


def output_shifts(reference: Any, quantised: Any) -> dict[str, float]:
    """By the name of a convolution, what `Activations` shifted its output by; 0 of most.

    Args:
        reference: The onnx.ModelProto that was quantised.
        quantised: What `deepir.calib.quantise.quantise` made of it.
    """
    before, after = Constants(reference.graph), Constants(quantised.graph)
    codes = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    masters = {node.name: node for node in reference.graph.node if node.op_type == "Conv"}
    shifts = {}
    for node in quantised.graph.node:
        if node.op_type == "Conv" and node.name in masters:
            added_c = after.bias(node) - before.bias(masters[node.name])
            if node.input[0].endswith(_SHIFTED):
                added_c = added_c - _offset_of(codes[node.input[0]], after) * weight_sums(codes[node.input[1]], after)
            shifts[node.name] = float(np.mean(added_c))
    return shifts


def weight_sums(dequantiser: Any, constants: Constants) -> NDArray[np.float64]:
    """What the INT8 weights of each output channel add up to."""
    codes, scales = (constants[name] for name in dequantiser.input[:2])
    sums_c: NDArray[np.float64] = codes.reshape(len(codes), -1).sum(axis=1, dtype=np.int64) * scales.astype(np.float64)
    return sums_c


class Activations:
    """The tensors of a graph that are to be quantised, and what makes and reads them."""

    def __init__(self, graph: Any, uses: Uses, ranges: Ranges, constants: Constants) -> None:
        self._uses, self._ranges, self._constants = uses, ranges, constants
        self._nodes = list(graph.node)
        self._given = {value.name for value in graph.output}
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[tuple[int, int]]] = {}
        for number, node in enumerate(self._nodes):
            for position, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((number, position))
        self._instead: dict[str, str] = {}

    def encode(self) -> dict[str, Codes]:
        """How each tensor becomes codes; changes activations and biases of the graph, in place.

        The biases of convolutions that read a tensor with an offset are left to be corrected.
        """
        found = {tensor: self._shifted(tensor) or self._plain(tensor) for tensor in self._uses}
        for node in self._nodes:
            node.input[:] = [self._read_instead(name) for name in node.input]
        return found

    @property
    def needless(self) -> set[str]:
        """What nodes give that rounding to codes has made needless."""
        return set(self._instead)

    def _plain(self, tensor: str) -> Codes:
        """Symmetric codes; upper bounds that are not within the range go, because the codes end there anyway."""
        for node in self._rectifiers(tensor) or []:
            if node.op_type == "Min":
                self._bypass(node)
            elif node.op_type == "Clip":
                node.op_type = "Relu"
                del node.input[1:]
        scale = _step(self._ranges[tensor], _LARGEST_CODE)
        return Codes(self._read_instead(tensor), tensor + DEQUANTISED, scale)

    def _shifted(self, tensor: str) -> Codes | None:
        """Codes from -128 on for what is never negative; None where what makes or reads it takes no shift."""
        rectifiers = self._rectifiers(tensor) or []
        adders = [self._adder(node.input[0]) for node in rectifiers if node.op_type != "Min"]
        takers = [taker for use in self._uses[tensor] for taker in self._takers(*use)]
        if not (adders and self._ranges[tensor] > 0) or None in (*adders, *takers):
            return None
        scale = _step(self._ranges[tensor], 2 * _LARGEST_CODE + 1)
        offset = scale * (_LARGEST_CODE + 1)
        for node, shift in [*((adder, -offset) for adder in adders), *((taker, offset) for taker in takers)]:
            self._constants.add_to_bias(node, np.array([shift]))
        for node in rectifiers:
            self._bypass(node)
        return Codes(self._read_instead(tensor), tensor + _SHIFTED, scale, offset)

    def _rectifiers(self, tensor: str) -> list[Any] | None:
        """What makes a tensor non-negative, and bounds outside its range; None where it is not, or others read it."""
        if tensor in self._given or set(self._readers[tensor]) != set(self._uses[tensor]):
            return None
        return self._rectifying(tensor, self._ranges[tensor] * (1 - _TOLERANCE))

    def _rectifying(self, tensor: str, largest: float) -> list[Any] | None:
        node = self._makers.get(tensor)
        if node is None:
            return None
        if node.op_type == "Relu":
            return [node]
        if node.op_type == "Clip":
            bound = clip_bound(node, self._constants)
            return [node] if bound is not None and bound >= largest else None
        before: list[Any] = []
        if node.op_type == "Min" and len(node.input) == 2 and node.input[1] in self._constants:
            if self._constants[node.input[1]].min() < largest:
                return None
            before = [node]
        elif node.op_type != "MaxPool" and not (node.op_type == "Concat" and attribute(node, "axis", 0) == 1):
            return None
        parts = [name for name in node.input if name not in self._constants]
        found = [self._rectifying(name, largest) if self._read_once(name) else None for name in parts]
        return None if None in found else before + [one for part in found for one in part or []]

    def _adder(self, tensor: str) -> Any:
        """The node whose bias shifts all of a tensor that one node alone reads; None where there is none."""
        node = self._makers.get(tensor)
        # what is rounded itself would leave its range
        if node is None or tensor in self._uses or not self._read_once(tensor):
            return None
        if self._constants.bias_position(node) is not None:
            return node
        if node.op_type == "Add":
            return next((adder for name in node.input if (adder := self._adder(name)) is not None), None)
        return None

    def _takers(self, number: int, position: int) -> list[Any]:
        """Whose bias makes up for the offset of what a node reads: none but its own for convolutions without padding.

        For sums whatever adds to the other input; [None] where nothing does.
        """
        node = self._nodes[number]
        if node.op_type == "Conv":
            padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") not in _UNPADDED
            return [None] if padded or self._constants.bias_position(node) is None else []
        return [self._adder(node.input[1 - position])]

    def _read_once(self, tensor: str) -> bool:
        return len(self._readers[tensor]) == 1 and tensor not in self._given

    def _bypass(self, node: Any) -> None:
        self._instead[node.output[0]] = node.input[0]

    def _read_instead(self, tensor: str) -> str:
        while tensor in self._instead:
            tensor = self._instead[tensor]
        return tensor


def _step(largest: float, steps: int) -> float:
    # as the file holds it, so that offsets are whole steps
    return float(np.float32(max(largest / steps, _SMALLEST_SCALE)))


def _offset_of(dequantiser: Any, constants: Constants) -> float:
    return float(constants[dequantiser.input[1]]) * (_LARGEST_CODE + 1)
