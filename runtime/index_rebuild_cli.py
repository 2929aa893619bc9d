"""deepir-index rebuild: the same things, described by another model."""

import json
import time
from pathlib import Path
from typing import Any

import click

from deepir.errors import reports_errors
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.progress import progress_bar
from deepir.runtime.rebuild import Rebuilding, rebuild
from deepir.runtime.threshold import BY_HAND
from deepir.runtime.whiten_cli import read_whitening, whitening_options

_FILE = click.Path(path_type=Path)


@click.command("rebuild")
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.option("--model", type=_FILE, required=True, help="The new model.")
@click.option("-o", "--out", type=_FILE, help="Where to. [default: INDEX, which stays as INDEX.bak]")
@click.option("--skip-missing", is_flag=True, help="Leave out views whose pictures are gone.")
@whitening_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@backend_options
@reports_errors
def rebuild_command(index_path: Path, model: Path, out: Path | None, *, as_json: bool, **options: Any) -> None:
    """Describe the pictures of INDEX with another model: the originals where they still are, else their thumbnails.

    Labels, metadata, the margin and the wanted false accepts stay.  The threshold comes from the stored views again,
    and a whitening of INDEX is not taken over: its photographs are not kept, so give it anew.

    \b
    Example:
      deepir-index rebuild shop.usearch --model student2.onnx
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    target = out or index_path
    whiten = read_whitening(options)
    with (
        # nobody may add to an index that is about to be replaced
        Index.open(index_path, write=target.resolve() == index_path.resolve()) as old,
        Extractor.open(model, read_backend_options(options)) as extractor,
        progress_bar("describing", len(old)) as advance,
    ):
        rebuilding = Rebuilding(
            model=model,
            old_path=index_path,
            new_path=target,
            whiten=whiten,
            skip_missing=options["skip_missing"],
        )
        rebuilt = rebuild(old, extractor, rebuilding, advance)
        learnt = old.threshold is not None and old.threshold.basis in BY_HAND
        before, teacher = old.whitening, old.footer.references
    rebuilt.index.save(target)
    index = rebuilt.index
    if rebuilt.missing:
        click.echo(f"warning: left out {len(rebuilt.missing)} views whose pictures are gone", err=True)
    if teacher is not None:
        click.echo(f"warning: {teacher.absolute} described the pictures before, now {model} does", err=True)
    if before is not None and whiten is None:
        click.echo(f"warning: the whitening of the index before ({before}) was not taken over", err=True)
    if learnt:
        click.echo("warning: the threshold came from unknown things or by hand: deepir-index calibrate again", err=True)
    facts = {"path": str(target), "items": len(index), "labels": len(index.labels), "missing": len(rebuilt.missing)}
    click.echo(
        f"{target}: {len(index)} items of {len(index.labels)} labels described by {model}, "
        f"{time.monotonic() - started:.1f} seconds",
        err=True,
    )
    if as_json:
        click.echo(json.dumps(facts))
    click.echo(f"next: deepir-index info {target}", err=True)
