"""Bias correction: what quantisation shifts in the mean of a convolution's channels is taken off its bias."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.constants import Constants
from deepir.calib.offsets import output_shifts
from deepir.calib.onnx_file import Feeds
from deepir.calib.ranges import measure_statistics
from deepir.calib.recipe import Channels
from deepir.calib.stepping import SteppedGraph
from deepir.errors import InputError

_PIXELS = 24 * 320 * 320
"""More than this hardly moves the means, and what a graph computes of them must fit into memory."""

_DIGITS = 5


def bias_corrections(reference: Any, quantised: Any, batches: Callable[[], Iterable[Feeds]]) -> Channels:
    """By the name of a convolution, what to add to its bias, so that its mean output is that of the reference.

    Convolutions are corrected in the order of the graph, each by what the corrected ones before it give.

    Args:
        reference: The FP32 onnx.ModelProto.
        quantised: What `deepir.calib.quantise.quantise` made of it.
        batches: Gives the model's inputs; the first of them are enough.

    Raises:
        InputError: No pictures.
        ModelError: Values that are not finite.
    """
    few = _few(batches())
    outputs = {node.name: node.output[0] for node in reference.graph.node if node.op_type == "Conv"}
    expected = measure_statistics(reference, list(outputs.values()), lambda: few)
    shifts, constants = output_shifts(reference, quantised), Constants(quantised.graph)
    corrections: Channels = {}
    for node, maps in SteppedGraph(quantised, few).convolutions():
        if node.name in outputs and constants.bias_position(node) is not None:
            error_c = _mean(maps) - expected[outputs[node.name]].channel_mean_c - shifts[node.name]
            corrections[node.name] = [float(f"{-error:.{_DIGITS}g}") for error in error_c]
            for map_nchw in maps:
                map_nchw[:] += np.array(corrections[node.name], dtype=map_nchw.dtype).reshape(1, -1, 1, 1)
    return corrections


def add_biases(quantised: Any, biases: Channels) -> None:
    """Add to the biases of convolutions, in place; each gets a bias of its own.

    Raises:
        InputError: A convolution that this model does not have, or not a finite number for each of its channels.
    """
    convolutions = {node.name: node for node in quantised.graph.node if node.op_type == "Conv"}
    codes = {node.output[0]: node.input[0] for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    constants = Constants(quantised.graph)
    for name, values in biases.items():
        node, bias_c = convolutions.get(name), np.array(values, dtype=np.float64)
        weights = codes.get(node.input[1], node.input[1]) if node else ""
        if node is None or bias_c.shape != (len(constants[weights]),) or not np.isfinite(bias_c).all():
            message = f"the recipe's biases of {name!r} are not of this model: calibrate again, with pictures"
            raise InputError(message)
        constants.add_to_bias(node, bias_c)


def _few(batches: Iterable[Feeds]) -> list[Feeds]:
    """The first batches, within the limit but at least one.

    Raises:
        InputError: There is none.
    """
    found: list[Feeds] = []
    pixels = 0
    for feeds in batches:
        pixels += sum(array.size // array.shape[1] for array in feeds.values() if array.ndim == 4)
        if found and pixels > _PIXELS:
            break
        found.append(feeds)
    if not found:
        message = "bias correction needs pictures, got none"
        raise InputError(message)
    return found


def _mean(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    sums_c = np.sum([map_nchw.sum(axis=(0, 2, 3), dtype=np.float64) for map_nchw in maps], axis=0)
    mean_c: NDArray[np.float64] = sums_c / sum(map_nchw.size // map_nchw.shape[1] for map_nchw in maps)
    return mean_c
