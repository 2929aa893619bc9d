"""What deepir-run says: a start-up block, a status line, news of the camera, a summary."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepir.gate import verdict_text
from deepir.runtime.frame import Source
from deepir.runtime.lines import Lines
from deepir.runtime.progress import say
from deepir.runtime.recogniser import Recogniser
from deepir.runtime.sink import Sink
from deepir.runtime.sinks import tell_camera
from deepir.runtime.vitals import Vitals, source_report

NO_THRESHOLD = (
    "warning: the index has fewer than two labels, so it cannot tell what is unknown: "
    "every picture is a match; add labels, or set --threshold"
)

_NO_FRAMES = frozenset({"connecting", "stale", "lost"})


def write_line(record: Mapping[str, Any], lines: Lines) -> None:
    """One JSON line, sent off at once: whoever reads it acts on it."""
    lines.write(json.dumps(record) + "\n")
    lines.flush()


def introduce(recogniser: Recogniser, source: Source, index_path: Path) -> None:
    """The start-up block: what recognises, with what, from where."""
    index, card = recogniser.index, recogniser.extractor.card
    threshold = "none" if recogniser.threshold is None else f"{recogniser.threshold:.3f}"
    size = f"{source.size[1]}x{source.size[0]}" if source.size else "sizes vary"
    rate = f", {source.fps:.4g} frames per second" if source.fps else ""
    newest = ", newest frame" if source.live else ""
    say(f"model   {card.spec.backbone} {card.numerics.value}, fingerprint {card.spec.fingerprint}")
    for verdict in card.gates:
        say(f"gate    {verdict.program}: {verdict_text(verdict)}")
    why = recogniser.extractor.why
    say(f"backend {recogniser.extractor.backend.name}{f' ({why})' if why else ''}")
    say(f"index   {index_path}: {len(index)} items, {len(index.labels)} labels, threshold {threshold}")
    say(f"source  {source.name}: {size}{rate}{newest}")


class CameraNews:
    """Tells when a camera is lost or comes back: a line on stderr, a JSON line where those are wanted, and the sinks.

    Args:
        source: That is watched; of files there is no news.
        sinks: Are also told that it is well from the start: what an earlier run said of it may be kept there.
        lines: Where the JSON lines go; None for none.
        quiet: Nothing on stderr.
    """

    def __init__(self, source: Source, sinks: Sequence[Sink], lines: Lines | None, *, quiet: bool) -> None:
        self._source = source
        self._sinks = sinks
        self._lines = lines
        self._quiet = quiet
        self._told = "live"

    def look(self) -> None:
        """Tell what is new."""
        facts = source_report(self._source)
        status = facts.get("status", self._told)
        # a camera that is tried again is still lost, and a stale one may only be slow
        told = "lost" if status in {"lost", "connecting"} and facts["trouble"] else status
        if told in {"connecting", "stale"}:
            return
        tell_camera(self._sinks, {**facts, "status": told} if "status" in facts else facts)
        if told == self._told:
            return
        self._told = told
        if self._lines is not None:
            keys = ("status", "trouble", "frames", "outages")
            write_line({"event": "camera", **{key: facts[key] for key in keys}, "status": told}, self._lines)
        if not self._quiet:
            sentence = f": {facts['trouble']['sentence']}" if told == "lost" else ""
            say(f"camera  {facts['name']} is {told}{sentence}")


def status_text(vitals: Vitals) -> str:
    """The line that is shown while it runs."""
    latest = vitals.latest
    camera = source_report(vitals.source)
    missing = camera.get("status") in _NO_FRAMES
    silent = f"camera {camera['status']} for {camera['status_s']:.0f} s" if missing else ""
    if latest is None:
        return silent or "no frame yet"
    steps = latest.recognition.milliseconds
    times = " ".join(f"{step} {value:.1f}" for step, value in steps.items())
    waiting = sum(sink.state.waiting for sink in vitals.sinks)
    return " | ".join(
        part
        for part in (
            silent or f"{vitals.frames} frames, {vitals.rate:.1f} per second, age {1000 * latest.age:.0f} ms",
            f"{times} ms",
            f"{latest.shown.label or latest.shown.status} {latest.recognition.similarity:.2f}",
            f"{waiting} answers wait to be sent" if waiting > 1 else "",
        )
        if part
    )


def summary(vitals: Vitals) -> str:
    """One line for the end."""
    seconds, counts = vitals.seconds, vitals.counts
    rate = vitals.frames / max(seconds, math.ulp(1))
    answers = f"{vitals.results} answers of " if vitals.results != vitals.frames else ""
    return (
        f"{answers}{vitals.frames} frames in {seconds:.1f} s ({rate:.1f} frames per second): "
        f"{counts['match']} match, {counts['ambiguous']} ambiguous, {counts['unknown']} unknown"
    )
