"""Where training computes: the device, and how exactly."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from deepir.distill.choices import HALVES
from deepir.distill.ranks import current, local_rank
from deepir.errors import MissingDependency, OptionError

_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device.

    Attributes:
        name: As torch calls it: cpu, cuda, cuda:1.
        mixed: Compute convolutions in half precision.
        half: Which, bf16 or fp16.
    """

    name: str
    mixed: bool = False
    half: str = "bf16"

    @property
    def scaled(self) -> bool:
        """Whether gradients are computed in fp16, too small for some of them unless the loss is enlarged."""
        return self.mixed and self.half == "fp16"

    @property
    def on_gpu(self) -> bool:
        return self.name.startswith("cuda")

    def place(self, network: _M) -> _M:
        """Move a network there, in the memory order that convolutions are fastest in."""
        return network.to(self.name, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which convolutions compute in half precision, if mixed."""
        dtype = torch.float16 if self.half == "fp16" else torch.bfloat16
        return torch.autocast(torch.device(self.name).type, dtype, enabled=self.mixed)


def find_device(name: str = "auto", *, mixed: bool = False, half: str = "auto") -> Device:
    """`auto` takes the GPU when there is one; of several processes on a machine each takes its own.

    Raises:
        MissingDependency: A GPU was asked for and torch sees none, or fewer than processes.
        OptionError: fp16 without a GPU, or no such form of half precision.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name.startswith("cuda") and not gpus:
        message = (
            f"torch {torch.__version__} sees no CUDA device: use --device cpu, or check the driver with nvidia-smi"
        )
        raise MissingDependency(message)
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name == "cuda" and current().count > 1:
        name = _own_gpu(gpus)
    return Device(name, mixed, _find_half(half, name))


def _own_gpu(gpus: int) -> str:
    if local_rank() >= gpus:
        message = (
            f"process {local_rank() + 1} of this machine has no GPU of its own among {gpus}: start torchrun with "
            f"--nproc-per-node {gpus}, or use --device cpu"
        )
        raise MissingDependency(message)
    return f"cuda:{local_rank()}"


def _find_half(half: str, name: str) -> str:
    on_gpu = name.startswith("cuda")
    if half not in HALVES or (half == "fp16" and not on_gpu):
        message = f"half precision is one of {', '.join(HALVES)}, fp16 on a GPU only, got {half} on {name}"
        raise OptionError(message)
    if half == "auto":
        return "bf16" if not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return half
