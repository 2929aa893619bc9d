"""Whether the memory suffices for a build, and how much of it TensorRT may take as its workspace."""

from dataclasses import dataclass

from deepir.errors import MemoryLimitError
from deepir.export.engine_machine import HostMemory

LIBRARIES_MIB = 600
"""TensorRT's libraries, CUDA and Python: 222 measured with TensorRT-RTX without a GPU, the rest allowed for CUDA."""

COPIES = 4
"""Copies of the weights that a build holds at once: 3.0 (FP32) and 4.1 (FP16) measured, ResNet-18 in TensorRT-RTX."""

ACTIVATIONS = 10
"""Bytes of maps for each byte of input: 9.3 in TensorRT-RTX's plan of ResNet-18 at 512 (tensorrt.md 3.4)."""

_MIB = 1 << 20
_LEAST_WORKSPACE_MIB = 64
_MOST_WORKSPACE_MIB = 4096
CURE = (
    "add swap, end the desktop (sudo systemctl isolate multi-user.target) and other programs, "
    "or give a smaller --workspace or --batch"
)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a build is expected to take besides its workspace, the workspace, and a warning for people; in MiB."""

    needed: int
    workspace: int
    warning: str


def estimate_mib(onnx_bytes: int, input_bytes: int) -> int:
    """What a build takes besides its workspace, in MiB: libraries, weights several times over, maps.

    It is an estimate on the high side, made of the constants above; nothing was measured with full TensorRT.

    Args:
        onnx_bytes: The size of the file.
        input_bytes: The largest input of the largest profile.
    """
    return LIBRARIES_MIB + (COPIES * onnx_bytes + ACTIVATIONS * input_bytes) // _MIB


def plan_memory(needed: int, asked: int | None, memory: HostMemory | None, gpu_mib: int | None) -> MemoryPlan:
    """Choose the workspace: what was asked for, else half of what is left, of 64 to 4096 MiB.

    Args:
        needed: From `estimate_mib`.
        asked: The workspace that the person wants, in MiB.
        memory: Of the host; a Jetson's GPU shares it.
        gpu_mib: All memory of the GPU, where there is one.

    Raises:
        MemoryLimitError: Not even half of what is needed is there, swap included, so that it cannot succeed.
    """
    if memory is None:
        return MemoryPlan(needed, asked or _clamped((gpu_mib or 0) // 2), "")
    if memory.available + memory.swap < needed // 2:
        message = (
            f"the build needs about {needed} MiB and only {memory.available} MiB of {memory.total} MiB are available "
            f"(and {memory.swap} MiB of swap): {CURE}"
        )
        raise MemoryLimitError(message)
    left = memory.available - needed
    workspace = asked or _clamped(min(left, gpu_mib or left) // 2)
    warning = ""
    if left < workspace:
        warning = (
            f"memory is short: the build needs about {needed} MiB and a workspace of {workspace} MiB, "
            f"{memory.available} MiB are available; if it is killed, {CURE}"
        )
    return MemoryPlan(needed, workspace, warning)


def killed_message(needed: int, memory: HostMemory | None) -> str:
    """What to say when the system ended a build for want of memory."""
    had = "" if memory is None else f", {memory.available} MiB of {memory.total} MiB were available at its start"
    return f"the build ran out of memory (it needs about {needed} MiB{had}): {CURE}"


def _clamped(mib: int) -> int:
    return min(max(mib, _LEAST_WORKSPACE_MIB), _MOST_WORKSPACE_MIB)
