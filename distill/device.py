"""Where training computes: the device, and how exactly."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from deepir.errors import MissingDependency

_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device; `mixed` computes convolutions in bfloat16."""

    name: str
    mixed: bool = False

    def place(self, network: _M) -> _M:
        """Move a network there, in the memory order that convolutions are fastest in."""
        return network.to(self.name, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which convolutions compute in bfloat16, if mixed."""
        return torch.autocast(torch.device(self.name).type, torch.bfloat16, enabled=self.mixed)


def find_device(name: str = "auto", *, mixed: bool = False) -> Device:
    """`auto` takes the GPU when there is one.

    Raises:
        MissingDependency: A GPU was asked for and torch sees none.
    """
    has_gpu = torch.cuda.is_available()
    if name.startswith("cuda") and not has_gpu:
        message = (
            f"torch {torch.__version__} sees no CUDA device: use --device cpu, or check the driver with nvidia-smi"
        )
        raise MissingDependency(message)
    return Device(("cuda" if has_gpu else "cpu") if name == "auto" else name, mixed)


def move(device: Device, images_nchw: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor]:
    """A batch on the device, images in its memory order."""
    return images_nchw.to(device.name, memory_format=torch.channels_last), labels_n.to(device.name)
