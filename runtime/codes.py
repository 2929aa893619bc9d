"""How descriptors are stored: as whole numbers (i8), as numbers of 16 or 32 bits (f16, f32), or by signs first (b1)."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.errors import OptionError

Dtype = Literal["i8", "f16", "f32", "b1"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

LARGEST_CODE = 127

_NO_VALUE = 1e-30

CodeArray = NDArray[Any]
"""(N, D) int8, float16 or float32; of b1 the int8 codes from which the signs are taken."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The form in which an index stores descriptors of `dim` values.

    Attributes:
        dtype: i8 scales each descriptor so that its largest value becomes 127 or -127, and rounds: cosines need no
            scale back. usearch's own cast uses half of the range or less (retrieval.md 0.5), and one scale for all
            descriptors finds fewer true neighbours than one for each (docs/benchmarks.md). b1 stores such codes too,
            and searches by their signs first.
        dim: Values of a descriptor.

    Raises:
        OptionError: No such dtype, or no values.
    """

    dtype: Dtype
    dim: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            message = f"an index stores descriptors as one of {', '.join(DTYPES)}, got {self.dtype!r}"
            raise OptionError(message)
        if self.dim < 1:
            message = f"a descriptor has one value or more, got {self.dim}"
            raise OptionError(message)

    def encode(self, descriptors_nd: Descriptors) -> CodeArray:
        """The codes (N, D) of descriptors, row by row; a row of zeros stays one."""
        if self.dtype in {"f16", "f32"}:
            return descriptors_nd.astype(np.float16 if self.dtype == "f16" else np.float32)
        largest_n1 = np.abs(descriptors_nd).max(axis=-1, keepdims=True, initial=_NO_VALUE)
        codes_nd: CodeArray = np.rint(descriptors_nd * (np.float32(LARGEST_CODE) / largest_n1)).astype(np.int8)
        return codes_nd

    def decode(self, codes_nd: CodeArray) -> Descriptors:
        """Descriptors (N, D) of length 1 from codes."""
        return normalise(codes_nd.astype(np.float32))

    @property
    def code_type(self) -> np.dtype[Any]:
        """The type of a code as it is kept in a journal."""
        return np.dtype({"i8": "<i1", "b1": "<i1", "f16": "<f2", "f32": "<f4"}[self.dtype])

    @property
    def searched_bytes(self) -> int:
        """Bytes of a descriptor that a comparison reads."""
        if self.dtype == "b1":
            return (self.dim + 7) // 8
        return self.dim * self.code_type.itemsize


def signs(codes_nd: CodeArray) -> NDArray[np.uint8]:
    """Eight signs in a byte (N, ceil(D / 8)), as usearch compares them by their Hamming distance."""
    return np.packbits(codes_nd > 0, axis=1)
