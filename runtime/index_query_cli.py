"""deepir-index query: what a picture shows, and why."""

import json
from pathlib import Path
from typing import Any

import click

from deepir.errors import reports_errors
from deepir.image import read_image
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.index_report import recognition_facts, recognition_text
from deepir.runtime.judgement_cli import judgement_options, read_judgement
from deepir.runtime.recogniser import Recogniser
from deepir.runtime.run_report import NO_THRESHOLD

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.argument("image", type=_FILE)
@judgement_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--model", type=_FILE, help="The model, if not where the index expects it.")
@backend_options
@reports_errors
def query(index_path: Path, image: Path, *, as_json: bool, **options: Any) -> None:
    """Name what IMAGE shows: a label, the labels it may be, or unknown; and the view that resembles it most.

    \b
    Example:
      deepir-index query shop.usearch photograph.jpg
    """  # noqa: D301 click needs the character
    pixels = read_image(image)
    judgement = read_judgement(options)
    with Recogniser.open(
        index_path, options["model"], judgement=judgement, options=read_backend_options(options)
    ) as recogniser:
        if recogniser.threshold is None:
            click.echo(NO_THRESHOLD, err=True)
        facts = recognition_facts(recogniser(pixels), recogniser.threshold, image)
    click.echo(json.dumps(facts) if as_json else recognition_text(facts))
