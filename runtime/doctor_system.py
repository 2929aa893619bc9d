"""The doctor's questions about the machine itself: Python, JetPack, memory, disk, system clock."""

import datetime
import re
from pathlib import Path

from deepir.runtime.finding import Finding, fail, ok, warn
from deepir.runtime.machine import Machine

_ARCHITECTURES = ("x86_64", "aarch64", "arm64", "AMD64")
_DAY = 86400
_NOT_BEFORE = datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone.utc).timestamp()
_LITTLE_MIB = 1024
_SMALL_BOARD_MIB = 8192
_LITTLE_DISK, _NO_DISK = 1e9, 1e8
_SWAP = "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"

JETPACKS = {36: "jetson6", 38: "jetson7", 39: "jetson7"}
"""Releases of Jetson Linux (L4T) and the extra of deepir for each."""

_OLDEST_L4T = min(JETPACKS)


def check_python(machine: Machine) -> Finding:
    """Which Python, on which processor."""
    version = ".".join(map(str, machine.python))
    sees = ", an environment without the system's packages" if machine.isolated else ""
    text = f"{version} on {machine.architecture}{sees}"
    if machine.architecture not in _ARCHITECTURES:
        cure = "python3 -c 'import platform; print(platform.machine())'"
        return warn("python", f"{text}: packages are made for {', '.join(_ARCHITECTURES[:2])}", cure)
    return ok("python", text)


def check_jetpack(machine: Machine) -> Finding:
    """Which JetPack, from /etc/nv_tegra_release and the package nvidia-jetpack."""
    if not machine.is_jetson:
        return ok("jetpack", "not a Jetson")
    said = machine.text("etc/nv_tegra_release")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", said)
    package = (machine.output(("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack")) or "").strip()
    jetpack = f"JetPack {package}" if package else "JetPack's package is not installed"
    if release is None:
        cure = "docker run --runtime nvidia -v /etc/nv_tegra_release:/etc/nv_tegra_release IMAGE"
        return warn("jetpack", f"a Jetson whose /etc/nv_tegra_release says nothing; {jetpack}", cure)
    text = f"Jetson Linux {release[1]}.{release[2]}, {jetpack}"
    if int(release[1]) < _OLDEST_L4T:
        return fail("jetpack", f"{text}: deepir needs JetPack 6.1 or newer", "sdkmanager")
    if not package and not machine.in_container:
        return warn("jetpack", text, "sudo apt install nvidia-jetpack")
    return ok("jetpack", text)


def check_memory(machine: Machine) -> Finding:
    """Memory and swap, in MiB."""
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.text("proc/meminfo"), re.MULTILINE))
    if "MemTotal" not in values:
        return ok("memory", "not known on this system")
    total, free, swap = (int(values.get(name, 0)) // 1024 for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    text = f"{free} of {total} MiB free, {swap} MiB swap"
    if free < _LITTLE_MIB:
        return warn("memory", text, "ps aux --sort=-rss | head")
    if machine.is_jetson and total <= _SMALL_BOARD_MIB and not swap:
        return warn("memory", f"{text}: building an engine may run out of it", _SWAP)
    return ok("memory", text)


def check_disk(machine: Machine) -> Finding:
    """Space where the command was typed."""
    folder = Path.cwd()
    free = machine.free_bytes(folder)
    text = f"{free / 1e9:.1f} GB free here"
    cure = "du -xh --max-depth=2 . | sort -h | tail"
    if free < _NO_DISK:
        return fail("disk", f"{text}: an index cannot be saved safely", cure)
    return warn("disk", text, cure) if free < _LITTLE_DISK else ok("disk", text)


def check_clock(machine: Machine) -> Finding:
    """Whether the system's clock can be right; a Jetson without a battery starts in 1970."""
    shown = datetime.datetime.fromtimestamp(machine.now, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    cure = "sudo timedatectl set-ntp true"
    if machine.now < max(_NOT_BEFORE, machine.installed - _DAY):
        return fail("clock", f"{shown} is before deepir was installed: times and rtsps:// or https:// fail", cure)
    if (machine.output(("timedatectl", "show", "-p", "NTP", "--value")) or "").strip() == "no":
        return warn("clock", f"{shown}, and nothing sets it", cure)
    return ok("clock", shown)
