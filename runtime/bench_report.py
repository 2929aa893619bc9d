"""A benchmark for people (a table), for documents (markdown) and for programs (JSON)."""

import json
from dataclasses import asdict
from typing import Any

from deepir.runtime.bench import Bench, Row
from deepir.runtime.bench_assertion import STAGES
from deepir.runtime.bench_measure import TOTAL
from deepir.runtime.power import power_text
from deepir.runtime.self_check import MADE_UP

_SCHEMA = "deepir.bench/1"
_HEADS = ("program", "load s", "p50 ms", "p90 ms", "p99 ms", "pictures/s", "model alone/s", "cosine min", "mean")
_MORE_HEADS = ("recall@1", "peak MB")


def bench_facts(result: Bench, unmet: list[str]) -> dict[str, Any]:
    """One JSON object of schema deepir.bench/1."""
    options = result.options
    return {
        "schema": _SCHEMA,
        "model": options.model.name,
        "source": options.source or MADE_UP,
        "index": None if options.index is None else options.index.name,
        "secs": options.secs,
        "threads": options.threads,
        "board": result.board,
        "architecture": result.architecture,
        "date": result.date,
        "reference": result.reference,
        "backends": [_row_facts(row) for row in result.rows],
        "unmet": unmet,
    }


def bench_table(result: Bench) -> str:
    """Head, table, stages and what was skipped, for a terminal."""
    rows = [_HEADS + _MORE_HEADS, *_cells(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
    return "\n".join([*_head(result), "", *table, "", *_stage_lines(result), *_skipped(result)]).rstrip()


def bench_markdown(result: Bench, unmet: list[str]) -> str:
    """The same as a section of a document."""
    heads = _HEADS + _MORE_HEADS
    table = [_pipes(heads), _pipes(["---", *["---:"] * (len(heads) - 1)]), *(_pipes(cells) for cells in _cells(result))]
    lists = [f"- {line}" for line in (*_stage_lines(result), *_skipped(result), *(f"unmet: {one}" for one in unmet))]
    head = "  \n".join(_head(result))
    return "\n".join([f"## {result.options.model.name}", "", head, "", *table, "", *lists]) + "\n"


def bench_json(result: Bench, unmet: list[str]) -> str:
    """The object, indented for people."""
    return json.dumps(bench_facts(result, unmet), indent=2) + "\n"


def _head(result: Bench) -> list[str]:
    options = result.options
    searched = f", searched in {options.index.name}" if options.index else ""
    measured = next((row.measured for row in result.rows if row.measured), None)
    warm_up = f" after a warm-up of {measured.warm_up} pictures" if measured else ""
    pictures = f"{options.source or MADE_UP}{searched}"
    return [
        f"{result.board or 'board not known'}, {result.architecture}, {result.date}",
        f"{options.model.name}, {pictures}; one picture at a time, {options.secs:g} s{warm_up}",
        f"compared with {result.reference}",
    ]


def _cells(result: Bench) -> list[tuple[str, ...]]:
    return [_row_cells(row) for row in result.rows if row.measured is not None]


def _row_cells(row: Row) -> tuple[str, ...]:
    measured, verdict = row.measured, row.verdict
    if measured is None:
        return ()
    compared = (
        ("-", "-", "-")
        if verdict is None
        else (f"{verdict.cosine_min:.4f}", f"{verdict.cosine_mean:.4f}", f"{verdict.agreement:.3f}")
    )
    peak = "-" if measured.peak_bytes is None else f"{measured.peak_bytes / 1e6:.0f}"
    rates = (f"{measured.rate or 0:.1f}", f"{measured.engine_rate or 0:.1f}")
    times = (f"{measured.load_ms / 1000:.2f}", *(f"{value:.2f}" for value in measured.stages[TOTAL].values()))
    return (measured.program, *times, *rates, *compared, peak)


def _stage_lines(result: Bench) -> list[str]:
    """The stages of each program, and what the machine did meanwhile."""
    lines: list[str] = []
    for row in result.rows:
        if row.measured is None:
            continue
        stages = [
            f"{stage} {'/'.join(f'{value:.2f}' for value in row.measured.stages[stage].values())}"
            for stage in STAGES[:-1]
            if stage in row.measured.stages
        ]
        lines.append(f"{row.measured.program}: p50/p90/p99 ms {', '.join(stages)}")
        if power := power_text(row.after):
            lines.append(f"{row.measured.program}: before {power_text(row.before)}; after {power}")
    return lines


def _skipped(result: Bench) -> list[str]:
    return [f"{row.backend} skipped: {row.reason}" for row in result.rows if row.measured is None]


def _row_facts(row: Row) -> dict[str, Any]:
    measured = row.measured
    if measured is None:
        return {"backend": row.backend, "skipped": row.reason}
    return {
        "backend": row.backend,
        **asdict(measured),
        "against_reference": None if row.verdict is None else asdict(row.verdict),
        "power_before": asdict(row.before),
        "power_after": asdict(row.after),
    }


def _padded(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """The program to the left, figures to the right."""
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _pipes(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
