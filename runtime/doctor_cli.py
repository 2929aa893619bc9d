"""deepir-doctor: what is wrong with this machine and these files, each with the one command that mends it."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from deepir import __version__
from deepir.command_line import introduces_itself
from deepir.errors import OptionError, reports_errors
from deepir.runtime.doctor import examine, shareable_block, try_model
from deepir.runtime.doctor_selftest import Rehearsal
from deepir.runtime.engine_beside import ENGINE_SUFFIXES
from deepir.runtime.finding import Finding, findings_text, worst
from deepir.runtime.machine import Machine, this_machine


@introduces_itself
@click.command(context_settings={"auto_envvar_prefix": "DEEPIR_DOCTOR", "show_default": True})
@click.argument("files", metavar="[FILE...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--selftest", is_flag=True, help="Also describe, index and find made-up pictures with the model given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reports_errors
def main(files: tuple[Path, ...], *, selftest: bool, as_json: bool) -> None:
    """Look at this machine and at models, engines and indexes for it; what is wrong comes with one command.

    Exit status 4 when the machine lacks something, that of a file (3, 5 or 8) when only a file is wrong.

    \b
    Example:
      deepir-doctor
      deepir-doctor student.onnx shop.usearch
      deepir-doctor student.onnx --selftest
    """  # noqa: D301 click needs the character
    model = _model_of(files) if selftest else None
    machine = this_machine()
    findings = examine(machine, files)
    rehearsal = None
    if model is not None:
        click.echo("describing made-up pictures", err=True)
        finding, rehearsal = try_model(model)
        findings.append(finding)
    if as_json:
        click.echo(json.dumps(_facts(machine, findings, rehearsal)))
    else:
        click.echo(findings_text(findings))
    if selftest and not as_json:
        click.echo(shareable_block(__version__, machine, findings, rehearsal))
    _end(findings, tried=selftest)


def _model_of(files: tuple[Path, ...]) -> Path:
    for path in files:
        if path.suffix.lower() in (".onnx", *ENGINE_SUFFIXES):
            return path
    message = "--selftest needs a model: deepir-doctor MODEL.onnx --selftest"
    raise OptionError(message)


def _facts(machine: Machine, findings: list[Finding], rehearsal: Rehearsal | None) -> dict[str, object]:
    checks = [
        {"name": one.name, "status": one.status, "text": one.text, "command": one.cure or None} for one in findings
    ]
    tried = None if rehearsal is None else asdict(rehearsal)
    passed = worst(findings) is None
    return {"version": __version__, "board": machine.board, "ok": passed, "checks": checks, "selftest": tried}


def _end(findings: list[Finding], *, tried: bool) -> None:
    counted = Counter(finding.status for finding in findings)
    failure = worst(findings)
    if failure is not None:
        message = f"{counted['fail']} of {len(findings)} checks failed, first {failure.name}: {failure.cure}"
        raise failure.error(message)
    click.echo(f"{counted['ok']} checks are ok, {counted['warn']} warn", err=True)
    following = "deepir-run camera0 --index shop.usearch" if tried else "deepir-doctor MODEL.onnx --selftest"
    click.echo(f"next: {following}", err=True)


if __name__ == "__main__":
    main()
