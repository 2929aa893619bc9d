"""deepir-index near: every stored view that is at least so similar to a picture, such as all of the same origin."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from deepir.errors import OptionError, ShapeError, reports_errors
from deepir.image import read_image
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.label_search import Hit
from deepir.runtime.recogniser import find_model
from deepir.selection import rows_at_least, suggest_threshold

_AUTO = "auto"
_DIGITS = 4
_FILE = click.Path(path_type=Path)


def hits_at_least(hits: list[Hit], at_least: float | None) -> tuple[list[Hit], float]:
    """The hits at or above a similarity, best first, and that similarity: the middle of the widest gap when None.

    Args:
        hits: All views of an index, best first.
        at_least: -1..1.

    Raises:
        ShapeError: No gap to find: fewer than two different similarities above 0.
    """
    similarity_n = np.array([hit.similarity for hit in hits], dtype=np.float32)
    threshold = suggest_threshold(similarity_n).threshold if at_least is None else at_least
    return [hits[row] for row in rows_at_least(similarity_n, threshold)], threshold


@click.command("near", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.argument("image", type=_FILE)
@click.option("--at-least", default=_AUTO, help="Least similarity; auto draws the line in the widest gap.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--model", type=_FILE, help="The model, if not where the index expects it.")
@backend_options
@reports_errors
def near_command(index_path: Path, image: Path, at_least: str, *, as_json: bool, **options: Any) -> None:
    """List every stored view that resembles IMAGE, and where the line was drawn.

    \b
    Example:
      deepir-index near covers.usearch cover.jpg --at-least 0.75
    """  # noqa: D301 click needs the character
    least = _parse_least(at_least)
    pixels = read_image(image)
    index = Index.open(index_path)
    model = options["model"] or find_model(index, index_path)
    with Extractor.open(model, read_backend_options(options)) as extractor:
        index.check_model(extractor.card)
        hits = index.search(extractor.describe([pixels])[0], len(index))
    if least is None and len({hit.similarity for hit in hits if hit.similarity >= 0}) < 2:
        message = f"{index_path} has too few views to find a gap in: give --at-least 0.7 or another similarity"
        raise ShapeError(message)
    found, threshold = hits_at_least(hits, least)
    facts = {"name": str(image), "at_least": round(threshold, _DIGITS), "views": [_facts(hit) for hit in found]}
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"{len(found)} of {len(hits)} views at {threshold:.3f} or more", err=True)
    for hit in found:
        click.echo(f"{hit.similarity:6.3f} {hit.label}  {hit.view}")


def _parse_least(text: str) -> float | None:
    if text == _AUTO:
        return None
    try:
        least = float(text)
    except ValueError as error:
        message = f"--at-least takes a similarity from -1 to 1, or auto; got {text!r}"
        raise OptionError(message) from error
    if not -1 <= least <= 1:
        message = f"--at-least takes a similarity from -1 to 1, or auto; got {text}"
        raise OptionError(message)
    return least


def _facts(hit: Hit) -> dict[str, Any]:
    return {"label": hit.label, "view": hit.view, "similarity": round(hit.similarity, _DIGITS)}
