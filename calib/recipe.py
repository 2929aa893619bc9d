"""The recipe of an INT8 file: everything from which it is derived of its FP32 file, bit for bit."""

from dataclasses import dataclass, field

from deepir.calib.ranges import Ranges

Channels = dict[str, list[float]]
"""By the name of a tensor or of a convolution, a number for each of its channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model becomes INT8.

    Attributes:
        method: How the ranges were chosen, one of `deepir.calib.ranges.METHODS`.
        ranges: The magnitude with which the codes of each quantised tensor end, after equalisation.
        factors: Equalisation: by the name of a tensor, what its channels are divided by; see `deepir.calib.equalise`.
        biases: Bias correction: by the name of a convolution, what is added to its bias.
        skips: Whether the skip inputs of residual sums are quantised; see `deepir.calib.quantise.place`.
        kept: The convolutions that stay FP16.
    """

    method: str
    ranges: Ranges
    factors: Channels = field(default_factory=dict)
    biases: Channels = field(default_factory=dict)
    skips: bool = True
    kept: tuple[str, ...] = ()
