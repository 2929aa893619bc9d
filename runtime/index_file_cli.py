"""deepir-index info, verify and repair: what an index file is, whether it is whole, and how it becomes so again."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from deepir.errors import IndexFileError, reports_errors
from deepir.runtime.index import Index
from deepir.runtime.index_options import FILE, json_option, wait_option
from deepir.runtime.index_repair import repair_index
from deepir.runtime.index_report import describe_index, index_facts
from deepir.runtime.index_verify import checks_text, verify_index


@click.command("info", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("--measure", "measuring", is_flag=True, help="Search for 200 stored views and compare with exact search.")
@json_option
@reports_errors
def info_command(index_path: Path, *, measuring: bool, as_json: bool) -> None:
    """Say what an index holds, how it is stored and searched, and which model made it.

    \b
    Example:
      deepir-index info shop.usearch --measure
    """  # noqa: D301 click needs the character
    facts = index_facts(index_path, measuring=measuring)
    click.echo(json.dumps(facts) if as_json else describe_index(facts))
    following = f"compact {index_path}" if facts["removed"] else f"verify {index_path}"
    click.echo(f"next: deepir-index {following}", err=True)


@click.command("verify", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("--deep", is_flag=True, help="Also load it, search for what it holds, and look for the pictures.")
@json_option
@reports_errors
def verify_command(index_path: Path, *, deep: bool, as_json: bool) -> None:
    """Check an index, its journal, the generation before it and its model; exit status 8 where a check fails.

    \b
    Example:
      deepir-index verify shop.usearch --deep
    """  # noqa: D301 click needs the character
    checks = verify_index(index_path, deep=deep)
    failed = [check for check in checks if check.status == "fail"]
    if as_json:
        facts = {"path": str(index_path), "ok": not failed, "checks": [asdict(check) for check in checks]}
        click.echo(json.dumps(facts))
    else:
        click.echo(checks_text(checks))
    if failed:
        message = (
            f"{len(failed)} of {len(checks)} checks of {index_path} failed, first {failed[0].name}: "
            f"deepir-index repair {index_path} --dry-run says what can be done"
        )
        raise IndexFileError(message)
    click.echo(f"next: deepir-index {'info' if deep else 'verify --deep'} {index_path}", err=True)


@click.command("repair", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what would be lost.")
@wait_option
@json_option
@reports_errors
def repair_command(index_path: Path, wait: float, *, dry_run: bool, as_json: bool) -> None:
    """Bring a damaged index or journal back to the last state that can be trusted; nothing is deleted.

    A damaged journal keeps the changes before the damage.  A damaged file gives way to the generation before it (.bak)
    and the changes since then.

    \b
    Example:
      deepir-index repair shop.usearch --dry-run
      deepir-index repair shop.usearch
    """  # noqa: D301 click needs the character
    plan = repair_index(index_path, dry_run=dry_run, wait=wait)
    # usearch has the last word: what was repaired can be opened
    views = plan.views if dry_run else len(Index.open(index_path))
    steps = [step.text for step in plan.steps]
    click.echo(f"found: {plan.found or 'nothing to repair'}", err=True)
    for word, lines in (("would" if dry_run else "did", steps), ("lost", plan.lost), ("note", plan.notes)):
        for line in lines:
            click.echo(f"{word}: {line}", err=True)
    verb = "would hold" if dry_run else "holds"
    click.echo(f"{index_path} {verb} {views} views of {plan.labels} labels", err=True)
    if as_json:
        facts = {"path": str(index_path), "found": plan.found, "dry_run": dry_run, "steps": steps, "lost": plan.lost}
        click.echo(json.dumps({**facts, "notes": plan.notes, "items": views, "labels": plan.labels}))
    following = f"repair {index_path}" if dry_run and steps else f"verify {index_path} --deep"
    click.echo(f"next: deepir-index {following}", err=True)
