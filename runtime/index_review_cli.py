"""deepir-index review: name what waits in an inbox, a cluster of alike pictures at a time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from deepir.errors import InputError, OptionError, reports_errors
from deepir.runtime.backend import BackendOptions
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.cluster_table import (
    LEFT_OUT,
    TABLE,
    ClusterRow,
    assigned_labels,
    cluster_rows,
    read_assignments,
    read_table,
    write_table,
    written_labels,
)
from deepir.runtime.enrol import Enrolment
from deepir.runtime.extractor import Extractor
from deepir.runtime.inbox import Inbox, cluster_inbox, cluster_similarity, inbox_pictures
from deepir.runtime.inbox_naming import Named, name_pictures
from deepir.runtime.inbox_questions import ask_labels
from deepir.runtime.inbox_report import inbox_facts, inbox_groups, inbox_lines, inbox_remarks, named_facts, named_lines
from deepir.runtime.index import Index
from deepir.runtime.index_options import FILE, check_target, json_option, wait_option
from deepir.runtime.index_saving import finish
from deepir.runtime.progress import progress_bar
from deepir.runtime.recogniser import find_model
from deepir.runtime.sheet import write_sheet


def _read_similarity(_context: click.Context, _option: click.Parameter, text: str) -> float | None:
    if text == "auto":
        return None
    try:
        similarity = float(text)
    except ValueError:
        similarity = float("nan")
    if not -1 <= similarity <= 1:
        message = f"expected auto or a similarity from -1 to 1, got {text!r}"
        raise click.BadParameter(message)
    return similarity


@click.command("review", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.argument("inbox", type=FILE)
@click.option(
    "--similarity",
    metavar="auto|FLOAT",
    default="auto",
    callback=_read_similarity,
    help="How alike the pictures of a cluster are; auto: the threshold of INDEX.",
)
@click.option("--sheet", type=FILE, metavar="FILE.html", help="Write a page that shows the clusters.")
@click.option("--assign", multiple=True, metavar="N=LABEL", help="Name cluster N of the table; may repeat.")
@click.option("--labels", type=FILE, metavar="FILE.csv", help="Name pictures by a table that you filled in.")
@click.option("--ask", is_flag=True, help="Ask for the label of each cluster; Enter leaves it, = takes the suggestion.")
@click.option("--model", type=FILE, help="The model, if not where the index expects it.")
@wait_option
@json_option
@backend_options
@reports_errors
def review_command(index_path: Path, inbox: Path, *, as_json: bool, **options: Any) -> None:
    """Put the pictures of INBOX that are alike together, and add to INDEX those that you name.

    Without --assign, --labels or --ask it writes INBOX/clusters.csv and changes nothing else.  A label in the first row
    of a cluster counts for the whole cluster, "-" leaves a picture out.  Pictures that were named move to
    INBOX/done/<label>/.

    \b
    Example:
      deepir-index review shop.usearch inbox/ --sheet inbox.html
      deepir-index review shop.usearch inbox/ --assign 1=oat-milk-1l --assign 3=tea/green/100g
      deepir-index review shop.usearch inbox/ --labels inbox/clusters.csv
    """  # noqa: D301 click needs the character
    _check(options, index_path)
    backend = read_backend_options(options)
    if options["assign"] or options["labels"] is not None:
        _name(index_path, inbox, _given_labels(inbox, options), options, backend, as_json=as_json)
        return
    table = inbox / TABLE
    _refuse_filled_in(table, inbox)
    index = Index.open(index_path)
    found = _cluster(index, index_path, inbox, options, backend)
    rows = cluster_rows(found, inbox)
    write_table(table, rows)
    for sentence in inbox_remarks(found):
        click.echo(sentence, err=True)
    if not (as_json and options["ask"]):
        click.echo(json.dumps(inbox_facts(found, inbox, table)) if as_json else "\n".join(inbox_lines(found)))
    click.echo(f"wrote {table}", err=True)
    if options["sheet"] is not None:
        _draw(options["sheet"], found, inbox, index_path)
    if options["ask"]:
        _name(index_path, inbox, assigned_labels(rows, ask_labels(found)), options, backend, as_json=as_json)
        return
    click.echo(
        f"next: write labels into {table}, then deepir-index review {index_path} {inbox} --labels {table}", err=True
    )


def _check(options: Mapping[str, Any], index_path: Path) -> None:
    ways = [f"--{name}" for name in ("assign", "labels", "ask") if options[name]]
    if len(ways) > 1:
        message = f"{' and '.join(ways)} name pictures in different ways: give one of them"
        raise OptionError(message)
    if options["sheet"] is not None:
        if ways and ways != ["--ask"]:
            message = f"--sheet shows clusters before they are named: leave it out with {ways[0]}"
            raise OptionError(message)
        check_target(options["sheet"], index_path)


def _refuse_filled_in(table: Path, inbox: Path) -> None:
    """Keep what a person wrote and has not used yet."""
    if not table.exists():
        return
    rows = [row for row in read_table(table) if row.label not in {"", LEFT_OUT}]
    waiting = [row for row in rows if (inbox / row.picture).is_file()]
    if waiting:
        message = (
            f"{table} holds labels that were not used yet, the first is {waiting[0].label!r}: use them with --labels "
            f"{table}, or delete the file"
        )
        raise InputError(message)


def _cluster(index: Index, index_path: Path, inbox: Path, options: Mapping[str, Any], backend: BackendOptions) -> Inbox:
    similarity = cluster_similarity(index, options["similarity"])
    pictures = inbox_pictures(inbox)
    with (
        Extractor.open(options["model"] or find_model(index, index_path), backend) as extractor,
        progress_bar("describing", len(pictures)) as advance,
    ):
        return cluster_inbox(index, extractor, pictures, similarity, advance)


def _given_labels(inbox: Path, options: Mapping[str, Any]) -> dict[str, str]:
    if options["labels"] is not None:
        return written_labels(options["labels"], read_table(options["labels"]))
    table = inbox / TABLE
    if not table.exists():
        message = f"there is no {table}, so clusters have no numbers: run deepir-index review without --assign first"
        raise InputError(message)
    return assigned_labels(read_table(table), read_assignments(options["assign"]))


def _name(
    index_path: Path,
    inbox: Path,
    label_of: Mapping[str, str],
    options: Mapping[str, Any],
    backend: BackendOptions,
    *,
    as_json: bool,
) -> None:
    named, outcome = Named(), "nothing was named"
    if label_of:
        with Index.open(index_path, write=True, wait=options["wait"]) as index:
            enrolment = Enrolment(index_path=index_path, thumbnails=index.footer.thumbnails)
            model = options["model"] or find_model(index, index_path, references=True)
            with Extractor.open(model, backend) as extractor, progress_bar("adding", len(label_of)) as advance:
                named = name_pictures(index, extractor, enrolment, inbox, label_of, advance)
            outcome = finish(index)
    rows = _drop_moved(inbox / TABLE, named.moved)
    for line in named_lines(named, inbox):
        click.echo(line, err=True)
    click.echo(outcome, err=True)
    if as_json:
        click.echo(json.dumps({"path": str(index_path), "inbox": str(inbox), **named_facts(named, len(rows))}))
    following = f"review {index_path} {inbox} --ask" if rows else f"calibrate {index_path}"
    click.echo(f"next: deepir-index {following}", err=True)


def _drop_moved(table: Path, moved: Sequence[str]) -> list[ClusterRow]:
    """The rows of the pictures that still wait; the numbers of their clusters stay."""
    if not table.exists():
        return []
    rows = [row for row in read_table(table) if row.picture not in set(moved)]
    write_table(table, rows)
    return rows


def _draw(sheet: Path, found: Inbox, inbox: Path, index_path: Path) -> None:
    pictures = sum(len(cluster.pictures) for cluster in found.clusters)
    facts = {
        "inbox": f"{inbox}: {pictures} pictures in {len(found.clusters)} clusters",
        "index": str(index_path),
        "similarity": f"{found.similarity:.3f} or more within a cluster",
    }
    write_sheet(sheet, f"Clusters of {inbox.name or inbox}", facts, inbox_groups(found))
    click.echo(f"wrote {sheet} ({sheet.stat().st_size / 1e6:.2f} MB)", err=True)
