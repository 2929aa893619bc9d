"""Facts of the report: what the files of a run do not tell."""

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


def this_processor() -> str:
    """Return the name of the processor and how many of its cores this process may use."""
    names = [line.partition(":")[2].strip() for line in _processor_lines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What the files of a run do not tell.

    Attributes:
        threshold: Of the index that the video was looked up in.
        seed: Of the shop.
        commands: The command of each step, by the step's name.
        student_parameters: Of the distilled student; None takes those of the undistilled one.
        processor: What the times were measured on.
        date: When the run ended.
    """

    threshold: float | None = None
    seed: int | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    student_parameters: int | None = None
    processor: str = field(default_factory=this_processor)
    date: str = field(default_factory=lambda: datetime.datetime.now().astimezone().date().isoformat())


def _processor_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
