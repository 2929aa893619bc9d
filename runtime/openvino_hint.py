"""Which precision OpenVINO runs a file in: the fastest whose descriptors pass the gate, tried once and remembered."""

import contextlib
import dataclasses
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepir import __version__
from deepir.card import GateVerdict
from deepir.files import file_sha256
from deepir.gate import GateLimits, judge
from deepir.optional import need
from deepir.runtime.cache import cache_key, keep_record, kept_record, machine_name
from deepir.runtime.openvino_model import HINTS, PrecisionHint, compiled_path
from deepir.runtime.openvino_refusal import NotProvenError, other_descriptors
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.self_check import describe_inputs, milliseconds_each, proof_inputs

if TYPE_CHECKING:
    from deepir.runtime.intel_cpu import OpenVinoBackend

LIMITS = GateLimits()

_SCHEMA = "deepir.openvino/1"


@dataclass(frozen=True, slots=True)
class Trial:
    """How a file ran with one hint.

    Attributes:
        precision: What is not INT8 was then computed in it: "f32", "bf16", "f16".
        milliseconds: For one picture, the median.
        verdict: The comparison with ONNX Runtime running the same file; None where a faster one had passed.
    """

    hint: PrecisionHint
    precision: str
    milliseconds: float
    verdict: GateVerdict | None = None

    @property
    def passed(self) -> bool:
        """Whether its descriptors are those of ONNX Runtime."""
        return self.verdict is not None and self.verdict.passed


Opener = Callable[[PrecisionHint], "OpenVinoBackend"]


def choose_hint(path: Path, threads: int, folder: Path | None, open_with: Opener) -> Trial:
    """The trial that won, remembered or held now: seconds, or a minute for a large model.

    Args:
        path: An .onnx file.
        threads: CPU threads; 0 lets the programs choose.
        folder: Where the outcome is remembered; None or one that cannot be written: it is held each time.
        open_with: Opens the file with a hint.

    Raises:
        NotProvenError: With neither hint the descriptors are those of ONNX Runtime.
    """
    record = None if folder is None else record_path(path, threads, folder)
    trials = None if record is None else _remembered(record)
    if trials is None:
        trials = _hold(path, threads, open_with)
        if record is not None and folder is not None:
            keep_record(record, _SCHEMA, _fields(path, trials))
            _drop_losers(path, trials, folder)
    best = next((trial for trial in trials if trial.passed), None)
    if best is None:
        raise NotProvenError(path, _refused(path, trials))
    return best


def record_path(path: Path, threads: int, folder: Path) -> Path:
    """Where the trials of a file are remembered."""
    versions = (__version__, need("openvino").__version__)
    key = cache_key(file_sha256(path), versions, dataclasses.astuple(LIMITS), threads)
    return folder / f"{key}.json"


def _hold(path: Path, threads: int, open_with: Opener) -> list[Trial]:
    """Time every hint, then prove them, the fastest first, until one passes."""
    trials: list[Trial] = []
    for hint in HINTS:
        with open_with(hint) as backend:
            if backend.precision not in [trial.precision for trial in trials]:
                arrays = next(proof_inputs(backend.card))
                trials.append(Trial(hint, backend.precision, milliseconds_each(partial(backend.run, *arrays))))
    trials.sort(key=lambda trial: trial.milliseconds)
    # only now, because its waiting threads would slow the others down
    with OnnxBackend(path, "cpu", threads=threads) as reference:
        expected_nd = describe_inputs(reference, proof_inputs(reference.card))
    for number, trial in enumerate(trials):
        with open_with(trial.hint) as backend:
            verdict = judge(expected_nd, describe_inputs(backend, proof_inputs(backend.card)), LIMITS, backend.name)
        trials[number] = dataclasses.replace(trial, verdict=verdict)
        if verdict.passed:
            break
    return trials


def _refused(path: Path, trials: list[Trial]) -> str:
    verdicts = [trial.verdict for trial in trials if trial.verdict is not None]
    with OnnxBackend(path, "cpu", threads=1) as opened:
        return other_descriptors(max(verdicts, key=lambda verdict: verdict.cosine_mean), opened.card.numerics)


def _drop_losers(path: Path, trials: list[Trial], folder: Path) -> None:
    for hint in HINTS:
        if hint not in [trial.hint for trial in trials if trial.passed]:
            with contextlib.suppress(OSError):
                compiled_path(path, hint, folder).unlink(missing_ok=True)


def _fields(path: Path, trials: list[Trial]) -> dict[str, Any]:
    return {
        "file": path.name,
        "machine": machine_name(),
        "versions": {"openvino": need("openvino").__version__, "onnxruntime": need("onnxruntime").__version__},
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }


def _remembered(record: Path) -> list[Trial] | None:
    """The trials in the order in which they were tried; None when there are none or the record is damaged."""
    fields = kept_record(record, _SCHEMA)
    try:
        trials = [_read(trial) for trial in fields["trials"]] if fields else []
    except (KeyError, TypeError, ValueError):
        return None
    return trials or None


def _read(fields: dict[str, Any]) -> Trial:
    if fields["hint"] not in HINTS:
        message = f"no such hint: {fields['hint']}"
        raise ValueError(message)
    verdict = None if fields["verdict"] is None else GateVerdict(**fields["verdict"])
    return Trial(fields["hint"], str(fields["precision"]), float(fields["milliseconds"]), verdict)
