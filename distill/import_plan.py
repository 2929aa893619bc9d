"""What a user may ask of an import, what an importer finds in a foreign file, and the report of what was taken."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from deepir.errors import ModelError, OptionError
from deepir.head import Head
from deepir.spec import Triple

_MOST_NAMES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a user may say about a file; None leaves it to the kind of file.

    Attributes:
        size: Longest side in pixels with the aspect kept, or HEIGHTxWIDTH, which stretches.
        scales: Resolutions, see `deepir.spec.parse_scales`.
        levels: Levels of the region grid.
        dim: Keep the first values of the last trained projection.
        trunk: The network of a plain state dict, as `torchvision:resnet50`.
        whiten: Which of the file's whitenings to use, or `none`.
        whitenp, whitenv, whitenm: Power, number of components and factor of a NAVER whitening (method.md 5).
        relu: Whether a ReLU follows the projection of a concat-pca student; the file tells where it lists layers.
    """

    size: str | None = None
    scales: str | None = None
    levels: int | None = None
    dim: int | None = None
    trunk: str | None = None
    whiten: str | None = None
    whitenp: float | None = None
    whitenv: int | None = None
    whitenm: float | None = None
    relu: bool | None = None


@dataclass(frozen=True, slots=True)
class Affine:
    """weight @ (scale * x + shift) + bias; weight (D, C), bias (D,), shift and scale (C,) or None."""

    weight: Tensor
    bias: Tensor
    shift: Tensor | None = None
    scale: Tensor | None = None

    def first(self, dim: int) -> "Affine":
        """The first rows only (method.md 4.5).

        Raises:
            OptionError: More rows than there are, or none.
        """
        if not 1 <= dim <= len(self.weight):
            message = f"the last projection has {len(self.weight)} values, so --dim can be 1 to that, got {dim}"
            raise OptionError(message)
        return dataclasses.replace(self, weight=self.weight[:dim], bias=self.bias[:dim])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A foreign model in our words.

    Attributes:
        kind: `caffe`, `naver`, `cirtorch`, `torchvision` or `timm`.
        trunk: A name that `build_trunk` knows.
        state: The trunk's tensors under its library's names.
        head: What follows the trunk.
        projections: Where each affine layer goes: `branches.0.whitening`, `fuse`, `projection`.
        tensors: Other tensors of `RMacNetwork` by name, such as `pools.0.power`.
        mean, std: Where the file has its own.
        size, scales: What its authors tested with.
        whitening: Which whitening was taken, in words without the file's name.
        mapped, left: Names in the file that were used, and that were not needed.
        notes: Sentences for people.
    """

    kind: str
    trunk: str
    state: dict[str, Tensor]
    head: Head
    projections: dict[str, Affine] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mean: Triple | None = None
    std: Triple | None = None
    size: str
    scales: str = "1"
    interpolation: str = "area"
    whitening: str = "none"
    mapped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took from a file.

    Attributes:
        kind: Kind of file.
        trunk: Our name of the network.
        mapped, left: Names in the file that were used, and that were not needed.
        whitening: The text that the model's description carries.
        notes: Sentences for people.
    """

    kind: str
    trunk: str
    mapped: tuple[str, ...]
    left: tuple[str, ...]
    whitening: str
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The report for people, a line at a time."""
        yield f"{self.kind} file: {self.trunk}, {len(self.mapped)} names mapped, {len(self.left)} left"
        if self.left:
            more = len(self.left) - _MOST_NAMES
            yield f"left: {', '.join(self.left[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}"
        yield f"whitening: {self.whitening}"
        yield from self.notes


def refuse_others(options: ImportOptions, kind: str, meant: set[str]) -> None:
    """Raise OptionError when an option was given that means nothing for this kind of file."""
    given = {name for name, value in dataclasses.asdict(options).items() if value is not None}
    if given - meant:
        name = sorted(given - meant)[0]
        message = f"--{name} means nothing for a {kind} file; it takes {', '.join(f'--{one}' for one in sorted(meant))}"
        raise OptionError(message)


def choose_whitening(wanted: str, available: Sequence[str]) -> str | None:
    """The whitening of that name, None for `none`.

    Raises:
        ModelError: The file has no such whitening; lists those it has, a close one first.
    """
    if wanted == "none":
        return None
    if wanted not in available:
        close = difflib.get_close_matches(wanted, available, 1, 0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        message = f"no whitening {wanted!r} in this file: {hint}it has {', '.join(available) or 'none'}, or say none"
        raise ModelError(message)
    return wanted


def default_whitening(available: Sequence[str], preferred: str | None = None) -> str:
    """The preferred one if it is there, or the only one, or `none` where there is none.

    Raises:
        ModelError: There are several to choose from.
    """
    if preferred in available:
        return str(preferred)
    if len(available) > 1:
        message = f"the file has several whitenings, choose one with --whiten: {', '.join(available)}, or none"
        raise ModelError(message)
    return available[0] if available else "none"


def as_triple(values: Any, default: Triple) -> Triple:
    """Three numbers of a file's mean or std; `default` where it has none.

    Raises:
        ModelError: Something else.
    """
    if values is None:
        return default
    try:
        first, second, third = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        message = f"a mean or std of three numbers was expected, got {values!r}"
        raise ModelError(message) from error
    return first, second, third
