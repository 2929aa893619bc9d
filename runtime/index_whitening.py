"""A map fitted on a shop's own pictures, a whitening or fewer values: kept in the index, applied to all descriptors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from deepir.descriptors import Descriptors, normalise
from deepir.errors import IndexFileError, OptionError, ShapeError
from deepir.spec import ModelSpec
from deepir.whitening import Whitening, principal_components

MOST_DIM = 128
"""More values made recall neither better nor worse on shop photographs (docs/benchmarks.md), and the index larger."""

POWER = 0.25
POWER_AGAIN = 0.1
"""Powers for models without a whitening of their own, and with one: a second full one amplifies noise."""

_SMALLEST_VARIANCE = 1e-6
"""Of the largest: what varies less is rounding, and whitening would make it count."""

_LARGEST_DIM = 1 << 16
_VALUE = np.dtype("<f4")


MapKind = Literal["whitening", "pca", "prefix"]

KINDS: tuple[MapKind, ...] = get_args(MapKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhitenConfig:
    """How an index's map is fitted.

    Attributes:
        kind: `whitening`; `pca` keeps the `dim` directions in which similarities are kept best; `prefix` keeps the
            first `dim` values, for models that were trained so that these serve alone.
        photographs: Groups of pictures beside the references; each group, and the references, weigh the same.
        dim: Values to keep; None for as many as the pictures carry, at most MOST_DIM; pca and prefix need it.
        power: 0..0.5, see `deepir.whitening.fit_whitening`; None for POWER, or POWER_AGAIN where the model whitens.
            Of whitening only.

    Raises:
        OptionError: A value out of range, or one that the kind lacks or does not take.
    """

    kind: MapKind = "whitening"
    photographs: tuple[tuple[Path, ...], ...] = ()
    dim: int | None = None
    power: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            message = f"descriptors are mapped by one of {', '.join(KINDS)}, got {self.kind!r}"
            raise OptionError(message)
        if self.kind != "whitening" and (self.dim is None or self.power is not None):
            message = f"{self.kind} needs the number of values to keep (--dim) and takes no power"
            raise OptionError(message)
        if self.dim is not None and self.dim < 1:
            message = f"the number of values to keep (--dim) must be 1 or more, got {self.dim}"
            raise OptionError(message)
        if self.power is not None and not 0 <= self.power <= 0.5:
            message = f"the whitening power must be between 0 and 0.5, got {self.power}"
            raise OptionError(message)

    def fit(self, groups: Sequence[Descriptors], spec: ModelSpec) -> "IndexWhitening":
        """The map that the descriptors (N, C) of the references, then of each group of photographs, give.

        Raises:
            ShapeError: As of `fit_index_whitening`, or more values than descriptors have.
        """
        if self.dim is None or self.kind == "whitening":
            return fit_index_whitening(groups, self._power_for(spec), self.dim)
        return fit_reduction(self.kind, groups, self.dim)

    def _power_for(self, spec: ModelSpec) -> float:
        if self.power is not None:
            return self.power
        return POWER if spec.whitening == "none" else POWER_AGAIN


@dataclass(frozen=True, slots=True)
class WhiteningNote:
    """What the index's footer says of its whitening.

    Attributes:
        channels: Values of the model's descriptors.
        dim: Values that are kept of them.
        power: See `WhitenConfig`.
        pictures: How many references it was fitted on, then how many pictures of each group of photographs.
        kind: See `WhitenConfig`.

    Raises:
        IndexFileError: Values that cannot be.
    """

    channels: int
    dim: int
    power: float
    pictures: tuple[int, ...]
    kind: MapKind = "whitening"

    def __post_init__(self) -> None:
        sizes = (self.channels, self.dim, *self.pictures)
        whole = all(isinstance(size, int) and size > 0 for size in sizes)
        sized = whole and self.dim <= self.channels <= _LARGEST_DIM
        if not (sized and self.pictures and 0 <= self.power <= 0.5 and self.kind in KINDS):
            message = f"it names a whitening that cannot be ({self})"
            raise IndexFileError(message)

    @property
    def size(self) -> int:
        """Bytes of the weights in the file."""
        return (self.dim * self.channels + self.dim) * _VALUE.itemsize

    def __str__(self) -> str:
        references, *photographs = self.pictures
        others = f" and {'+'.join(map(str, photographs))} photographs" if photographs else ", no photographs"
        how = f", power {self.power:g}," if self.kind == "whitening" else f" by {self.kind},"
        return f"{self.channels} to {self.dim} values{how} fitted on {references} references{others}"


@dataclass(frozen=True, slots=True, eq=False)
class IndexWhitening:
    """The affine map and what the footer says of it."""

    note: WhiteningNote
    map: Whitening

    def __call__(self, descriptors_nc: Descriptors) -> Descriptors:
        """The model's descriptors (N, C) as those of the index, (N, D) of length 1; 0 for one without direction."""
        return normalise(descriptors_nc @ self.map.weight_dc.T + self.map.bias_d)

    def to_bytes(self) -> bytes:
        """The weights row by row, then the bias, as little-endian float32."""
        return self.map.weight_dc.astype(_VALUE).tobytes() + self.map.bias_d.astype(_VALUE).tobytes()

    @classmethod
    def from_bytes(cls, note: WhiteningNote, content: bytes | memoryview) -> "IndexWhitening":
        """Read what `to_bytes` wrote.

        Raises:
            IndexFileError: Another number of bytes than the note says, NaN or infinity.
        """
        if len(content) != note.size:
            message = f"its whitening has {len(content)} bytes, expected {note.size}"
            raise IndexFileError(message)
        values = np.frombuffer(content, dtype=_VALUE).astype(np.float32)
        if not np.isfinite(values).all():
            message = "its whitening holds NaN or infinity"
            raise IndexFileError(message)
        weights = values[: note.dim * note.channels].reshape(note.dim, note.channels)
        return cls(note, Whitening(weights, values[note.dim * note.channels :]))


