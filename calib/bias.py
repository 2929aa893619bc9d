"""Bias correction: what quantisation shifts in the mean of a convolution's channels is taken off its bias."""

from collections.abc import Callable, Iterable
from typing import Any

from deepir.calib.onnx_file import Feeds
from deepir.calib.recipe import Channels


def bias_corrections(reference: Any, quantised: Any, batches: Callable[[], Iterable[Feeds]]) -> Channels:
    """By the name of a convolution, what to add to its bias, so that its mean output is that of `reference`."""
    return {}


def add_biases(quantised: Any, biases: Channels) -> None:
    """Add to the biases of convolutions, in place."""
