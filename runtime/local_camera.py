"""Cameras of this machine: found anew by number, node, stable path or name before every connection."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from deepir.runtime.camera_list import CameraFacts, list_cameras
from deepir.runtime.camera_reader import Opener
from deepir.runtime.camera_state import Trouble
from deepir.runtime.capture import Capture, open_device

_NODE = re.compile(r"video(\d+)")

_CLOSED = "is closed to this user: sudo usermod -aG video $USER, then log in again"
_BUSY = "does not open: is it used by another program (sudo fuser -v {node}), or is its driver at a loss (unplug it)?"


def opener_of_number(number: int, cameras: Callable[[], Sequence[CameraFacts]] = list_cameras) -> Opener:
    """Opens the camera with this number in `list_cameras`; where the system keeps no list, that of the node."""

    def open_it() -> Capture | Trouble:
        present = cameras()
        if number < len(present):
            return _open_node(present[number].node, f"camera{number}", present)
        if present:
            message = f"camera{number} is not there; cameras on this machine: {_texts(present)}"
            return Trouble("not found", message)
        return _open_node(Path(f"/dev/video{number}"), f"camera{number}", present)

    return open_it


def opener_of_node(path: Path, cameras: Callable[[], Sequence[CameraFacts]] = list_cameras) -> Opener:
    """Opens a node, or what a stable path leads to now."""
    return lambda: _open_node(path, str(path), cameras())


def opener_of_name(name: str, cameras: Callable[[], Sequence[CameraFacts]] = list_cameras) -> Opener:
    """Opens the one camera whose name has these words in it, in small letters or large ones."""

    def open_it() -> Capture | Trouble:
        present = cameras()
        called = [camera for camera in present if name.casefold() in camera.name.casefold()]
        if len(called) == 1:
            return _open_node(called[0].node, called[0].name, present)
        if called:
            message = f'{len(called)} cameras are called "{name}": give the number or path of one of {_texts(called)}'
            return Trouble("not found", message)
        return Trouble("not found", f'no camera is called "{name}"; cameras on this machine: {_texts(present)}')

    return open_it


def _open_node(path: Path, called: str, present: Sequence[CameraFacts]) -> Capture | Trouble:
    node = path.resolve()
    number = _NODE.fullmatch(node.name)
    shown = called if called == str(node) else f"{called} ({node})"
    if number is None:
        return Trouble("not found", f"{called} is not there; cameras on this machine: {_texts(present)}")
    capture = open_device(int(number[1]))
    if capture.isOpened():
        return capture
    capture.release()
    if not node.exists():
        return Trouble("not found", f"{shown} is not there; cameras on this machine: {_texts(present)}")
    closed = any(camera.node == node and not camera.open_to_us for camera in present)
    return Trouble("refused" if closed else "busy", f"{shown} {_CLOSED if closed else _BUSY.format(node=node)}")


def _texts(cameras: Sequence[CameraFacts]) -> str:
    return ", ".join(camera.text() for camera in cameras) or "none"
