"""The cameras of this machine, as Linux lists them, without the nodes that give no pictures."""

import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_SYSTEM = Path("/sys/class/video4linux")
_DEVICES = Path("/dev")

_QUERY = 0x80685600
"""VIDIOC_QUERYCAP of linux/videodev2.h: 104 bytes, of which the one at 84 and the one at 88 are capabilities."""

_QUERY_SIZE, _CAPABILITIES_AT = 104, 84
_HAS_DEVICE_CAPABILITIES = 0x80000000
_CAPTURES = 0x00000001 | 0x00001000
"""V4L2_CAP_VIDEO_CAPTURE and its multi-planar form; metadata, output and codec nodes have neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFacts:
    """One camera.

    Attributes:
        number: The one in camera0: counts cameras, and passes over nodes that give no pictures.
        node: Such as /dev/video2; the number in it may change when the camera is plugged in again.
        name: As the driver calls it.
        stable: The path below /dev/v4l/by-id, which stays; None where there is none.
        open_to_us: Whether this user may read it.
    """

    number: int
    node: Path
    name: str
    stable: Path | None
    open_to_us: bool

    def text(self) -> str:
        """In one line."""
        closed = "" if self.open_to_us else ", closed to this user"
        return f"camera{self.number} {self.node} ({self.name}){f' {self.stable}' if self.stable else ''}{closed}"


def read_capabilities(node: Path) -> int | None:
    """What a V4L2 node can do, as bits of linux/videodev2.h; None when it cannot be asked."""
    try:
        import fcntl  # absent on Windows

        descriptor = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
    except (ImportError, OSError):
        return None
    try:
        answer = fcntl.ioctl(descriptor, _QUERY, bytes(_QUERY_SIZE))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    of_hardware, of_node = struct.unpack_from("=II", answer, _CAPABILITIES_AT)
    return int(of_node if of_hardware & _HAS_DEVICE_CAPABILITIES else of_hardware)


def list_cameras(
    system: Path = _SYSTEM,
    devices: Path = _DEVICES,
    capabilities: Callable[[Path], int | None] = read_capabilities,
) -> list[CameraFacts]:
    """Every camera, in the order of its node; empty where the system keeps no such list.

    Args:
        system: The folder in which Linux describes video devices.
        devices: The folder with their nodes.
        capabilities: Asks a node what it can do.
    """
    stable = dict(_stable_paths(devices))
    found = [
        (node, folder)
        for folder in sorted(_folders(system), key=lambda folder: _number(folder.name))
        if (node := devices / folder.name).exists() and _gives_pictures(folder, capabilities(node))
    ]
    return [
        CameraFacts(
            number=number,
            node=node,
            name=_read(folder / "name") or "without a name",
            stable=stable.get(node.name),
            open_to_us=os.access(node, os.R_OK | os.W_OK),
        )
        for number, (node, folder) in enumerate(found)
    ]


def _folders(system: Path) -> list[Path]:
    try:
        return [folder for folder in system.iterdir() if re.fullmatch(r"video\d+", folder.name)]
    except OSError:
        return []


def _number(name: str) -> int:
    return int(name.removeprefix("video"))


def _gives_pictures(folder: Path, capabilities: int | None) -> bool:
    if capabilities is not None:
        return bool(capabilities & _CAPTURES)
    # the first node of a USB camera gives pictures, the others what belongs to them
    return _read(folder / "index") in {"0", ""}


def _stable_paths(devices: Path) -> Iterator[tuple[str, Path]]:
    """Names of nodes, and the paths that do not change."""
    folder = devices / "v4l" / "by-id"
    try:
        links = sorted(folder.iterdir())
    except OSError:
        return
    for link in links:
        yield link.resolve().name, link


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
