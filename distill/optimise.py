"""One step of training: AdamW under a one-cycle schedule, with clipped gradients."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Groups = Iterable[tuple[Iterable[nn.Parameter], float]]
"""Parameters with the peak learning rate of each group."""

_LARGEST_GRADIENT = 5.0
_WARM_UP = 0.2
_START_DIVISOR = 25.0
_END_DIVISOR = 25e4
_SMALLEST_SCALE = 1.0
"""Gradients that overflow half precision even without enlargement are no matter of precision."""


class Divergence(Exception):  # noqa: N818 the trainer says where it happened
    """What became NaN or infinite; the weights are those before this step."""


class Descent:
    """AdamW whose rate rises to its peak and falls again; where it stands is a share of the training, not a count.

    Args:
        groups: Parameters with the peak learning rate of each group; empty groups are left out.
        weight_decay: As AdamW's.
        scaled: Enlarge the loss so that gradients survive half precision (fp16).
    """

    def __init__(self, groups: Groups, *, weight_decay: float, scaled: bool = False) -> None:
        listed = [(list(parameters), rate) for parameters, rate in groups]
        filled = [(parameters, rate) for parameters, rate in listed if parameters]
        self.parameters = [parameter for parameters, _ in filled for parameter in parameters]
        self._peaks = [rate for _, rate in filled]
        self._weight_decay = weight_decay
        self._optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for parameters, rate in filled], weight_decay=weight_decay
        )
        self._scaler = torch.amp.GradScaler(enabled=scaled)

    def start(self, done: float) -> None:
        """Forget the last gradients and set the rates for a step at this share of the training, 0..1."""
        self._optimiser.zero_grad(set_to_none=True)
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate_factor(done)
            group["weight_decay"] = self._weight_decay

    def enlarge(self, loss: Tensor) -> Tensor:
        """The loss to back-propagate, enlarged where gradients are computed in half precision."""
        enlarged: Tensor = self._scaler.scale(loss)
        return enlarged

    def step(self) -> None:
        """Descend along the gradients.

        Raises:
            Divergence: A gradient is NaN or infinite; nothing was changed.
        """
        self._scaler.unscale_(self._optimiser)
        length = float(nn.utils.clip_grad_norm_(self.parameters, _LARGEST_GRADIENT))
        if not math.isfinite(length) and (not self._scaler.is_enabled() or self._scaler.get_scale() < _SMALLEST_SCALE):
            message = f"the length of the gradient became {length}"
            raise Divergence(message)
        self._scaler.step(self._optimiser)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self._optimiser.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The moments come back; rates are set anew at each step, so a resumed training may have others."""
        self._optimiser.load_state_dict(state["optimiser"])
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


def rate_factor(done: float) -> float:
    """The one-cycle schedule: from 1/25 up to 1 in the first fifth of the training, then down to 0, by cosines."""
    if done < _WARM_UP:
        return _between(1 / _START_DIVISOR, 1.0, done / _WARM_UP)
    return _between(1.0, 1 / _END_DIVISOR, (done - _WARM_UP) / (1 - _WARM_UP))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
