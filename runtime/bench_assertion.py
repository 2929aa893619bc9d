"""What a benchmark must reach, written as one word: p99<25ms, openvino:describe.p50<=4ms, recall1>=0.99.

assertion  = [backend ":"] metric comparison number [unit]
backend    = tensorrt | cuda | openvino | onnxruntime | auto; without one, every program that ran
metric     = [stage "."] ("p50" | "p90" | "p99") | "load"    a time: ms or s
           | "rate" | "engine_rate"                           pictures a second; the unit is /s or none
           | "cosine" | "cosine_mean" | "recall1"             against the reference, 0..1; no unit or %
           | "memory"                                         MB or GB, 10**6 and 10**9 bytes
stage      = read | prepare | describe | search | total; without one, total
comparison = < | <= | > | >=
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from deepir.errors import OptionError
from deepir.runtime.backend import BACKENDS
from deepir.runtime.bench import Row
from deepir.runtime.bench_measure import PERCENTILES, TOTAL

STAGES = ("read", "prepare", "describe", "search", TOTAL)

AGAINST_REFERENCE = ("cosine", "cosine_mean", "recall1")
"""Figures of the descriptors, not of their speed."""

_FORM = re.compile(
    r"(?:(?P<backend>[a-z]+):)?(?P<metric>[a-z0-9_.]+)\s*(?P<sign><=|>=|<|>)\s*"
    r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z/%]*)"
)
_PERCENTILE = re.compile(rf"(?:(?P<stage>{'|'.join(STAGES)})\.)?(?P<name>{'|'.join(PERCENTILES)})")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TIME = {"ms": 1.0, "s": 1000.0}
_RATE = {"": 1.0, "/s": 1.0}
_SHARE = {"": 1.0, "%": 0.01}
_SIZE = {"MB": 1e6, "GB": 1e9}
_UNITS = {
    "load": _TIME,
    **dict.fromkeys(("rate", "engine_rate"), _RATE),
    **dict.fromkeys(AGAINST_REFERENCE, _SHARE),
    "memory": _SIZE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """A bound on one figure.

    Attributes:
        text: As it was written.
        backend: Whose figure; empty for every program that ran.
        metric: Such as "describe.p50" or "recall1".
        sign: "<", "<=", ">" or ">=".
        bound: In milliseconds, pictures a second, shares or bytes.
        unit: As it was written.
        factor: What one of that unit is.
    """

    text: str
    backend: str
    metric: str
    sign: str
    bound: float
    unit: str
    factor: float


def parse_assertion(text: str) -> Assertion:
    """Read an assertion; the grammar is this module's docstring.

    Raises:
        OptionError: Anything else.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None:
        message = f"--assert {text!r} is not understood: write it like 'p99<25ms' or 'openvino:recall1>=0.99'"
        raise OptionError(message)
    backend, metric, unit = form["backend"] or "", form["metric"], form["unit"]
    if backend and backend not in BACKENDS:
        message = f"--assert {text!r}: no program is called {backend!r}, only {', '.join(BACKENDS)}"
        raise OptionError(message)
    units = _TIME if _PERCENTILE.fullmatch(metric) else _UNITS.get(metric)
    if units is None:
        known = f"p50, p90, p99 (after a stage, {', '.join(STAGES)}, and a point), {', '.join(_UNITS)}"
        message = f"--assert {text!r}: there is no figure {metric!r}, only {known}"
        raise OptionError(message)
    if unit not in units:
        message = f"--assert {text!r}: {metric} takes the unit {' or '.join(one or 'none' for one in units)}"
        raise OptionError(message)
    factor = units[unit]
    return Assertion(
        text=text.strip(),
        backend=backend,
        metric=metric,
        sign=form["sign"],
        bound=float(form["number"]) * factor,
        unit=unit,
        factor=factor,
    )


def unmet(assertion: Assertion, rows: list[Row]) -> list[str]:
    """A sentence for each program that does not reach it; none where all do."""
    asked = [row for row in rows if row.backend == assertion.backend or (not assertion.backend and row.measured)]
    if not asked:
        return [f"{assertion.text}: {assertion.backend} was not measured, name it in --backends"]
    return [sentence for row in asked if (sentence := _unmet(assertion, row)) is not None]


def value_of(row: Row, metric: str) -> float | None:
    """A figure of a program, in the units of `Assertion.bound`; None where it was not measured."""
    measured, verdict = row.measured, row.verdict
    if measured is None:
        return None
    if timed := _PERCENTILE.fullmatch(metric):
        return measured.stages.get(timed["stage"] or TOTAL, {}).get(timed["name"])
    values: dict[str, float | None] = {
        "load": measured.load_ms,
        "rate": measured.rate,
        "engine_rate": measured.engine_rate,
        "memory": measured.peak_bytes,
    }
    if metric in values:
        return values[metric]
    compared = {"cosine": "cosine_min", "cosine_mean": "cosine_mean", "recall1": "agreement"}
    return None if verdict is None else float(getattr(verdict, compared[metric]))


def _unmet(assertion: Assertion, row: Row) -> str | None:
    value = value_of(row, assertion.metric)
    if value is None:
        why = row.reason or _ABSENT.get(assertion.metric.partition(".")[0], "there was no reference to compare with")
        return f"{assertion.text}: {row.backend} has no {assertion.metric}: {why}"
    if _SIGNS[assertion.sign](value, assertion.bound):
        return None
    return f"{assertion.text}: {row.backend} has {value / assertion.factor:.4g}{assertion.unit}"


_ABSENT = {"read": "give pictures with --source", "search": "give an index with --index"}
