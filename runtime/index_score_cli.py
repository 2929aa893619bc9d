"""deepir-index eval: how well an index answers, on pictures whose answer is known."""

import json
from pathlib import Path
from typing import Any

import click

from deepir.datasets import read_labelled_queries
from deepir.errors import OptionError, reports_errors
from deepir.image import list_images
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.index_options import FILE, check_target, json_option
from deepir.runtime.index_score import IndexScores, score_index
from deepir.runtime.progress import progress_bar
from deepir.runtime.ranked_folders import RankedFolders
from deepir.runtime.recogniser import find_model
from deepir.runtime.run_report import NO_THRESHOLD
from deepir.runtime.score_query import Questions
from deepir.runtime.score_report import error_groups, next_command, score_facts, score_lines, score_remarks, table_lines
from deepir.runtime.sheet import MOST_GROUPS, write_sheet

_TOPK = 50


@click.command("eval", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.argument("queries", type=FILE)
@click.option("--unknown", type=FILE, metavar="DIR", help="Pictures of things that are not in INDEX.")
@click.option("--sheet", type=FILE, metavar="FILE.html", help="Write a page that shows the errors, the worst first.")
@click.option("--table", is_flag=True, help="Count pairs of the same label and others at each threshold.")
@click.option("--folders", type=FILE, metavar="DIR", help="Copy what each query finds into folders of DIR.")
@click.option("--topk", type=int, default=_TOPK, help="Views copied for each query.")
@click.option("--model", type=FILE, help="The model, if not where the index expects it.")
@json_option
@backend_options
@reports_errors
def eval_command(index_path: Path, queries: Path, *, as_json: bool, **options: Any) -> None:
    """Ask INDEX about the pictures of QUERIES and say how often it is right.

    QUERIES is a folder with a folder for each label, or a CSV file with the columns image and label.  Labels that INDEX
    lacks count as unknown things.  --folders writes <query>/<rank>_<name>_<similarity>_good.jpg or _bad.jpg.

    \b
    Example:
      deepir-index eval shop.usearch photographs/ --sheet errors.html
      deepir-index eval shop.usearch photographs.csv --unknown other/ --table
      deepir-index eval shop.usearch photographs/ --folders ranked/ --topk 20
    """  # noqa: D301 click needs the character
    questions = Questions(
        read_labelled_queries(queries), () if options["unknown"] is None else list_images(options["unknown"])
    )
    backend = read_backend_options(options)
    index = Index.open(index_path)
    folders = _folders(index, index_path, options)
    if options["sheet"] is not None:
        check_target(options["sheet"], index_path)
    with (
        Extractor.open(options["model"] or find_model(index, index_path), backend) as extractor,
        progress_bar("asking", len(questions.labelled)) as advance,
    ):
        scores = score_index(index, extractor, questions, advance, table=options["table"], folders=folders)
    if scores.threshold is None:
        click.echo(NO_THRESHOLD, err=True)
    for sentence in score_remarks(scores):
        click.echo(sentence, err=True)
    facts = score_facts(scores, index, index_path)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for line in (*score_lines(scores), *table_lines(scores)):
            click.echo(line)
    _write(scores, index, index_path, queries, options["sheet"])
    if folders is not None:
        gone = f", left out {folders.missing} views whose pictures are gone" if folders.missing else ""
        click.echo(f"wrote {folders.written} folders into {folders.folder}{gone}", err=True)
    click.echo(f"next: {next_command(scores, index, index_path)}", err=True)


def _folders(index: Index, path: Path, options: dict[str, Any]) -> RankedFolders | None:
    if options["folders"] is None:
        return None
    if options["topk"] < 1:
        message = f"--topk must be 1 or more, got {options['topk']}"
        raise OptionError(message)
    return RankedFolders(options["folders"], index, path, options["topk"])


def _write(scores: IndexScores, index: Index, path: Path, queries: Path, sheet: Path | None) -> None:
    if sheet is None:
        return
    threshold = "none" if scores.threshold is None else f"{scores.threshold:.3f}"
    errors = len(scores.errors)
    facts = {
        "index": str(path),
        "queries": f"{queries}: {scores.known} of labels that the index has, {len(scores.queries) - scores.known} not",
        "judged": f"threshold {threshold}, margin {scores.margin:.3f}",
        "errors": f"{errors}, the worst first; {min(errors, MOST_GROUPS)} shown",
    }
    write_sheet(sheet, f"Errors of {path.name}", facts, error_groups(scores, index, path, MOST_GROUPS))
    click.echo(f"wrote {sheet} ({sheet.stat().st_size / 1e6:.2f} MB)", err=True)
