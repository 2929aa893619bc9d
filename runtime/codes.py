"""How descriptors are stored: whole numbers of one scale (i8), 16 or 32 bits (f16, f32), or signs and i8 (b1)."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.errors import OptionError

Dtype = Literal["i8", "f16", "f32", "b1"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

LARGEST_CODE = 127

_FEWEST_VALUES = 4096
"""Of fewer the far end of the distribution is not known: then the scale is the one of a normal distribution."""

_FAR_END = 0.9999
"""Share of the values that keep their size; what is larger is cut to the largest code."""

_NORMAL_END = 4.0
"""The same end in standard deviations of a normal distribution, nearly."""

CodeArray = NDArray[Any]
"""(N, D) int8, float16 or float32; of b1 the int8 codes from which the signs are taken."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The form in which an index stores descriptors of `dim` values.

    Attributes:
        dtype: i8 multiplies by `scale`, rounds and cuts to -127..127 (one scale for all values of all descriptors,
            because usearch's own cast uses an eighth of the range, field.md 4.3 and retrieval.md 0.5); b1 stores such
            codes too, and searches by their signs first.
        dim: Values of a descriptor.
        scale: Codes for a value of 1; 1 where dtype is f16 or f32.

    Raises:
        OptionError: No such dtype, or values out of range.
    """

    dtype: Dtype
    dim: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            message = f"an index stores descriptors as one of {', '.join(DTYPES)}, got {self.dtype!r}"
            raise OptionError(message)
        if self.dim < 1 or not np.isfinite(self.scale) or self.scale <= 0:
            message = f"codes need a dim of 1 or more and a positive scale, got {self.dim} and {self.scale}"
            raise OptionError(message)

    @property
    def whole(self) -> bool:
        """Whether the codes are whole numbers."""
        return self.dtype in {"i8", "b1"}

    def fitted(self, descriptors_nd: Descriptors) -> "Codes":
        """The same form with the scale that suits these descriptors (N, D) of length 1."""
        if not self.whole:
            return self
        end = _NORMAL_END / np.sqrt(self.dim)
        if descriptors_nd.size >= _FEWEST_VALUES:
            end = float(np.quantile(np.abs(descriptors_nd), _FAR_END))
        return replace(self, scale=LARGEST_CODE / max(float(end), 1e-6))

    def encode(self, descriptors_nd: Descriptors) -> CodeArray:
        """The codes (N, D) of descriptors."""
        if self.whole:
            scaled = np.rint(descriptors_nd * np.float32(self.scale))
            return np.clip(scaled, -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
        return descriptors_nd.astype(np.float16 if self.dtype == "f16" else np.float32)

    def decode(self, codes_nd: CodeArray) -> Descriptors:
        """Descriptors (N, D) of length 1 from codes."""
        return normalise(codes_nd.astype(np.float32))

    @property
    def code_type(self) -> np.dtype[Any]:
        """The type of a code as it is kept in a journal."""
        return np.dtype({"i8": "<i1", "b1": "<i1", "f16": "<f2", "f32": "<f4"}[self.dtype])


def signs(codes_nd: CodeArray) -> NDArray[np.uint8]:
    """Eight signs in a byte (N, ceil(D / 8)), as usearch compares them by their Hamming distance."""
    return np.packbits(codes_nd > 0, axis=1)
