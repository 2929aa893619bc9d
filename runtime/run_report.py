"""What deepir-run says: a JSON line for each frame, a start-up block, a status line, a summary."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

from deepir.gate import verdict_text
from deepir.runtime.decide import Decision
from deepir.runtime.frame import Frame, Source
from deepir.runtime.recogniser import Recogniser, Recognition

NO_THRESHOLD = (
    "warning: the index has fewer than two labels, so it cannot tell what is unknown: "
    "every picture is a match; add labels, or set --threshold"
)

_DIGITS = 4


@dataclass(slots=True)
class Tally:
    """What came out so far."""

    matches: int = 0
    ambiguous: int = 0
    unknown: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def frames(self) -> int:
        """Frames recognised."""
        return self.matches + self.ambiguous + self.unknown

    @property
    def rate(self) -> float:
        """Frames per second since the start."""
        return self.frames / max(time.monotonic() - self.started, 1e-9)

    def count(self, recognition: Recognition) -> None:
        """Take one more frame into account."""
        if recognition.status == "match":
            self.matches += 1
        elif recognition.status == "ambiguous":
            self.ambiguous += 1
        else:
            self.unknown += 1

    def summary(self) -> str:
        """One line for the end."""
        seconds = time.monotonic() - self.started
        return (
            f"{self.frames} frames in {seconds:.1f} s ({self.rate:.1f} frames per second): "
            f"{self.matches} match, {self.ambiguous} ambiguous, {self.unknown} unknown"
        )


def record(frame: Frame, recognition: Recognition, age: float, decision: Decision | None = None) -> dict[str, Any]:
    """The JSON object of one frame; where several frames decide, `status` and `label` are what they decided."""
    facts = {
        "frame": frame.number,
        "time": None if frame.time is None else round(frame.time, _DIGITS),
        "name": frame.name,
        "age_ms": round(1000 * age, 1),
        "status": recognition.status,
        "label": recognition.label,
        "similarity": round(recognition.similarity, _DIGITS),
        "margin": None if recognition.margin is None else round(recognition.margin, _DIGITS),
        "topk": [[label, round(similarity, _DIGITS)] for label, similarity in recognition.top],
        **({"candidates": recognition.candidates} if recognition.status == "ambiguous" else {}),
        **({"metadata": dict(recognition.metadata)} if recognition.metadata and decision is None else {}),
        "ms": {step: round(value, 2) for step, value in recognition.milliseconds.items()},
    }
    return facts if decision is None else {**facts, **_decided(recognition, decision)}


def _decided(recognition: Recognition, decision: Decision) -> dict[str, Any]:
    """What several frames decided, and what the newest of them would have said alone."""
    hit = decision.hit
    place = {} if hit is None else {"key": hit.key, "view": hit.view, "metadata": dict(hit.metadata)}
    return {
        "status": decision.status,
        "label": decision.label,
        "votes": [decision.votes, decision.of],
        "votes_similarity": None if decision.similarity is None else round(decision.similarity, _DIGITS),
        "frame_status": recognition.status,
        "frame_label": recognition.label,
        **place,
    }


def write_line(
    frame: Frame, recognition: Recognition, age: float, lines: TextIO, decision: Decision | None = None
) -> None:
    """One JSON line, sent off at once: whoever reads it acts on it."""
    lines.write(json.dumps(record(frame, recognition, age, decision)) + "\n")
    lines.flush()


def introduce(recogniser: Recogniser, source: Source, index_path: Path) -> None:
    """The start-up block: what recognises, with what, from where."""
    index, card = recogniser.index, recogniser.extractor.card
    threshold = "none" if recogniser.threshold is None else f"{recogniser.threshold:.3f}"
    size = f"{source.size[1]}x{source.size[0]}" if source.size else "sizes vary"
    rate = f", {source.fps:.4g} frames per second" if source.fps else ""
    newest = ", newest frame" if source.live else ""
    click.echo(f"model   {card.spec.backbone} {card.numerics.value}, fingerprint {card.spec.fingerprint}", err=True)
    for verdict in card.gates:
        click.echo(f"gate    {verdict.program}: {verdict_text(verdict)}", err=True)
    why = recogniser.extractor.why
    click.echo(f"backend {recogniser.extractor.backend.name}{f' ({why})' if why else ''}", err=True)
    click.echo(f"index   {index_path}: {len(index)} items, {len(index.labels)} labels, threshold {threshold}", err=True)
    click.echo(f"source  {source.name}: {size}{rate}{newest}", err=True)


def status_text(tally: Tally, recognition: Recognition, age: float) -> str:
    """The line that is shown while it runs."""
    describe = recognition.milliseconds["describe"]
    return (
        f"{tally.frames} frames, {tally.rate:.1f} per second, age {1000 * age:.0f} ms, describe {describe:.1f} ms | "
        f"{recognition.label or recognition.status} {recognition.similarity:.2f}"
    )
