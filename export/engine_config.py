"""How an engine is to be built: checked once, when it is made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from deepir.errors import OptionError
from deepir.runtime.sidecar import PORTABLE, Portable
from deepir.runtime.tensorrt_library import Flavour

Pool = Literal["auto", "plugin", "native"]

POOLS: tuple[Pool, ...] = get_args(Pool)

DEFAULT_CAPABILITIES = ("8.6", "8.9", "12.0")
"""What TensorRT-RTX builds for on a machine without a GPU: the RTX cards of the last three generations."""

_INT8_SINCE = (8, 6)
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to build an engine with.

    Attributes:
        flavour: Full TensorRT or TensorRT-RTX.
        pool: The RoI max pool by our plugin or in standard operators, as long as nobody has measured which is faster;
            `auto` takes the plugin where it can.
        batch: Smallest, usual and largest number of pictures at once.
        workspace_mib: What TensorRT may take beside weights and maps, in MiB; None chooses by the free memory.
        portable: What else than this machine may run the engine; each costs speed.
        least_int8_share: How much, 0..1, of what is INT8 in an INT8 file must come out INT8.
        compute_capabilities: Of TensorRT-RTX; empty takes this machine's GPU, or `DEFAULT_CAPABILITIES` without one.
        timing_cache: Keep what TensorRT measures for the next build on this device.
    """

    flavour: Flavour
    pool: Pool = "native"
    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int | None = None
    portable: Portable = "none"
    least_int8_share: float = 0.9
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: bool = True

    def __post_init__(self) -> None:
        rtx = self.flavour is Flavour.RTX
        if self.pool not in POOLS or self.portable not in PORTABLE:
            _refuse(f"--pool is one of {POOLS}, --portable of {PORTABLE}; got {self.pool}, {self.portable}")
        if self.batch[0] < 1 or any(after < before for before, after in pairwise(self.batch)):
            _refuse(f"--batch is smallest:usual:largest, from 1 on and not falling; got {self.batch}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            _refuse(f"--workspace is a number of MiB from 1 on, got {self.workspace_mib}")
        if not 0 <= self.least_int8_share <= 1:
            _refuse(f"the least share of INT8 convolutions is 0..1, got {self.least_int8_share}")
        if rtx and self.pool == "plugin":
            _refuse("TensorRT-RTX takes no plugins: use --pool native")
        if rtx and self.portable != "none":
            _refuse(
                "TensorRT-RTX makes no engines for other versions, and is given the GPUs as compute capabilities: "
                f"leave --portable {self.portable} out"
            )
        if not rtx and self.compute_capabilities:
            _refuse(f"full TensorRT builds for the GPU of this machine, not for {', '.join(self.compute_capabilities)}")
        for capability in self.compute_capabilities:
            if not _CAPABILITY.fullmatch(capability):
                _refuse(f"a compute capability is such as 8.6, got {capability!r}")


def capability_number(capability: str) -> tuple[int, ...]:
    """8.6 as (8, 6), to compare with."""
    return tuple(int(part) for part in capability.split("."))


def int8_capabilities(capabilities: Sequence[str]) -> list[str]:
    """Those for which TensorRT-RTX has INT8 convolutions: 8.6 and newer (tensorrt.md 3.2)."""
    return [capability for capability in capabilities if capability_number(capability) >= _INT8_SINCE]


def _refuse(message: str) -> None:
    raise OptionError(message)
