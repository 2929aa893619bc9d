"""deepir-index confusions: which labels of an index look nearly alike, before a customer finds out."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from deepir.errors import reports_errors
from deepir.runtime.confusions import MOST, Confusion, NearView, find_confusions
from deepir.runtime.index import Index
from deepir.runtime.index_options import FILE, check_target, json_option
from deepir.runtime.items import Item
from deepir.runtime.pictures import find_pictures
from deepir.runtime.sheet import Group, Picture, write_sheet

_DIGITS = 4
_POSITION = {True: "above", False: "below", None: ""}


@click.command("confusions", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("--most", type=int, default=MOST, help="How many pairs of labels.")
@click.option("--sheet", type=FILE, metavar="FILE.html", help="Write a page that shows the views of each pair.")
@json_option
@reports_errors
def confusions_command(index_path: Path, *, most: int, sheet: Path | None, as_json: bool) -> None:
    """List the pairs of labels of INDEX whose stored views are most alike, and what to do about each.

    "own" is the similarity of that view to the nearest other view of its label: where it is not clearly higher, the two
    labels will be confused.

    \b
    Example:
      deepir-index confusions shop.usearch --sheet confusions.html
    """  # noqa: D301 click needs the character
    if sheet is not None:
        check_target(sheet, index_path)
    index = Index.open(index_path)
    found = find_confusions(index, most)
    threshold = None if index.threshold is None else index.threshold.value
    if found.compared < found.views:
        click.echo(f"compared {found.compared} of {found.views} views with all of them, evenly spread", err=True)
    if as_json:
        facts = {"path": str(index_path), "views": found.views, "compared": found.compared, "threshold": threshold}
        click.echo(json.dumps({**facts, "margin": index.margin, "pairs": [_facts(pair) for pair in found.pairs]}))
    else:
        for pair in found.pairs:
            for line in _lines(pair):
                click.echo(line)
    above = sum(pair.above is True for pair in found.pairs)
    limit = "there is no threshold" if threshold is None else f"{above} above the threshold {threshold:.3f}"
    click.echo(f"{len(found.pairs)} pairs of labels, {limit}", err=True)
    if sheet is not None:
        page = {"index": str(index_path), "pairs": f"{len(found.pairs)}, the most alike first", "threshold": limit}
        write_sheet(
            sheet, f"Nearly alike in {index_path.name}", page, [_group(pair, index_path) for pair in found.pairs]
        )
        click.echo(f"wrote {sheet} ({sheet.stat().st_size / 1e6:.2f} MB)", err=True)
    label = found.pairs[0].first.item.label
    click.echo(f"next: deepir-index add {index_path} {label} IMAGE...", err=True)


def _lines(pair: Confusion) -> Iterator[str]:
    yield f"{pair.similarity:6.3f} {pair.first.item.label} | {pair.second.item.label}"
    for side in (pair.first, pair.second):
        own = "its only view" if side.own is None else f"own {side.own:.3f}, {side.views} views"
        yield f"         {side.item.label}: {side.item.view} (key {side.item.key}, {own})"
    yield f"         {pair.advice}"


def _facts(pair: Confusion) -> dict[str, Any]:
    return {
        "labels": [pair.first.item.label, pair.second.item.label],
        "similarity": round(pair.similarity, _DIGITS),
        "above_threshold": pair.above,
        "at_risk": pair.at_risk,
        "views": [_side_facts(side) for side in (pair.first, pair.second)],
        "advice": pair.advice,
    }


def _side_facts(side: NearView) -> dict[str, Any]:
    return {
        "key": side.item.key,
        "label": side.item.label,
        "view": side.item.view,
        "views": side.views,
        "own": None if side.own is None else round(side.own, _DIGITS),
    }


def _group(pair: Confusion, path: Path) -> Group:
    first, second = pair.first, pair.second
    pictures = [
        _picture(first.item, path, first.item.label),
        _picture(second.item, path, second.item.label, similarity=pair.similarity, good=False),
    ]
    for side in (first, second):
        if side.own_item is not None:
            caption = f"own: {side.item.label}"
            pictures.append(_picture(side.own_item, path, caption, similarity=side.own, good=True))
    position = "" if pair.above is None else f", {_POSITION[pair.above]} the threshold"
    title = f"{first.item.label} | {second.item.label}"
    return Group(title=title, note=f"{pair.similarity:.3f}{position}: {pair.advice}", pictures=pictures)


def _picture(
    item: Item, path: Path, caption: str, *, similarity: float | None = None, good: bool | None = None
) -> Picture:
    found: Sequence[Path] = find_pictures(item, path)
    where = next(iter(found), None)
    return Picture(path=where, caption=f"{caption}: {item.view}", similarity=similarity, good=good)
