"""deepir-bench: how fast a model is here in every program, whether it is still the same, and whether that is enough."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import click

from deepir.command_line import introduces_itself
from deepir.errors import GateError, OptionError, reports_errors
from deepir.files import write_text
from deepir.runtime.backend import BackendName
from deepir.runtime.bench import PROGRAMS, Bench, BenchOptions, bench
from deepir.runtime.bench_assertion import AGAINST_REFERENCE, Assertion, parse_assertion, unmet
from deepir.runtime.bench_report import bench_facts, bench_json, bench_markdown, bench_table
from deepir.runtime.index_options import check_target
from deepir.runtime.machine import this_machine
from deepir.spec import Numerics

_DEFAULTS = {option.name: option.default for option in fields(BenchOptions)}
_FILE = click.Path(path_type=Path)
_WRITERS = {".json": bench_json, ".md": bench_markdown}


@introduces_itself
@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_BENCH", "show_default": True})
@click.argument("model", type=_FILE)
@click.option("--backends", default="all", metavar="all|NAMES", help=f"Some of auto, {', '.join(PROGRAMS)}, by commas.")
@click.option("--source", help="Pictures or a video, as deepir-run takes them; made-up pictures if not given.")
@click.option("--index", type=_FILE, help="Search it with every descriptor.")
@click.option("--reference", type=_FILE, help="The FP32 form to compare with in ONNX Runtime, if not MODEL.")
@click.option("--secs", type=float, default=_DEFAULTS["secs"], help="Seconds of each measurement, two a program.")
@click.option("--threads", type=int, default=_DEFAULTS["threads"], help="CPU threads; 0: the program chooses.")
@click.option("--assert", "assertions", multiple=True, metavar="BOUND", help="Exit status 6 unless it is reached.")
@click.option("-o", "--out", type=_FILE, help="Also write a report there (.json or .md).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reports_errors
def main(assertions: tuple[str, ...], out: Path | None, *, as_json: bool, backends: str, **options: Any) -> None:
    """Measure MODEL in every program that this machine has, each in a process of its own.

    Times are of one picture after the other, stage by stage; the descriptors are compared with ONNX Runtime's.
    BOUND is [backend:]figure, a comparison and a number: p50, p90, p99 (also read.p99, prepare.p99, describe.p99,
    search.p99), load; rate, engine_rate; cosine, cosine_mean, recall1; memory.

    \b
    Example:
      deepir-bench student.int8.onnx --reference student.onnx
      deepir-bench student.onnx --source photos/ --index shop.usearch --assert 'p99<25ms' --assert 'recall1>=0.99'
    """  # noqa: D301 click needs the character
    parsed = [parse_assertion(text) for text in assertions]
    if out is not None:
        if out.suffix.lower() not in _WRITERS:
            message = f"-o {out} must end in {' or '.join(_WRITERS)}"
            raise OptionError(message)
        check_target(out)
    chosen = BenchOptions(backends=_backends(backends), **options)
    result = bench(chosen, this_machine(), lambda line: click.echo(line, err=True))
    sentences = [_unmet(assertion, result) for assertion in parsed]
    missed = [sentence for told in sentences for sentence in told]
    click.echo(json.dumps(bench_facts(result, missed)) if as_json else bench_table(result))
    if out is not None:
        write_text(out, _WRITERS[out.suffix.lower()](result, missed))
        click.echo(f"wrote {out}", err=True)
    for sentence in missed:
        click.echo(f"unmet: {sentence}", err=True)
    if missed:
        count = sum(map(bool, sentences))
        message = f"{count} of {len(parsed)} bounds {'is' if count == 1 else 'are'} not reached, first {missed[0]}"
        raise GateError(message)
    click.echo(f"next: deepir-doctor {chosen.model}", err=True)


def _unmet(assertion: Assertion, result: Bench) -> list[str]:
    """As `unmet`; a rounded file that was compared with itself, unasked, does not show what the rounding costs."""
    model = result.options.model
    numerics = {row.measured.numerics for row in result.rows if row.measured} - {Numerics.FP32.value}
    unasked = result.options.reference is None and model.suffix.lower() == ".onnx"
    if unasked and numerics and assertion.metric in AGAINST_REFERENCE:
        return [
            f"{assertion.text}: {model.name} ({', '.join(numerics)}) was compared with itself: give its FP32 form with "
            f"--reference, or --reference {model} to compare programs alone"
        ]
    return unmet(assertion, result.rows)


def _backends(text: str) -> tuple[BackendName, ...]:
    # BenchOptions refuses what is no program
    return PROGRAMS if text == "all" else cast("tuple[BackendName, ...]", tuple(text.split(",")))


if __name__ == "__main__":
    main()
