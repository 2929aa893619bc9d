"""The timing cache: what TensorRT measured on this device, kept so that the next build is faster; never shipped."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from deepir.runtime.cache import cache_folder, keep
from deepir.runtime.sidecar import GpuInfo

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class TimingCache:
    """The file of one device, TensorRT and CUDA: a digest of its name and content, then TensorRT's own bytes."""

    path: Path

    def read(self) -> tuple[bytes | None, str]:
        """TensorRT's bytes and a note; no bytes where there is no file, and where it is damaged or another's."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            return None, f"the timing cache {self.path} cannot be read ({error.strerror}): it is not used"
        stated, measured = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if not measured or stated != self._digest(measured):
            return None, f"the timing cache {self.path} is damaged or another device's: it is not used, and replaced"
        return measured, ""

    def write(self, measured: bytes) -> bool:
        """Keep TensorRT's bytes, whole or not at all; whether they could be kept."""
        return keep(self.path, self._digest(measured) + measured)

    def _digest(self, measured: bytes) -> bytes:
        # the name is in it, so that a file renamed from another device's is not taken for this one's
        return hashlib.sha256(self.path.name.encode() + b"\n" + measured).digest()


def timing_cache(gpu: GpuInfo, tensorrt_version: str, cuda_version: str) -> TimingCache | None:
    """The cache for this device and these versions; None for a user without a home."""
    folder = cache_folder()
    if folder is None:
        return None
    parts = (gpu.name, f"sm{gpu.compute_capability}", f"trt{tensorrt_version}", f"cuda{cuda_version}")
    name = "-".join(re.sub(r"[^a-z0-9.]+", "_", part.lower()) for part in parts)
    return TimingCache(folder / "timing" / f"{name}.timing")