def fit_index_whitening(groups: Sequence[Descriptors], power: float, dim: int | None = None) -> IndexWhitening:
    """PCA of descriptors, each component divided by variance ** power; every group weighs the same, however long.

    Args:
        groups: The references' descriptors (N, C), then those of photographs.
        power: 0..0.5.
        dim: Values to keep; None for as many as the pictures carry, at most MOST_DIM.

    Raises:
        ShapeError: A group without descriptors, or more values than the pictures carry.
    """
    counts = tuple(map(len, groups))
    if not counts or 0 in counts:
        message = f"whitening needs pictures in every group, got {counts}"
        raise ShapeError(message)
    weights = np.concatenate([np.full(count, 1 / count) for count in counts])
    components = principal_components(np.concatenate(groups), weights_n=weights)
    carried = min(components.most, _varying(components.variances_c))
    if not 1 <= (dim or 1) <= carried:
        message = (
            f"the {sum(counts)} pictures to whiten with carry {carried} different values, fewer than {dim or 1}: "
            "use more pictures (--whiten-images) or a smaller --dim"
        )
        raise ShapeError(message)
    kept = dim or min(carried, MOST_DIM)
    note = WhiteningNote(len(components.mean_c), kept, power, counts)
    return IndexWhitening(note, components.whitening(kept, power))


def fit_reduction(kind: MapKind, groups: Sequence[Descriptors], dim: int) -> IndexWhitening:
    """A map to fewer values that shifts nothing: similarities stay what they were as well as `dim` values allow.

    Args:
        kind: `pca`, the directions of the largest second moments of the groups, which weigh the same; or `prefix`.
        groups: The references' descriptors (N, C), then those of photographs.
        dim: Values to keep.

    Raises:
        ShapeError: A group without descriptors, or more values than descriptors have or the pictures carry.
    """
    counts, channels = tuple(map(len, groups)), groups[0].shape[1]
    carried = min(channels, sum(counts)) if kind == "pca" else channels
    if 0 in counts or dim > carried:
        message = (
            f"{sum(counts)} descriptors of {channels} values cannot be reduced to {dim} by {kind}: keep fewer (--dim)"
        )
        raise ShapeError(message)
    rows_dc = np.eye(dim, channels)
    if kind == "pca":
        moments_cc = sum(group.astype(np.float64).T @ group / len(group) for group in groups)
        rows_dc = np.linalg.eigh(moments_cc)[1].T[::-1][:dim]
    note = WhiteningNote(channels, dim, 0.0, counts, kind)
    return IndexWhitening(note, Whitening(rows_dc.astype(np.float32), np.zeros(dim, np.float32)))


def _varying(variances_c: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
    largest = float(variances_c[0])
    if not math.isfinite(largest) or largest <= _SMALLEST_VARIANCE**2:
        return 0
    return int((variances_c > _SMALLEST_VARIANCE * largest).sum())
