"""deepir-index ls, remove, relabel and compact: look at what an index holds, and change it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from deepir.errors import InputError, OptionError, reports_errors
from deepir.label_tree import branch_counts
from deepir.runtime.index import Index
from deepir.runtime.index_listing import label_lines, select_labels, select_views, tree_lines, view_facts, view_line
from deepir.runtime.index_options import FILE, json_option, wait_option
from deepir.runtime.index_saving import finish, still_holding
from deepir.runtime.pictures import drop_unused

_key_option = click.option("--key", "keys", type=int, multiple=True, help="Only the view with this key; may repeat.")


@click.command("ls", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.argument("selection", metavar="[LABEL|BRANCH/]", required=False)
@click.option("--tree", is_flag=True, help="Show branches, each with all the views that it holds.")
@click.option("--views", is_flag=True, help="List each view: key, label, picture, metadata.")
@json_option
@reports_errors
def ls_command(index_path: Path, selection: str | None, *, tree: bool, views: bool, as_json: bool) -> None:
    """List the labels of INDEX with their numbers of views; with BRANCH/ those below it.

    \b
    Example:
      deepir-index ls shop.usearch
      deepir-index ls shop.usearch tea/ --tree
      deepir-index ls shop.usearch tea/green/100g --views
    """  # noqa: D301 click needs the character
    if tree and views:
        message = "--tree counts and --views lists: give one of them"
        raise OptionError(message)
    index = Index.open(index_path)
    labels = select_labels(index, selection)
    if as_json:
        facts: dict[str, Any] = {"path": str(index_path), "items": sum(labels.values()), "labels": labels}
        facts |= {"branches": branch_counts(labels)} if tree else {}
        facts |= {"views": [view_facts(item) for item in select_views(index, labels)]} if views else {}
        click.echo(json.dumps(facts))
    else:
        lines = map(view_line, select_views(index, labels)) if views else (tree_lines if tree else label_lines)(labels)
        for line in lines:
            click.echo(line)
    click.echo(f"{sum(labels.values())} views of {len(labels)} labels", err=True)
    first = next(iter(labels), "LABEL")
    following = f"remove {index_path} --key KEY" if views else f"ls {index_path} {first} --views"
    click.echo(f"next: deepir-index {following}", err=True)


@click.command("remove", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.argument("label", metavar="[LABEL|BRANCH/]", required=False)
@_key_option
@wait_option
@json_option
@reports_errors
def remove_command(index_path: Path, label: str | None, keys: tuple[int, ...], wait: float, *, as_json: bool) -> None:
    """Forget LABEL and all its views, a whole BRANCH/, or single views by their keys.

    They are found no more from now on.  Their values stay in the generation before (.bak) and in the bytes of a large
    file until deepir-index compact.

    \b
    Example:
      deepir-index remove shop.usearch oat-milk-1l
      deepir-index remove shop.usearch tea/
      deepir-index remove shop.usearch --key 17 --key 18
    """  # noqa: D301 click needs the character
    if label is None and not keys:
        message = "say what to remove: LABEL, BRANCH/ or --key KEY; deepir-index ls --views lists them"
        raise OptionError(message)
    with Index.open(index_path, write=True, wait=wait) as index:
        removed = index.remove(_selected(index, label, keys))
        outcome = finish(index)
        held = [str(path) for path in still_holding(index)]
        rest = {"items": len(index), "labels": len(index.labels), "pending": index.pending}
    what = f"of {label}" if label is not None and not keys else f"by key ({', '.join(map(str, keys))})"
    if held:
        verb = "hold" if len(held) > 1 else "holds"
        still = f"{', '.join(held)} still {verb} them: deepir-index compact {index_path} deletes them there"
    else:
        still = "nothing holds them any more"
    click.echo(f"removed {removed} items {what}; {still}", err=True)
    click.echo(outcome, err=True)
    if as_json:
        click.echo(json.dumps({"path": str(index_path), "removed": removed, "still_in": held, **rest}))
    click.echo(f"next: deepir-index {'compact' if held else 'info'} {index_path}", err=True)


@click.command("relabel", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.argument("old", metavar="OLD|BRANCH/")
@click.argument("new", metavar="NEW|BRANCH/")
@_key_option
@wait_option
@json_option
@reports_errors
def relabel_command(index_path: Path, old: str, new: str, keys: tuple[int, ...], wait: float, *, as_json: bool) -> None:
    """Give the views of OLD the label NEW, or move a whole BRANCH/; NEW may be there already.

    \b
    Example:
      deepir-index relabel shop.usearch oat-milk oat-milk-1l
      deepir-index relabel shop.usearch tea/ drinks/tea/
      deepir-index relabel shop.usearch oat-milk soy-milk --key 17
    """  # noqa: D301 click needs the character
    with Index.open(index_path, write=True, wait=wait) as index:
        before = index.labels.get(new, 0)
        moved = index.relabel(_selected(index, old, keys), new)
        outcome = finish(index)
        rest = {"items": len(index), "labels": len(index.labels), "pending": index.pending}
    joined = f", which had {before} already" if before else ""
    click.echo(f"relabelled {moved} items of {old} as {new}{joined}", err=True)
    click.echo(outcome, err=True)
    if as_json:
        facts = {"path": str(index_path), "relabelled": moved, "old": old, "new": new, **rest}
        click.echo(json.dumps(facts))
    click.echo(f"next: deepir-index ls {index_path} {new}", err=True)


@click.command("compact", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@wait_option
@json_option
@reports_errors
def compact_command(index_path: Path, wait: float, *, as_json: bool) -> None:
    """Write INDEX without any trace of what was removed, and delete the generation before it (.bak).

    The journal's changes are written into the file too, and kept pictures that no view names are deleted.

    \b
    Example:
      deepir-index compact shop.usearch
    """  # noqa: D301 click needs the character
    with Index.open(index_path, write=True, wait=wait) as index:
        before = index_path.stat().st_size
        index.compact()
        after = index_path.stat().st_size
        pictures = drop_unused(index_path, list(index.items()))
        count, generation = len(index), index.generation
    click.echo(
        f"wrote {index_path}: {before / 1e6:.2f} MB before, {after / 1e6:.2f} MB now, {count} items; "
        f"deleted the generation before and {pictures} kept pictures that nothing names",
        err=True,
    )
    if as_json:
        sizes = {"bytes_before": before, "bytes": after, "pictures_deleted": pictures}
        click.echo(json.dumps({"path": str(index_path), "items": count, "generation": generation, **sizes}))
    click.echo(f"next: deepir-index verify {index_path}", err=True)


def _selected(index: Index, label: str | None, keys: Sequence[int]) -> str | list[int]:
    """What `Index.remove` and `Index.relabel` take; keys beside a label must be keys of it."""
    if label is None or not keys:
        return list(keys) if label is None else label
    own = {item.key for item in select_views(index, select_labels(index, label))}
    for key in keys:
        if key not in own:
            message = f"the view {key} is not one of {label}: deepir-index ls INDEX {label} --views lists its keys"
            raise InputError(message)
    return list(keys)
