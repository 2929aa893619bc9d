"""The machine that builds: its GPU and CUDA, its memory, its system."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from deepir.runtime.cuda import open_cuda
from deepir.runtime.sidecar import GpuInfo

_MEMINFO = Path("/proc/meminfo")
_TEGRA = Path("/etc/nv_tegra_release")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and the newest CUDA that its driver runs, such as "12.6"."""

    info: GpuInfo
    cuda_version: str


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What Linux says of its memory, in MiB (2**20 bytes): what programs may still take, all of it, free swap."""

    available: int
    total: int
    swap: int


def this_gpu() -> Gpu:
    """The first visible GPU.

    Raises:
        MissingDependency: No GPU, no driver, or neither pycuda nor cuda-python.
    """
    # it makes no context, so it takes no memory of the build
    cuda = open_cuda()
    return Gpu(GpuInfo(cuda.device_name(), cuda.compute_capability(), cuda.memory_mib()), cuda.version())


def host_memory(meminfo: Path = _MEMINFO) -> HostMemory | None:
    """Memory as Linux counts it; None where there is no such file."""
    try:
        text = meminfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if not {"MemAvailable", "MemTotal"} <= kib.keys():
        return None
    return HostMemory(kib["MemAvailable"] >> 10, kib["MemTotal"] >> 10, kib.get("SwapFree", 0) >> 10)


def describe_host(tegra: Path = _TEGRA) -> dict[str, str]:
    """The "os" and "arch", and on a Jetson "jetpack": the release of its Linux, such as R36.4.3 of JetPack 6.2."""
    host = {"os": f"{platform.system()} {platform.release()}", "arch": platform.machine()}
    try:
        release = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", tegra.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return host
    return host if release is None else {**host, "jetpack": f"R{release[1]}.{release[2]}"}
