"""What deepir-eval says to people: how far it is, the scores, and the stamp."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepir.export.eval_stamp import stamp_facts
from deepir.runtime.progress import Advance, StatusLine, progress_bar

_COLUMN = 17


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal, a line every ten seconds in a log; on stderr."""
    if sys.stderr.isatty():
        with progress_bar(title, total) as advance:
            yield advance
        return
    line, started, done = StatusLine(), time.monotonic(), 0

    def advance_line(count: int) -> None:
        nonlocal done
        done += count
        speed = done / max(time.monotonic() - started, 1e-9)
        line.show(f"{title}: {done} of {total}, {speed:.1f} images/s, {(total - done) / speed:.0f} s left")

    yield advance_line
    line.end()


def result_lines(result: dict[str, Any]) -> list[str]:
    """The result of `evaluate` for a terminal: speed, the stamp, a line for each set."""
    speed = "descriptors from disk"
    if result["milliseconds_per_image"] is not None:
        speed = f"{result['milliseconds_per_image']} ms an image"
    if result["images_per_second"] is not None:
        speed += f", {result['described']} described at {result['images_per_second']} images/s"
    return [
        f"{result['model']}: {result['numerics']} by {result['runner']}, {speed}",
        *(f"  {what:{_COLUMN}} {how}" for what, how in stamp_facts(result["stamp"])),
        *(_set_line(name, scores) for name, scores in result["sets"].items()),
    ]


def _set_line(name: str, scores: dict[str, Any]) -> str:
    recalls = " ".join(f"recall@{k} {value:.4f}" for k, value in scores["recall_at"].items())
    precisions = " ".join(f"mP@{k} {value:.4f}" for k, value in scores["precision_at"].items())
    return (
        f"{name}: mAP {scores['mean_ap']:.4f} {recalls} {precisions} R-precision {scores['r_precision']:.4f} "
        f"({scores['queries']} queries, {scores['database']} images)"
    )
