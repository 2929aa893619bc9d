"""May this engine be loaded here: it is the one that its sidecar tells of, and it was built for this machine."""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from deepir.errors import EngineError, ModelError
from deepir.runtime.sidecar import EngineRecord, GpuInfo, sidecar_path
from deepir.runtime.tensorrt_library import Flavour

_OLDEST_PORTABLE = (8, 0)
"""Engines for all GPUs begin with this compute capability (Ampere)."""

_NEXT_MAJOR = {8: 10, 10: 11}
"""TensorRT versions that read the portable engines of the one before; there is no 9 on any board of ours."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """What would run an engine: TensorRT's version, the GPU, the processor ("aarch64")."""

    tensorrt_version: str
    gpu: GpuInfo
    arch: str


def library_name(flavour: str) -> str:
    """The name of the library that runs engines of this flavour, as people write it."""
    return "TensorRT-RTX" if flavour == Flavour.RTX.value else "TensorRT"


def trusted_plan(engine: Path, record: EngineRecord, rebuild_hint: str, *, trust: bool = False) -> bytes:
    """The plan's bytes, when they are those that the sidecar was written for; an engine is code.

    Args:
        engine: The plan.
        record: Its sidecar.
        rebuild_hint: The command that builds it again, for the error.
        trust: Take another content too, with a warning in the log.

    Raises:
        EngineError: Another content.
        ModelError: The file is missing or unreadable.
    """
    try:
        content = engine.read_bytes()
    except OSError as error:
        message = f"cannot read {engine}: {error.strerror}"
        raise ModelError(message) from error
    found = hashlib.sha256(content).hexdigest()
    if found == record.engine_sha256:
        return content
    sentence = (
        f"{engine} ({len(content)} bytes, SHA-256 {found[:12]}...) is not the engine that {sidecar_path(engine).name} "
        f"was written for ({record.engine_bytes} bytes, {record.engine_sha256[:12]}...), and an engine is code"
    )
    if not trust:
        message = f"{sentence}: build it again with: {rebuild_hint}"
        raise EngineError(message)
    _logger.warning("%s; loaded all the same, because it was said to be trusted", sentence)
    return content


def stale_reasons(record: EngineRecord, machine: Machine) -> list[str]:
    """Why an engine cannot run on this machine, each with both values; empty where it can."""
    library = library_name(record.flavour)
    reasons = []
    if not _version_fits(record, machine.tensorrt_version):
        reasons.append(f"built with {library} {record.tensorrt_version}, this machine has {machine.tensorrt_version}")
    built_for = record.compute_capabilities or ((record.gpu.compute_capability,) if record.gpu else ())
    if not _gpu_fits(record, built_for, machine.gpu.compute_capability):
        name = f"{record.gpu.name}, " if record.gpu else ""
        reasons.append(
            f"built for {name}compute capability {' and '.join(built_for)}, "
            f"this machine has {machine.gpu.name}, {machine.gpu.compute_capability}"
        )
    arch = record.host.get("arch", machine.arch)
    if arch != machine.arch:
        reasons.append(f"built on {arch}, this machine is {machine.arch}")
    if not reasons and record.gpu and record.gpu.name != machine.gpu.name:
        _logger.warning(
            "this engine was built on %s and runs on %s: one built here may be faster",
            record.gpu.name,
            machine.gpu.name,
        )
    return reasons


def _version_fits(record: EngineRecord, here: str) -> bool:
    if here == record.tensorrt_version:
        return True
    if record.portable not in ("version", "both"):
        return False
    built, running = _numbers(record.tensorrt_version), _numbers(here)
    return running >= built and running[0] in (built[0], _NEXT_MAJOR.get(built[0]))


def _gpu_fits(record: EngineRecord, built_for: tuple[str, ...], here: str) -> bool:
    if here in built_for:
        return True
    oldest = min((_numbers(one) for one in (*built_for, here)), default=(0,))
    return record.portable in ("arch", "both") and oldest >= _OLDEST_PORTABLE


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)) or (0,)
