"""deepir-index merge: several indexes of the same model become one."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click

from deepir.errors import OptionError, reports_errors
from deepir.runtime.index_options import FILE, check_target, json_option
from deepir.runtime.merge import Merged, Part, merge
from deepir.runtime.moved_views import copy_thumbnails


@click.command("merge", context_settings={"show_default": True})
@click.argument("index_paths", metavar="INDEX...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="The index to write; it may be one of those given.")
@click.option("--under", multiple=True, metavar="INDEX=BRANCH", help="Put the labels of INDEX below BRANCH.")
@json_option
@reports_errors
def merge_command(index_paths: tuple[Path, ...], out: Path, under: tuple[str, ...], *, as_json: bool) -> None:
    """Put the views of several indexes of the same model into one.

    A view that repeats another of its label is left out.  The views of the first index keep their keys; its codes,
    margin and wanted share of false accepts are taken.

    \b
    Example:
      deepir-index merge north.usearch south.usearch -o all.usearch
      deepir-index merge a.usearch b.usearch -o all.usearch --under a.usearch=shop1 --under b.usearch=shop2
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    check_target(out)
    merged = merge(_parts(index_paths, under), out)
    for path, metadata in zip(index_paths, merged.metadata, strict=True):
        copy_thumbnails(metadata, path, out)
    index = merged.index
    index.save(out)
    for path, taken, repeated in zip(index_paths, merged.taken, merged.repeated, strict=True):
        click.echo(f"{path}: {taken} views, left out {repeated} that repeat another of their label", err=True)
    if merged.calibrated:
        named = ", ".join(map(str, merged.calibrated))
        click.echo(
            f"warning: the threshold comes from the stored views now; the one of {named} came from pictures of unknown "
            f"things: deepir-index calibrate {out} --unknown DIR",
            err=True,
        )
    threshold = "none" if index.threshold is None else f"{index.threshold.value:.3f}"
    click.echo(
        f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB): {len(index)} items, {len(index.labels)} labels, threshold "
        f"{threshold}, {time.monotonic() - started:.1f} seconds",
        err=True,
    )
    if as_json:
        click.echo(json.dumps(_facts(merged, index_paths, out)))
    click.echo(f"next: deepir-index ls {out} --tree", err=True)


def _parts(paths: Sequence[Path], under: Sequence[str]) -> list[Part]:
    branches: dict[Path, str] = {}
    for text in under:
        name, _, branch = text.rpartition("=")
        if Path(name) not in paths or not branch:
            message = f"--under takes INDEX=BRANCH with one of the indexes to merge, got {text!r}"
            raise OptionError(message)
        branches[Path(name)] = branch
    return [Part(path, branches.get(path, "")) for path in paths]


def _facts(merged: Merged, paths: Sequence[Path], out: Path) -> dict[str, object]:
    index = merged.index
    return {
        "path": str(out),
        "items": len(index),
        "labels": len(index.labels),
        "threshold": None if index.threshold is None else index.threshold.value,
        "parts": [
            {"path": str(path), "taken": taken, "repeated": repeated}
            for path, taken, repeated in zip(paths, merged.taken, merged.repeated, strict=True)
        ],
    }
