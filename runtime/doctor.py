"""What is right and wrong with a machine and with files for it, one finding a question."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deepir.errors import DeepIRError, EngineError
from deepir.runtime.doctor_cameras import check_camera_daemon, check_cameras
from deepir.runtime.doctor_files import check_files
from deepir.runtime.doctor_gpu import check_cuda, check_plugin_numpy, check_tensorrt
from deepir.runtime.doctor_packages import (
    check_onnxruntime,
    check_opencv,
    check_openvino,
    check_providers,
    check_usearch,
)
from deepir.runtime.doctor_power import check_power, check_temperature
from deepir.runtime.doctor_selftest import Rehearsal, rehearse
from deepir.runtime.doctor_system import check_clock, check_disk, check_jetpack, check_memory, check_python
from deepir.runtime.finding import Finding, fail, ok
from deepir.runtime.machine import Machine

CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    *(check_python, check_jetpack, check_cuda, check_tensorrt, check_plugin_numpy),
    *(check_onnxruntime, check_providers, check_openvino, check_usearch, check_opencv),
    *(check_cameras, check_camera_daemon, check_memory, check_disk, check_power, check_temperature, check_clock),
)
"""Every question about the machine, in the order in which they are answered."""

_SELF_TEST = "self-test"


def examine(machine: Machine, paths: Sequence[Path] = ()) -> list[Finding]:
    """Answer all questions about the machine, then those about the files."""
    return [*(check(machine) for check in CHECKS), *check_files(list(paths), machine)]


def try_model(model: Path) -> tuple[Finding, Rehearsal | None]:
    """The self-test as one more finding, and what came of it; None where it could not be finished."""
    cure = f"{Path(sys.executable).name} -m deepir.runtime.doctor_selftest {model}"
    try:
        rehearsal = rehearse(model)
    except DeepIRError as error:
        return fail(_SELF_TEST, str(error), cure, type(error)), None
    found = f"{rehearsal.found} of {rehearsal.scenes} stored pictures found again in {rehearsal.program}"
    if not rehearsal.passed:
        return fail(_SELF_TEST, f"{found}, similarity down to {rehearsal.similarity}", cure, EngineError), rehearsal
    return ok(_SELF_TEST, found), rehearsal


def shareable_block(version: str, machine: Machine, findings: Sequence[Finding], rehearsal: Rehearsal | None) -> str:
    """What to put into a report of a problem: no path, no name of a user or a file.

    Args:
        version: Of deepir.
        machine: What was looked at.
        findings: Of `examine` and `try_model`.
        rehearsal: None where it was not finished.
    """
    # between the machine's own checks and the self-test are files, whose names are nobody's business
    told = [*findings[: len(CHECKS)], *(finding for finding in findings if finding.name == _SELF_TEST)]
    lines = [
        f"deepir: {version}",
        f"board: {machine.board or 'not known'}",
        *(f"{finding.name}: {finding.status}, {finding.text}" for finding in told),
        *([] if rehearsal is None else _rehearsed(rehearsal)),
    ]
    return "\n".join(["```", *map(_without_home, lines), "```"])


def _rehearsed(rehearsal: Rehearsal) -> list[str]:
    steps = ", ".join(f"{step} {milliseconds:.2f}" for step, milliseconds in rehearsal.milliseconds.items())
    return [
        f"model: {rehearsal.numerics}, {rehearsal.fingerprint}",
        f"least similarity of a stored picture with itself: {rehearsal.similarity}",
        f"second views recognised: {rehearsal.recognised} of {rehearsal.scenes}",
        f"milliseconds: {steps}",
    ]


def _without_home(line: str) -> str:
    home = os.path.expanduser("~")
    return line.replace(home, "~") if len(home) > 1 else line
