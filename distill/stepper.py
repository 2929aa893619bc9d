"""One step of training: in one graph, or in three stages whose memory does not grow with the batch."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepir.distill.device import Device
from deepir.distill.optimise import Descent, Divergence
from deepir.distill.ranks import Ranks
from deepir.distill.sights import Batch, Request
from deepir.errors import DeepIRError, OptionError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs (N, ...) of a whole batch, on the device, and their item numbers (N,), on the CPU, to a scalar."""

_COUPLED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
_RATES = {"DropPath": "drop_prob", "StochasticDepth": "p"}
"""What drops whole branches at random, in timm and torchvision, and how often."""


class CompilationError(Exception):
    """What torch.compile found wrong, in its first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepForm:
    """How a step is computed.

    Attributes:
        chunk: Pictures in memory at once; None computes a batch in one graph.
        compiled: Let torch.compile translate the network.
        ranks: The processes that share each batch.
    """

    chunk: int | None = None
    compiled: bool = False
    ranks: Ranks = field(default_factory=Ranks)


class Stepper:
    """The steps of one network.

    In three stages (method.md 5) all pictures first pass without a graph, chunk by chunk; then the loss of the whole
    batch gives the gradient at their outputs; then each chunk passes again, with a graph that takes its part of that
    gradient back.  The sum is the gradient of one graph, because the output of a picture depends on it alone.

    Raises:
        OptionError: There are chunks or several processes, and a module in training mode draws at random or mixes
            the pictures of a batch.
    """

    def __init__(self, network: nn.Module, loss: Loss, descent: Descent, device: Device, form: StepForm) -> None:
        if form.chunk is not None or form.ranks.count > 1:
            _check_separable(network)
        self._loss = loss
        self._descent = descent
        self._device = device
        self._chunk = form.chunk
        self._ranks = form.ranks
        self._parallel = _parallel(network, device) if form.ranks.count > 1 else None
        whole: Any = self._parallel or network
        self._forward = torch.compile(whole) if form.compiled else whole
        # the first stage has no gradients to share
        self._forward_alone = self._forward if self._parallel is None else network

    def requests(self, batch: Batch, epoch: int) -> list[list[Request]]:
        """What a step reads, in order: this process's share of the batch, in stages the chunks of it twice.

        Raises:
            OptionError: Fewer pictures than processes.
        """
        asked = [(number, epoch, batch.size) for number in self._ranks.share(batch.numbers)]
        if self._chunk is None:
            return [asked]
        return [asked[start : start + self._chunk] for start in range(0, len(asked), self._chunk)] * 2

    def step(self, batch: Batch, images: Iterator[Tensor]) -> float:
        """Descend once; gives the loss of the whole batch.

        Args:
            batch: The pictures of all processes.
            images: Gives the tensors of `requests`.

        Raises:
            Divergence: The loss or a gradient is NaN or infinite; the weights are as before.
            InputError: A picture that this process or another cannot read; the weights are as before.
        """
        value = self._direct(batch, images) if self._chunk is None else self._staged(batch, images, self._chunk)
        self._descent.step()
        return value

    def _direct(self, batch: Batch, images: Iterator[Tensor]) -> float:
        (image_batch,) = self._agreed(images, 1, lambda images_nchw: images_nchw)
        return self._backward(self._run(self._forward, image_batch), batch)

    def _staged(self, batch: Batch, images: Iterator[Tensor], chunk: int) -> float:
        count = math.ceil(len(self._ranks.share(batch.numbers)) / chunk)
        with torch.no_grad():
            outputs = torch.cat(self._agreed(images, count, lambda part: self._run(self._forward_alone, part)))
        value = self._backward(outputs.requires_grad_(), batch)
        # a loss that does not depend on the outputs, as that of a batch without pairs, has no gradient
        gradient_nd = torch.zeros_like(outputs) if outputs.grad is None else outputs.grad
        for number in range(count):
            part = gradient_nd[number * chunk : (number + 1) * chunk]
            with self._sharing(last=number == count - 1):
                self._run(self._forward, next(images)).backward(part)  # type: ignore[no-untyped-call]
        return value

    def _agreed(self, images: Iterator[Tensor], count: int, use: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Take and use some tensors; when a process fails at it, all stop here instead of waiting for it."""
        used: list[Tensor] = []
        error = None
        try:
            used.extend(use(next(images)) for _ in range(count))
        except DeepIRError as problem:
            error = problem
        self._ranks.check(error)
        return used

    def _run(self, forward: Callable[[Tensor], Tensor], images_nchw: Tensor) -> Tensor:
        placed = images_nchw.to(self._device.name, memory_format=torch.channels_last, non_blocking=True)
        with self._device.autocast(), _translated():
            return forward(placed).float()

    def _backward(self, outputs: Tensor, batch: Batch) -> float:
        """The loss of the whole batch, taken back to this process's outputs."""
        loss = self._loss(self._ranks.gather(outputs, len(batch.numbers)), torch.tensor(batch.numbers))
        value = float(loss.detach())
        if not math.isfinite(value):
            message = f"the loss became {value}"
            raise Divergence(message)
        self._descent.enlarge(loss).backward()  # type: ignore[no-untyped-call]
        return value

    def _sharing(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes share the gradients of a step once, with its last chunk."""
        return contextlib.nullcontext() if self._parallel is None or last else self._parallel.no_sync()


def _parallel(network: nn.Module, device: Device) -> DistributedDataParallel:
    places = [torch.device(device.name)] if device.name.startswith("cuda") else None
    return DistributedDataParallel(network, device_ids=places, broadcast_buffers=False, find_unused_parameters=True)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Tell what torch.compile found wrong from what the network does."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise CompilationError(str(error).strip().splitlines()[0]) from error
        raise


def _check_separable(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if module.training and _is_coupling(module):
            message = (
                f"{name or 'the network'} ({type(module).__name__}) is in training mode, so chunks or several "
                "processes would not give the gradients of the whole batch: use --freeze-norm, and no dropout"
            )
            raise OptionError(message)


def _is_coupling(module: nn.Module) -> bool:
    """Whether a module, in training mode, mixes the pictures of a batch or draws at random."""
    if isinstance(module, _COUPLED):
        return getattr(module, "p", 1.0) > 0
    return getattr(module, _RATES.get(type(module).__name__, ""), 0.0) > 0
