"""Power mode, clocks, temperature and watts of this machine, where it lets them be read."""

import re
from dataclasses import dataclass
from pathlib import Path

from deepir.runtime.machine import Machine

_SMI = ("nvidia-smi", "--query-gpu=clocks.sm,temperature.gpu,power.draw", "--format=csv,noheader,nounits")
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
_PLAUSIBLE = (-40.0, 150.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What holds at one moment; None for what cannot be read.

    Attributes:
        mode: Of nvpmodel on a Jetson, else the governor of the CPU's clock.
        cpu_mhz, gpu_mhz: The fastest core, the GPU.
        celsius: The hottest part.
        hottest: Its name.
        watts: Of the whole board on a Jetson, else of the NVIDIA GPU.
    """

    mode: str | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    celsius: float | None = None
    hottest: str | None = None
    watts: float | None = None


def read_power(machine: Machine) -> Power:
    """What the machine says now."""
    gpu_mhz, gpu_celsius, gpu_watts = _nvidia(machine)
    zones = [*_zones(machine), *([(gpu_celsius, "GPU")] if gpu_celsius is not None else [])]
    celsius, hottest = max(zones, default=(None, None))
    return Power(
        mode=_mode(machine),
        cpu_mhz=_largest(machine, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", 1e3),
        gpu_mhz=gpu_mhz or _largest(machine, "sys/class/devfreq/*.gpu/cur_freq", 1e6),
        celsius=celsius,
        hottest=hottest,
        watts=_board_watts(machine) or gpu_watts,
    )


def power_text(power: Power) -> str:
    """One line for people; empty where nothing can be read."""
    parts = [
        power.mode and f"mode {power.mode}",
        power.cpu_mhz and f"CPU {power.cpu_mhz:.0f} MHz",
        power.gpu_mhz and f"GPU {power.gpu_mhz:.0f} MHz",
        power.celsius is not None and f"{power.celsius:.0f} °C ({power.hottest})",
        power.watts and f"{power.watts:.1f} W",
    ]
    return ", ".join(part for part in parts if part)


def _mode(machine: Machine) -> str | None:
    said = machine.output(("nvpmodel", "-q")) if machine.is_jetson else None
    mode = re.search(r"NV Power Mode:\s*(\S+)", said or "")
    return mode[1] if mode else machine.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None


def _largest(machine: Machine, pattern: str, unit: float) -> float | None:
    values = [value for path in machine.glob(pattern) if (value := machine.number(path)) is not None]
    return max(values) / unit if values else None


def _zones(machine: Machine) -> list[tuple[float, str]]:
    """The temperature in degrees Celsius and the name of each zone that can be believed."""
    zones: list[tuple[float, str]] = []
    for folder in machine.glob("sys/class/thermal/thermal_zone*"):
        value = machine.number(folder / "temp")
        if value is not None and _PLAUSIBLE[0] < value / 1000 < _PLAUSIBLE[1]:
            zones.append((value / 1000, machine.text(f"{folder.relative_to(machine.root)}/type") or folder.name))
    return zones


def _nvidia(machine: Machine) -> tuple[float | None, float | None, float | None]:
    """Clock, temperature and watts of the first GPU, of what nvidia-smi knows; a Jetson has no such GPU."""
    said = machine.output(_SMI) if machine.has_nvidia and not machine.is_jetson else None
    fields = (said or "").partition("\n")[0].split(",")
    values = [float(field) if re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", field) else None for field in fields]
    clock, celsius, watts = (*values, None, None, None)[:3]
    return clock, celsius, watts


def _board_watts(machine: Machine) -> float | None:
    for label in machine.glob("sys/class/hwmon/hwmon*/in*_label"):
        if machine.text(str(label.relative_to(machine.root))) in _WHOLE_BOARD:
            number = label.name.removeprefix("in").removesuffix("_label")
            return _product(machine, label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
    return None


def _product(machine: Machine, millivolts: Path, milliamperes: Path) -> float | None:
    volts, amperes = machine.number(millivolts), machine.number(milliamperes)
    return None if volts is None or amperes is None else volts * amperes / 1e6
