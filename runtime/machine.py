"""The machine as the doctor and the benchmark see it: files, commands and packages, each replaceable by a test."""

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepir.runtime.machine_import import Imported, import_in_child

_COMMAND_SECONDS = 20
_GPU_FILES = ("dev/nvidiactl", "dev/nvhost-ctrl-gpu", "dev/nvgpu", "dev/dxg")
_NVIDIA, _DISPLAY = "0x10de", "0x03"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the facts come from.

    Attributes:
        root: The folder that holds etc, dev, proc and sys.
        architecture: Such as "aarch64".
        python: Major, minor, micro.
        isolated: Whether this is a virtual environment that does not see the system's packages.
        now: Seconds since 1970, of the system's clock.
        installed: When deepir's own files were written, in the same seconds.
        imported: Imports a package of `deepir.runtime.machine_import.PACKAGES`.
        version: Of an installed distribution; None where there is none.
        output: What a command prints; None where it is not there or fails.
        free_bytes: On the disk of a folder.
        accessible: Whether this user may read and write a file.
    """

    root: Path
    architecture: str
    python: tuple[int, int, int]
    isolated: bool
    now: float
    installed: float
    imported: Callable[[str], Imported]
    version: Callable[[str], str | None]
    output: Callable[[Sequence[str]], str | None]
    free_bytes: Callable[[Path], int]
    accessible: Callable[[Path], bool]

    def text(self, path: str) -> str:
        """A file below the root, stripped; empty where it cannot be read."""
        try:
            # files of the device tree end with a zero byte
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return ""

    def glob(self, pattern: str) -> list[Path]:
        """Files below the root, sorted by name, numbers by their value."""
        return sorted(self.root.glob(pattern), key=lambda path: (len(str(path)), str(path)))

    def number(self, path: Path) -> float | None:
        """The number that a file holds; None where it holds none."""
        try:
            return float(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson."""
        return bool(self.text("etc/nv_tegra_release")) or "nvidia,tegra" in self.text("proc/device-tree/compatible")

    @property
    def has_nvidia(self) -> bool:
        """Whether an NVIDIA GPU is built in, with or without a driver."""
        driven = any((self.root / path).exists() for path in _GPU_FILES)
        return driven or self.is_jetson or any(map(self._is_nvidia_card, self.glob("sys/bus/pci/devices/*")))

    @property
    def in_container(self) -> bool:
        """Whether this is a container of Docker or Podman."""
        return any((self.root / path).exists() for path in (".dockerenv", "run/.containerenv"))

    @property
    def board(self) -> str:
        """The board or the processor, in words; empty where nobody says."""
        lines = (line.partition(":") for line in self.text("proc/cpuinfo").splitlines())
        processor = next((value.strip() for field, _, value in lines if field.strip() == "model name"), "")
        return self.text("proc/device-tree/model") or processor

    def _is_nvidia_card(self, device: Path) -> bool:
        folder = device.relative_to(self.root)
        return self.text(f"{folder}/vendor") == _NVIDIA and self.text(f"{folder}/class").startswith(_DISPLAY)


def this_machine() -> Machine:
    """The machine that runs this."""
    return Machine(
        root=Path("/"),
        architecture=platform.machine(),
        python=sys.version_info[:3],
        isolated=sys.prefix != sys.base_prefix and not _sees_system(Path(sys.prefix)),
        now=time.time(),
        installed=Path(__file__).stat().st_mtime,
        imported=functools.cache(import_in_child),
        version=_version,
        output=_output,
        free_bytes=lambda folder: shutil.disk_usage(folder).free,
        accessible=lambda path: os.access(path, os.R_OK | os.W_OK),
    )


def _sees_system(prefix: Path) -> bool:
    try:
        text = (prefix / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    return "include-system-site-packages = true" in text.lower()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(words: Sequence[str]) -> str | None:
    program = shutil.which(words[0])
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 our own words, no shell
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
