"""The doctor's questions about cameras: which there are, who may read them, and the daemon of CSI cameras."""

from deepir.runtime.finding import Finding, fail, ok, warn
from deepir.runtime.machine import Machine

_DAEMON = "nvargus-daemon"


def check_cameras(machine: Machine) -> Finding:
    """The capture nodes below /dev and whether this user may read them."""
    nodes = [path for path in machine.glob("dev/video*") if _captures(machine, path.name)]
    if not nodes:
        return ok("cameras", "no /dev/video*; files and network cameras need none")
    named = [f"/dev/{path.name} {_name(machine, path.name)}".strip() for path in nodes]
    closed = [path.name for path in nodes if not machine.accessible(path)]
    if closed:
        refused = f"this user may not read {', '.join(closed)}"
        return fail("cameras", f"{'; '.join(named)}: {refused}", "sudo usermod -aG video $USER && newgrp video")
    return ok("cameras", "; ".join(named))


def check_camera_daemon(machine: Machine) -> Finding:
    """On a Jetson, whether the daemon runs through which CSI cameras are read."""
    if not machine.is_jetson:
        return ok("csi", "not a Jetson")
    # not is-active, which fails unless it is
    state = (machine.output(("systemctl", "show", "-p", "ActiveState", "--value", _DAEMON)) or "").strip()
    if state in ("", "active"):
        return ok("csi", f"{_DAEMON} is active" if state else f"whether {_DAEMON} runs is not known here")
    return warn("csi", f"{_DAEMON} is {state}: CSI cameras cannot be read", f"sudo systemctl restart {_DAEMON}")


def _captures(machine: Machine, node: str) -> bool:
    """Whether a node gives pictures; drivers make a second one, of a higher index, for what describes them."""
    return machine.text(f"sys/class/video4linux/{node}/index") in ("", "0")


def _name(machine: Machine, node: str) -> str:
    return machine.text(f"sys/class/video4linux/{node}/name")
