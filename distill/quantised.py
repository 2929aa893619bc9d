"""Fake quantisation: a network in training computes as the INT8 file that will be made of it (tensorrt.md 8).

What is rounded is what Q/DQ files round: the inputs and weights of the convolutions, and the skip inputs of residual
sums. Pooling, whitening and everything after them stay in float. Gradients pass straight through the rounding.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepir.distill.network import RMacNetwork
from deepir.distill.quantised_pass import Interception, QuantisedPass, Range
from deepir.errors import InputError, ShapeError


class FakeQuantised:
    """Fake quantisation of a network, by hooks: its state dict is the same before, during and after.

    A context manager; between `attach` and `detach` every forward pass is quantised, in training and in evaluation.
    The ranges are those of the calibration pictures and stay what they are while the weights are trained.
    """

    def __init__(self, network: RMacNetwork) -> None:
        self._network = network
        self._ranges: list[Range] = []
        self._handles: list[RemovableHandle] = []
        self._pass = QuantisedPass(self._ranges, measuring=False)

    def __enter__(self) -> "FakeQuantised":
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def attach(self) -> None:
        """Quantise from now on; nothing more where it is attached already."""
        if not self._handles:
            parts = (self._network.trunk, self._network.adapter, self._network.fpn)
            self._handles = [handle for part in parts if part is not None for handle in self._hooked(part)]

    def detach(self) -> None:
        """Compute in float again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Find the ranges anew, in float and in evaluation mode: the largest magnitudes on these pictures.

        Args:
            batches: Prepared pictures (N, 3, H, W).

        Raises:
            InputError: No pictures.
            ShapeError: Not batches of pictures.
            ModelError: A tensor that is not finite.
        """
        attached, ranges = bool(self._handles), list[Range]()
        device = next(self._network.parameters()).device
        self.attach()
        try:
            with _evaluating(self._network), torch.no_grad():
                for images_nchw in batches:
                    self._pass = QuantisedPass(ranges, measuring=True)
                    self._network.maps(_checked(images_nchw).to(device))
        finally:
            self._pass = QuantisedPass(self._ranges, measuring=False)
            if not attached:
                self.detach()
        if not ranges:
            message = "fake quantisation takes its ranges from pictures, got none: give calibration pictures"
            raise InputError(message)
        self._ranges[:] = ranges

    def state_dict(self) -> dict[str, Any]:
        """The ranges, for a training that is resumed."""
        return {"ranges": [asdict(one) for one in self._ranges]}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take over ranges that were saved."""
        self._ranges[:] = [Range(**one) for one in state_dict["ranges"]]

    def _hooked(self, part: nn.Module) -> Iterator[RemovableHandle]:
        open_modes: list[Interception] = []

        def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if part is self._network.trunk:
                self._pass.begin(inputs[0])
            open_modes.append(Interception(self._pass))
            open_modes[-1].__enter__()  # type: ignore[no-untyped-call]

        def end(*_: object) -> None:
            # after an error in a pre-hook there is nothing to leave
            if open_modes:
                open_modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

        yield part.register_forward_pre_hook(begin)
        yield part.register_forward_hook(end, always_call=True)


def fake_quantised(network: RMacNetwork, *, calibration: Iterable[Tensor] | None = None) -> FakeQuantised:
    """Fake quantisation of a network, not attached yet.

    Args:
        network: Its trunk's convolutions are quantised, and those that widen or refine middle maps.
        calibration: Prepared pictures (N, 3, H, W) that the ranges are taken from; None where they are loaded.

    Raises:
        InputError: No pictures.
        ShapeError: Not batches of pictures.
        ModelError: A tensor that is not finite.
    """
    quantised = FakeQuantised(network)
    if calibration is not None:
        quantised.calibrate(calibration)
    return quantised


def _checked(images_nchw: Tensor) -> Tensor:
    if images_nchw.ndim != 4 or images_nchw.shape[1] != 3 or not len(images_nchw):
        message = f"calibration takes batches of pictures (N, 3, H, W), got the shape {tuple(images_nchw.shape)}"
        raise ShapeError(message)
    return images_nchw


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, then each in its own again."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
