"""How a running loop is doing, as Prometheus reads it."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deepir.optional import need
from deepir.runtime.vitals import STATUSES, Vitals

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_QUANTILES = {"p50": "0.5", "p99": "0.99"}
_MILLI = 1000


class Metrics:
    """Counts nothing itself: asks the vitals whenever it is asked.

    Args:
        vitals: Of the loop.
    """

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def text(self) -> bytes:
        """Everything in Prometheus' text format.

        Raises:
            MissingDependency: prometheus_client is not installed.
        """
        # a registry of its own: a program that embeds the loop may have metrics too
        registry = need("prometheus_client").CollectorRegistry(auto_describe=False)
        registry.register(self)
        text: bytes = need("prometheus_client").generate_latest(registry)
        return text

    def describe(self) -> "Iterator[Metric]":
        """Nothing: so that registering does not collect."""
        return iter(())

    def collect(self) -> "Iterator[Metric]":
        """Every metric as it is now."""
        report = self._vitals.report()
        yield from _answers(report)
        yield from _camera(report["source"])
        yield from _sinks(report["sinks"])
        yield from _surroundings(report)


def _answers(report: Mapping[str, Any]) -> "Iterator[Metric]":
    yield _counter("deepir_results", "Answers by what was shown.", "status", {one: report[one] for one in STATUSES})
    yield _quantiles("deepir_age_seconds", "From a frame's capture to its answer.", {(): report["age_ms"]})
    stages: dict[tuple[str, ...], Any] = {(stage,): values for stage, values in report["ms"].items()}
    yield _quantiles("deepir_stage_seconds", "Time of a stage for one answer.", stages, ("stage",))
    yield _gauge("deepir_results_per_second", "Answers a second in the last ten seconds.", report["rate"])


def _camera(source: Mapping[str, Any]) -> "Iterator[Metric]":
    if "status" not in source:
        return
    yield _gauge("deepir_camera_up", "1 while the camera gives frames.", float(source["status"] == "live"))
    yield _counter("deepir_camera_outages", "Failed tries to open the camera, and losses.", "", source["outages"])
    yield _counter("deepir_camera_frames", "Frames that the camera gave.", "", source["frames"])


def _sinks(sinks: Mapping[str, Mapping[str, Any]]) -> "Iterator[Metric]":
    for what, meaning in (("sent", "Answers that arrived."), ("dropped", "Answers that were given up.")):
        values = {name: state[what] for name, state in sinks.items()}
        yield _counter(f"deepir_sink_{what}", meaning, "sink", values)
    waiting = _core("GaugeMetricFamily")("deepir_sink_waiting", "Answers that are on their way.", labels=["sink"])
    for name, state in sinks.items():
        waiting.add_metric([name], state["waiting"])
    yield waiting


def _surroundings(report: Mapping[str, Any]) -> "Iterator[Metric]":
    index, model = report["index"], report["model"]
    yield _gauge("deepir_index_items", "Views in the index.", index["items"])
    yield _gauge("deepir_index_labels", "Labels in the index.", index["labels"])
    if index["threshold"] is not None:
        yield _gauge("deepir_threshold", "Similarity where a match begins.", index["threshold"])
    if report["memory_bytes"] is not None:
        yield _gauge("process_resident_memory_bytes", "Memory that lies in RAM.", report["memory_bytes"])
    facts = {"version": report["version"], **{key: model[key] for key in ("backend", "backbone", "numerics")}}
    info = _core("GaugeMetricFamily")("deepir_build_info", "Always 1; what runs.", labels=list(facts))
    info.add_metric([str(value) for value in facts.values()], 1)
    yield info


def _counter(name: str, meaning: str, label: str, values: Any) -> "Metric":
    """One count, or one for each value of a label."""
    family = _core("CounterMetricFamily")(name, meaning, labels=[label] if label else [])
    for value, count in values.items() if label else [(None, values)]:
        family.add_metric([value] if label else [], count)
    metric: Metric = family
    return metric


def _gauge(name: str, meaning: str, value: float) -> "Metric":
    metric: Metric = _core("GaugeMetricFamily")(name, meaning, value)
    return metric


def _quantiles(
    name: str, meaning: str, values: Mapping[tuple[str, ...], Any], labels: tuple[str, ...] = ()
) -> "Metric":
    """Percentiles in milliseconds as gauges in seconds: a summary would need the sum of all times since the start."""
    family = _core("GaugeMetricFamily")(name, f"{meaning} Of the last 512 answers.", labels=[*labels, "quantile"])
    for given, percentiles in values.items():
        for percentile, quantile in _QUANTILES.items() if percentiles else ():
            family.add_metric([*given, quantile], percentiles[percentile] / _MILLI)
    metric: Metric = family
    return metric


def _core(name: str) -> Any:
    return getattr(need("prometheus_client.core"), name)
