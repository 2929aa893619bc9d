"""A forward pass that is quantised or measured: its tensors are followed, and rounded where they are read.

Where tensors are rounded is decided as `deepir.calib.quantise.place` decides it on the graph, but while torch computes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from deepir.errors import ModelError

_LARGEST_CODE = 127
_SMALLEST_SCALE = 1e-8
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_SUMS = ("add", "add_", "__add__", "__iadd__", "__radd__")
_RECTIFIERS = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_")
_KEEPS_SIGN = ("max_pool2d", "cat", "concat")
_UNCHANGING = ("to", "float", "type_as", "contiguous", "dropout", "feature_dropout")
"""May give the very tensor that they were given; other functions that do so have changed it in place."""


@dataclass(slots=True)
class Range:
    """What a tensor held on the calibration pictures, and who reads it.

    Attributes:
        largest: The largest magnitude.
        placed: A convolution makes or reads it; the skip of other sums stays in float.
        full: Never negative, and its readers take codes that begin with 0: all 256 of them stand for it.
    """

    largest: float = 0.0
    placed: bool = False
    full: bool = True


@dataclass(slots=True)
class _Facts:
    """What is known of a tensor in a forward pass.

    Attributes:
        depth: Convolutions above it, on the longest way.
        convolved: The values of a convolution, at most after a batch norm.
        rectified: Never negative, because an activation made it so.
        number: Of its range; None before something reads it that quantises.
        rounded: The tensor after rounding.
    """

    depth: int
    convolved: bool = False
    rectified: bool = False
    number: int | None = None
    rounded: Tensor | None = None


class Interception(TorchFunctionMode):
    """Hands every torch function of a forward pass to `QuantisedPass.call`."""

    def __init__(self, current: "QuantisedPass") -> None:
        super().__init__()
        self._current = current

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._current.call(func, args, kwargs or {})


class QuantisedPass:
    """A forward pass: follows the tensors from the pictures on and rounds them, or measures them."""

    def __init__(self, ranges: list[Range], *, measuring: bool) -> None:
        self._ranges = ranges
        self._measuring = measuring
        self._facts = WeakIdKeyDictionary()
        self._count = 0

    def begin(self, images_nchw: Tensor) -> None:
        """Forget the tensors of the pass before."""
        if not (self._ranges or self._measuring):
            message = "fake quantisation has no ranges yet: give calibration pictures, or load the state that has them"
            raise ModelError(message)
        self._facts = WeakIdKeyDictionary()
        self._facts[images_nchw] = _Facts(depth=0)
        self._count = 0

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a torch function gives on rounded inputs, where those are to be rounded."""
        name = getattr(func, "__name__", "")
        if name == "conv2d":
            return self._convolve(func, {**dict(zip(_CONVOLUTION, args, strict=False)), **kwargs})
        before = [found for found in map(self._find, _tensors([*args, *kwargs.values()])) if found is not None]
        if name in _SUMS and len(before) == 2:
            args = self._sum_arguments(args, before)
        out = func(*args, **kwargs)
        if before:
            facts = _Facts(
                depth=max(found.depth for found in before),
                convolved=name == "batch_norm" and before[0].convolved,
                rectified=name in _RECTIFIERS or (name in _KEEPS_SIGN and all(found.rectified for found in before)),
            )
            for tensor in _tensors([out]):
                if name not in _UNCHANGING or not any(tensor is given for given in args):
                    self._facts[tensor] = _Facts(facts.depth, facts.convolved, facts.rectified)
        return out

    def _convolve(self, func: Callable[..., Any], given: dict[str, Any]) -> Tensor:
        facts = self._find(given["input"])
        if facts is None:
            return func(**given)  # type: ignore[no-any-return]
        padded = given.get("padding", 0) not in (0, (0, 0), [0, 0], "valid")
        given["input"] = self._rounded(given["input"], facts, Range(placed=True, full=not padded))
        if not self._measuring:
            given["weight"] = rounded_weight(given["weight"])
        out: Tensor = func(**given)
        self._facts[out] = _Facts(depth=facts.depth + 1, convolved=True)
        return out

    def _sum_arguments(self, args: tuple[Any, ...], facts: list[_Facts]) -> tuple[Any, ...]:
        # the main branch stays as it is, so that convolution, sum and activation fuse
        skip = 0 if facts[0].depth < facts[1].depth else 1
        if facts[skip].depth == 0:
            return args
        changed = list(args)
        changed[skip] = self._rounded(args[skip], facts[skip], Range(placed=facts[skip].convolved))
        return tuple(changed)

    def _rounded(self, tensor: Tensor, facts: _Facts, use: Range) -> Tensor:
        if facts.number is None:
            facts.number, self._count = self._count, self._count + 1
        if self._measuring:
            self._measure(tensor, facts, use)
            return tensor
        if facts.number >= len(self._ranges):
            message = (
                f"the network computes more tensors than the {len(self._ranges)} that it was calibrated on: "
                "calibrate the fake quantisation again"
            )
            raise ModelError(message)
        found = self._ranges[facts.number]
        if not found.placed:
            return tensor
        if facts.rounded is None:
            facts.rounded = _rounded_activation(tensor, found)
        return facts.rounded

    def _measure(self, tensor: Tensor, facts: _Facts, use: Range) -> None:
        number = facts.number or 0
        if number == len(self._ranges):
            self._ranges.append(Range())
        found, largest = self._ranges[number], float(tensor.abs().max())
        if not largest < float("inf"):
            message = (
                f"the tensor {number} of the trunk is not finite on a calibration picture: its weights are damaged"
            )
            raise ModelError(message)
        found.largest = max(found.largest, largest)
        found.placed |= use.placed
        found.full &= use.full and facts.rectified and float(tensor.min()) >= 0

    def _find(self, tensor: Any) -> _Facts | None:
        return self._facts[tensor] if isinstance(tensor, Tensor) and tensor in self._facts else None


class _Rounding(torch.autograd.Function):
    """Codes and back; the gradient passes straight through, but not where a value lies beyond the last code."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        codes = (values / scale).round_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((codes >= lowest) & (codes <= highest))
        return codes.clamp_(lowest, highest).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (within,) = ctx.saved_tensors
        return gradients[0] * within, None, None, None


def _rounded_activation(tensor: Tensor, found: Range) -> Tensor:
    lowest, highest = (0, 2 * _LARGEST_CODE + 1) if found.full else (-_LARGEST_CODE - 1, _LARGEST_CODE)
    scale = max(found.largest / highest, _SMALLEST_SCALE)
    return _round(tensor.float(), torch.tensor(scale, device=tensor.device), lowest, highest)


def rounded_weight(weight_oihw: Tensor) -> Tensor:
    """Symmetric codes for each output channel, so that folding a batch norm into the weights changes no code."""
    scale_o111 = weight_oihw.detach().float().abs().amax(dim=(1, 2, 3), keepdim=True) / _LARGEST_CODE
    return _round(weight_oihw.float(), scale_o111.clamp(min=_SMALLEST_SCALE), -_LARGEST_CODE, _LARGEST_CODE)


def _round(values: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    rounded: Tensor = _Rounding.apply(values, scale, lowest, highest)
    return rounded


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
