"""What an index holds, as deepir-index ls shows it: labels with their numbers of views, branches, single views."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deepir.errors import InputError
from deepir.label_tree import SEPARATOR, Branch, branch_counts, parent, parse_selection, parts
from deepir.runtime.index import Index
from deepir.runtime.items import Item

_MOST_NAMED = 10
_INDENT = "  "


def select_labels(index: Index, selection: str | None) -> dict[str, int]:
    """The labels that a label, or a branch `brand/`, means, with their numbers of views; all of them when None.

    Raises:
        InputError: There is nothing of the kind.
    """
    labels = index.labels
    if selection is None:
        return labels
    wanted = parse_selection(selection)
    chosen = {label: count for label, count in labels.items() if label == wanted or _holds(wanted, label)}
    if not chosen:
        more = f" and {len(labels) - _MOST_NAMED} more" if len(labels) > _MOST_NAMED else ""
        there = ", ".join(list(labels)[:_MOST_NAMED]) + more
        message = f"no label {selection!r} in this index: it has {there or 'none'}"
        raise InputError(message)
    return chosen


def select_views(index: Index, labels: Mapping[str, int]) -> list[Item]:
    """The views of these labels by rising key."""
    return [item for item in index.items() if item.label in labels]


def view_facts(item: Item) -> dict[str, Any]:
    """A view for programs."""
    return {
        "key": item.key,
        "label": item.label,
        "view": item.view,
        "source": item.source,
        "metadata": dict(item.metadata),
    }


def view_line(item: Item) -> str:
    """A view for people: key, label, picture, and its metadata where there are any."""
    metadata = f"  {json.dumps(dict(item.metadata))}" if item.metadata else ""
    return f"{item.key:6} {item.label}  {item.source or '(no picture)'}{metadata}"


def label_lines(labels: Mapping[str, int]) -> Iterator[str]:
    """Each label with its number of views."""
    return (f"{count:6} {label}" for label, count in labels.items())


def tree_lines(labels: Mapping[str, int]) -> Iterator[str]:
    """Branches with all views that they hold, and below each what lies in it."""
    branches = branch_counts(labels)
    for name in sorted({*labels, *branches}, key=parts):
        own = labels.get(name, 0)
        indent = _INDENT * (len(parts(name)) - 1)
        last = name if parent(name) is None else parts(name)[-1]
        if name not in branches:
            yield f"{own:6} {indent}{last}"
        else:
            also = f"  ({own} of its own)" if own else ""
            yield f"{branches[name]:6} {indent}{last}{SEPARATOR}{also}"


def _holds(wanted: str | Branch, label: str) -> bool:
    return isinstance(wanted, Branch) and wanted.holds(label)
