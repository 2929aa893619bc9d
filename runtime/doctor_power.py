"""The doctor's questions about power: mode and clocks, and whether the machine is too hot."""

from dataclasses import replace

from deepir.runtime.finding import Finding, ok, warn
from deepir.runtime.machine import Machine
from deepir.runtime.power import power_text, read_power

_HOT = 85.0
"""Degrees Celsius; boards slow down a little above."""


def check_power(machine: Machine) -> Finding:
    """Mode, clocks and watts."""
    power = read_power(machine)
    text = power_text(replace(power, celsius=None))
    if machine.is_jetson and power.mode is None:
        cure = "sudo nvpmodel -q"
        return warn("power", f"{text or 'nothing can be read'}; the power mode is not known", cure)
    return ok("power", text or "not known on this system")


def check_temperature(machine: Machine) -> Finding:
    """The hottest part."""
    power = read_power(machine)
    if power.celsius is None:
        return ok("temperature", "not known on this system")
    text = f"{power.celsius:.0f} °C ({power.hottest})"
    if power.celsius >= _HOT:
        cure = "sudo jetson_clocks --fan" if machine.is_jetson else "watch cat /sys/class/thermal/thermal_zone*/temp"
        return warn("temperature", f"{text}: clocks fall, and with them frames per second", cure)
    return ok("temperature", text)
