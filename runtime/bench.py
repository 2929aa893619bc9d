"""A model in every program that this machine has: speed by stage, and whether the descriptors are still the same."""

import datetime
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepir.card import GateVerdict
from deepir.descriptors import Descriptors
from deepir.errors import DeepIRError, InputError, MissingDependency, ModelError, OptionError
from deepir.gate import GateLimits, judge
from deepir.runtime.backend import BACKENDS, BackendName
from deepir.runtime.bench_measure import Job, Measured, measure
from deepir.runtime.engine_beside import ENGINE_SUFFIXES
from deepir.runtime.machine import Machine
from deepir.runtime.power import Power, read_power
from deepir.runtime.progress import Report
from deepir.runtime.sidecar import read_record

PROGRAMS: tuple[BackendName, ...] = tuple(name for name in BACKENDS if name != "auto")
"""What `--backends all` stands for."""

_REFERENCE: BackendName = "onnxruntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured.

    Attributes:
        model: An .onnx file or an engine.
        backends: The programs, `auto` for the one that deepir-run would take.
        source: Pictures or a video; None for made-up pictures.
        index: Searched with every descriptor; None leaves the search out.
        reference: The model whose descriptors in ONNX Runtime are the truth; None takes `model`, of an engine the file
            that it was built from.
        secs: Seconds for each measurement, two for each program.
        threads: CPU threads; 0 lets the program choose.
    """

    model: Path
    backends: tuple[BackendName, ...] = PROGRAMS
    source: str | None = None
    index: Path | None = None
    reference: Path | None = None
    secs: float = 10.0
    threads: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.backends if name not in BACKENDS]
        if unknown or not self.backends or len(set(self.backends)) != len(self.backends):
            got = ",".join(self.backends)
            message = f"--backends takes all, or some of {', '.join(BACKENDS)} once each, got {got!r}"
            raise OptionError(message)
        # not (above 0) holds for NaN too
        if not self.secs > 0 or self.secs == float("inf"):
            message = f"--secs must be above 0, got {self.secs}"
            raise OptionError(message)
        if self.threads < 0:
            message = f"--threads must be 0 or more, got {self.threads}"
            raise OptionError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A program.

    Attributes:
        backend: Its name as an option.
        measured: None where it was skipped.
        reason: Why it was skipped; empty where it was not.
        error: What that raised.
        before, after: The machine before and after the measurement.
        verdict: Against the reference; None without one, or with a single picture.
    """

    backend: BackendName
    measured: Measured | None = None
    reason: str = ""
    error: type[DeepIRError] | None = None
    before: Power = field(default_factory=Power)
    after: Power = field(default_factory=Power)
    verdict: GateVerdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What came of it.

    Attributes:
        options: What was asked for.
        board, architecture: Of the machine.
        date: ISO 8601, UTC.
        reference: What the descriptors were compared with, in words; or why with nothing.
        rows: One for each program.
    """

    options: BenchOptions
    board: str
    architecture: str
    date: str
    reference: str
    rows: list[Row]


def bench(options: BenchOptions, machine: Machine, report: Report = lambda _: None) -> Bench:
    """Measure one program after the other, each in a process of its own.

    Args:
        options: What is measured.
        machine: Where power, clocks and temperature are read.
        report: Is told what is being measured.

    Raises:
        InputError: A file is missing.
        ModelError: The reference is another model.
        DeepIRError: The reference cannot run, or no program can: then why the first could not.
    """
    for path in (options.model, options.reference, options.index):
        if path is not None and not path.is_file():
            message = f"no such file: {path}"
            raise InputError(message)
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "descriptors.npy")
        report("ONNX Runtime describes the pictures that the others are compared with")
        truth, said = _truth(options, target)
        rows: list[Row] = []
        for backend in options.backends:
            report(f"measuring {backend}, twice {options.secs:g} s after a warm-up")
            rows.append(_row(options, machine, backend, target, truth))
    failed = next((row for row in rows if row.error is not None), None)
    if failed is not None and failed.error is not None and not any(row.measured for row in rows):
        message = f"no program can run {options.model} here; {failed.backend}: {failed.reason}"
        raise failed.error(message)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Bench(
        options=options,
        board=machine.board,
        architecture=machine.architecture,
        date=now,
        reference=said,
        rows=rows,
    )


@dataclass(frozen=True, slots=True)
class _Truth:
    fingerprint: str
    descriptors_nd: Descriptors


def _truth(options: BenchOptions, target: str) -> tuple[_Truth | None, str]:
    """The reference's descriptors, and what they are in words."""
    path = options.reference or _own_reference(options.model)
    if path is None:
        return None, f"nothing: the file that {options.model.name} was built from is not beside it, give --reference"
    try:
        measured = measure(_job(options, _REFERENCE, target, model=path, secs=0.0))
    except MissingDependency as error:
        # an engine can be measured without, as on a board that has no ONNX Runtime
        return None, f"nothing: {error}"
    same = "the same file" if path == options.model else path.name
    said = f"{measured.program}, {same} ({measured.numerics})"
    return _Truth(measured.fingerprint, np.load(target)), said


def _own_reference(model: Path) -> Path | None:
    if model.suffix.lower() not in ENGINE_SUFFIXES:
        return model
    onnx = model.parent / read_record(model).onnx_file
    return onnx if onnx.is_file() else None


def _job(options: BenchOptions, backend: BackendName, target: str, *, model: Path, secs: float) -> Job:
    return Job(
        model=str(model),
        backend=backend,
        device="cpu" if backend == _REFERENCE else "auto",
        threads=options.threads,
        source=options.source,
        index=str(options.index) if options.index and secs else None,
        secs=secs,
        descriptors=target,
        folder=os.getcwd(),
    )


def _row(options: BenchOptions, machine: Machine, backend: BackendName, target: str, truth: _Truth | None) -> Row:
    before = read_power(machine)
    try:
        measured = measure(_job(options, backend, target, model=options.model, secs=options.secs))
    except DeepIRError as error:
        return Row(backend=backend, reason=str(error), error=type(error), before=before)
    after = read_power(machine)
    if truth is not None and truth.fingerprint != measured.fingerprint:
        message = (
            f"the reference is the model {truth.fingerprint} and {options.model} is {measured.fingerprint}: "
            "give another form of the same model as --reference"
        )
        raise ModelError(message)
    descriptors_nd: Descriptors = np.load(target)
    comparable = truth is not None and len(descriptors_nd) > 1
    verdict = judge(truth.descriptors_nd, descriptors_nd, GateLimits()) if truth and comparable else None
    return Row(backend=backend, measured=measured, before=before, after=after, verdict=verdict)
