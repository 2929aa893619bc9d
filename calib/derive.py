"""The INT8 file of an FP32 file and a recipe: a function of the two, bit for bit."""

from collections.abc import Callable, Iterable
from typing import Any

from deepir.calib.bias import add_biases
from deepir.calib.equalise import equalise
from deepir.calib.half import keep_half
from deepir.calib.onnx_file import Feeds
from deepir.calib.quantise import place, quantise
from deepir.calib.ranges import measure_statistics, ranges_by
from deepir.calib.recipe import Recipe
from deepir.errors import InputError


def derive(proto: Any, recipe: Recipe) -> Any:
    """The INT8 form of an FP32 onnx.ModelProto, which stays as it is.

    Raises:
        InputError: The recipe is of another graph: it names other tensors or convolutions.
        ModelError: No convolutions to quantise.
    """
    balanced = equalise(proto, recipe.factors)
    placement = place(balanced, keep=recipe.kept, skips=recipe.skips)
    convolutions = {node.name for node in balanced.graph.node if node.op_type == "Conv"}
    if not set(placement.tensors) <= set(recipe.ranges) or not {*recipe.biases, *recipe.kept} <= convolutions:
        message = "this recipe has ranges for other tensors than the model's: calibrate again, with pictures"
        raise InputError(message)
    quantised = quantise(balanced, placement, recipe.ranges)
    add_biases(quantised, recipe.biases)
    keep_half(quantised, recipe.kept)
    return quantised


def plain_int8(proto: Any, batches: Callable[[], Iterable[Feeds]], method: str = "max") -> Any:
    """The INT8 form by ranges alone: weights and biases stay as they are, and nobody judges.

    Args:
        proto: The FP32 onnx.ModelProto.
        batches: Gives the model's inputs, as `deepir.calib.onnx_file.prepared` does.
        method: One of `deepir.calib.ranges.METHODS`.

    Raises:
        ModelError: No convolutions to quantise, or values that are not finite.
    """
    statistics = measure_statistics(proto, place(proto).tensors, batches)
    return derive(proto, Recipe(method=method, ranges=ranges_by(statistics, method)))
