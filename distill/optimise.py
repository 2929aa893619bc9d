"""One step of training: AdamW under a one-cycle schedule, with clipped gradients."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from deepir.distill.epochs import Stateful

_LARGEST_GRADIENT = 5.0
_WARM_UP = 0.2
_SHORTEST_SCHEDULE = 10
"""With fewer steps torch's one-cycle schedule divides by zero."""


class Optimisation:
    """An optimiser with its schedule over all steps.

    Args:
        groups: Parameters with the peak learning rate of each group.
        steps: How many steps there will be.
    """

    def __init__(
        self, groups: Iterable[tuple[Iterable[nn.Parameter], float]], *, weight_decay: float, steps: int
    ) -> None:
        filled = [(list(parameters), rate) for parameters, rate in groups]
        filled = [(parameters, rate) for parameters, rate in filled if parameters]
        self._parameters = [parameter for parameters, _ in filled for parameter in parameters]
        self._optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for parameters, rate in filled], weight_decay=weight_decay
        )
        rates = [rate for _, rate in filled]
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, rates, total_steps=max(steps, _SHORTEST_SCHEDULE), pct_start=_WARM_UP
        )

    def step(self, loss: Tensor) -> float:
        """Descend once along the gradient of a loss; gives its value."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a resumed training must get back."""
        return {"optimiser": self._optimiser, "schedule": self._schedule}
