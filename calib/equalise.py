"""Equalisation across layers: the channels of a tensor are brought to like magnitudes, at no change of the function.

One scale serves a whole tensor, so a channel of small values has few codes of the 255. Dividing the channel where it
is made, and multiplying it where it is read, gives it more; the weights that read it lose as much as they grow beside
their neighbours, so that factors go half the way (tensorrt.md 1.5 says what has one scale and what has many).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.channel_groups import ChannelGroups, attribute, clip_bound
from deepir.calib.ranges import TensorStatistics
from deepir.calib.recipe import Channels
from deepir.errors import InputError
from deepir.optional import need

_LEAST_SHARE = 1e-3
"""A channel that is smaller than this share of the largest one is treated as if it were not."""

_DIGITS = 4
_WORTHWHILE = 1.05
"""Factors that differ less than this among the channels of a tensor are not worth their place in the record."""

_Factors = NDArray[np.float64]


def find_factors(proto: Any, statistics: Mapping[str, TensorStatistics]) -> Channels:
    """What the channels of each tensor are divided by, by its name; empty where nothing is to be gained.

    A tensor that only depthwise convolutions and batch norms read is divided by the largest magnitudes of its
    channels, since neither of them mixes channels; one that other convolutions read by the root of what remains after
    dividing by the size of the weights that read the channel, relative to the largest that lead to the same output.

    Args:
        proto: The FP32 onnx.ModelProto.
        statistics: Of the tensors that will be quantised, from `deepir.calib.ranges.measure_statistics`.
    """
    groups = ChannelGroups(proto)
    factors_g = _wanted(proto, groups, statistics)
    factors_g[groups.held()] = 1
    _stay_below_bounds(proto, groups, statistics, factors_g)
    factors_g[groups.held()] = 1
    found: Channels = {}
    known = np.zeros(groups.count, dtype=bool)
    for tensor in groups.tensors:
        ids = groups.of(tensor)
        if ids is None or known[ids].all():
            continue
        factors_c = factors_g[ids]
        if factors_c.max() > _WORTHWHILE * factors_c.min() or known[ids].any():
            found[tensor] = [float(f"{factor:.{_DIGITS}g}") for factor in factors_c]
            known[ids] = True
    return found


def equalise(proto: Any, factors: Channels) -> Any:
    """A copy of the model with the channels of tensors divided by `factors`: the same function in FP32.

    A Clip between 0 and a number becomes a Relu and a Min with a number for each channel.

    Raises:
        InputError: Factors of a tensor that this model does not have, that are not positive, not one for each of its
            channels, or of channels that cannot be scaled.
    """
    onnx = need("onnx")
    balanced = onnx.ModelProto()
    balanced.CopyFrom(proto)
    if not factors:
        return balanced
    groups = ChannelGroups(proto)
    scaling = _Scaling(groups, _read_factors(groups, factors), {one.name: one for one in balanced.graph.initializer})
    nodes = [made for node in balanced.graph.node for made in scaling.scaled(node)]
    del balanced.graph.node[:], balanced.graph.value_info[:]
    balanced.graph.node.extend(nodes)
    balanced.graph.initializer.extend(scaling.bounds)
    return balanced


def _wanted(proto: Any, groups: ChannelGroups, statistics: Mapping[str, TensorStatistics]) -> _Factors:
    """By group, the factor that would suit it, if it may be scaled."""
    largest_g, weight_g = np.zeros(groups.count), np.zeros(groups.count)
    for tensor, seen in statistics.items():
        ids = groups.of(tensor)
        if ids is not None:
            np.maximum.at(largest_g, ids, _floored(seen.channel_largest_c.astype(np.float64)))
    for node in proto.graph.node:
        ids = groups.of(node.input[0]) if node.op_type == "Conv" else None
        if ids is not None and node.input[0] in statistics:
            weight_c = _weight_by_input(groups.constants[node.input[1]], attribute(node, "group", 1))
            if weight_c is not None:
                np.maximum.at(weight_g, ids, _floored(weight_c))
    factors_g = np.ones(groups.count)
    measured = largest_g > 0
    mixed = measured & (weight_g > 0)
    factors_g[measured] = largest_g[measured]
    factors_g[mixed] = np.sqrt(largest_g[mixed] / weight_g[mixed])
    return factors_g


def _weight_by_input(weights: NDArray[np.float32], parts: int) -> _Factors | None:
    """The most that an output takes of each input, relative to the most it takes of one; None of depthwise weights.

    Args:
        weights: (outputs, inputs / parts, height, width).
        parts: The groups of the convolution.
    """
    if weights.shape[1] == 1 and parts > 1:
        return None
    share_oc = np.abs(weights.astype(np.float64)).reshape(*weights.shape[:2], -1).max(axis=2)
    share_oc /= np.maximum(share_oc.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.concatenate([part.max(axis=0) for part in np.split(share_oc, parts)])


def _floored(values_c: _Factors) -> _Factors:
    floored_c: _Factors = np.maximum(values_c, _LEAST_SHARE * values_c.max())
    return floored_c


def _stay_below_bounds(
    proto: Any, groups: ChannelGroups, statistics: Mapping[str, TensorStatistics], factors_g: _Factors
) -> None:
    """Lower factors until no channel's upper bound lies within its tensor's range: then the codes' end is the bound.

    The range stays what it was: what a channel gains, only those have to gain that did not reach the bound.
    """
    for node in proto.graph.node:
        bound, ids = clip_bound(node, groups.constants), groups.of(node.output[0])
        if bound is None or ids is None or node.output[0] not in statistics:
            continue
        largest = (statistics[node.output[0]].channel_largest_c / factors_g[ids]).max()
        if largest > 0:
            factors_g[ids] = np.minimum(factors_g[ids], bound / largest)


def _read_factors(groups: ChannelGroups, factors: Channels) -> _Factors:
    """By group, its factor."""
    factors_g = np.ones(groups.count)
    for tensor, values in factors.items():
        ids, factors_c = groups.of(tensor), np.array(values, dtype=np.float64)
        if ids is None or len(ids) != len(factors_c) or not (np.isfinite(factors_c) & (factors_c > 0)).all():
            message = f"the recipe's factors of {tensor!r} are not of this model: calibrate again, with pictures"
            raise InputError(message)
        factors_g[ids] = factors_c
    if (factors_g[groups.held()] != 1).any():
        message = "the recipe scales channels that this model cannot scale: calibrate again, with pictures"
        raise InputError(message)
    return factors_g


class _Scaling:
    """Puts factors into the constants of a graph."""

    def __init__(self, groups: ChannelGroups, factors_g: _Factors, constants: Mapping[str, Any]) -> None:
        self._groups = groups
        self._factors_g = factors_g
        self._constants = constants
        self.bounds: list[Any] = []

    def scaled(self, node: Any) -> list[Any]:
        """The node itself with other constants, or the two that a Clip becomes."""
        given_c = self._of(node.output[0])
        if given_c is None:
            return [node]
        read_c = next((found for name in node.input if (found := self._of(name)) is not None), np.ones(1))
        constants = [name for name in node.input if name in self._constants]
        if node.op_type == "Conv":
            self._put(constants[0], lambda weights: _scaled_weights(weights, read_c, given_c))
            self._divide(constants[1:], given_c)
        elif node.op_type == "BatchNormalization":
            self._divide(constants[:1], given_c / read_c)
            self._divide(constants[1:2], given_c)
            self._divide(constants[2:3], read_c)
        elif node.op_type in ("Mul", "Add"):
            self._divide(constants, given_c / read_c if node.op_type == "Mul" else given_c)
        elif node.op_type == "Clip" and (given_c != 1).any():
            return self._relu_and_min(node, given_c)
        return [node]

    def _of(self, tensor: str) -> _Factors | None:
        ids = self._groups.of(tensor)
        return None if ids is None else self._factors_g[ids]

    def _divide(self, names: list[str], factors_c: _Factors) -> None:
        for name in names:
            self._put(name, lambda values: (values.ravel() / factors_c).reshape(values.shape))

    def _put(self, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        # of what the model gave: whoever shares the constant changes it alike
        values = self._groups.constants[name]
        changed = change(values.astype(np.float64)).astype(values.dtype)
        self._constants[name].CopyFrom(need("onnx.numpy_helper").from_array(changed, name))

    def _relu_and_min(self, clip: Any, factors_c: _Factors) -> list[Any]:
        onnx = need("onnx")
        bound = clip_bound(clip, self._groups.constants)
        bounds = (np.full(len(factors_c), bound) / factors_c).astype(np.float32).reshape(1, -1, 1, 1)
        relu, largest, [output] = f"{clip.name}/relu", f"{clip.name}/bound", clip.output
        self.bounds.append(onnx.numpy_helper.from_array(bounds, largest))
        return [
            onnx.helper.make_node("Relu", [clip.input[0]], [f"{output}/relu"], name=relu),
            onnx.helper.make_node("Min", [f"{output}/relu", largest], [output], name=clip.name),
        ]


def _scaled_weights(weights: NDArray[np.float64], read_c: _Factors, given_c: _Factors) -> NDArray[np.float64]:
    """Weights (outputs, inputs / parts, height, width) times the factor of what they read, divided by the output's."""
    outputs, inputs = weights.shape[:2]
    parts = max(len(read_c) // inputs, 1)
    read_oc = np.repeat(np.broadcast_to(read_c, parts * inputs).reshape(parts, inputs), outputs // parts, axis=0)
    return weights * (read_oc / given_c[:, None])[:, :, None, None]
