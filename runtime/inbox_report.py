"""The clusters of an inbox and what became of its pictures: in facts, in words, and as rows of a sheet."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepir.runtime.inbox import DONE, Inbox, InboxCluster
from deepir.runtime.inbox_naming import Named
from deepir.runtime.sheet import Group, Picture

_DIGITS = 4


def inbox_facts(found: Inbox, folder: Path, table: Path) -> dict[str, Any]:
    """What `deepir-index review --json` prints."""
    return {
        "inbox": str(folder),
        "table": str(table),
        "similarity": found.similarity,
        "clusters": [
            {
                "cluster": cluster.number,
                "pictures": [picture.relative_to(folder).as_posix() for picture in cluster.pictures],
                "suggestion": cluster.suggestion or None,
                "similarity": round(cluster.answer.similarity, _DIGITS),
                "status": cluster.answer.status,
            }
            for cluster in found.clusters
        ],
        "blank": [str(path) for path in found.blank],
        "unreadable": [str(path) for path in found.unreadable],
        "waiting": found.waiting,
    }


def inbox_lines(found: Inbox) -> Iterator[str]:
    """A line for each cluster: number, pictures, the label it resembles, and its most typical picture."""
    for cluster in found.clusters:
        yield (
            f"{cluster.number:5} {len(cluster.pictures):5} pictures  {cluster.answer.similarity:6.3f} "
            f"{cluster.answer.status:9} {cluster.suggestion or '-'}  {cluster.pictures[0].name}"
        )


def inbox_remarks(found: Inbox) -> Iterator[str]:
    """What was left out, and what waits longer."""
    if found.blank:
        yield f"left out {len(found.blank)} blank pictures, the first is {found.blank[0]}"
    if found.unreadable:
        first = str(found.unreadable[0]).encode("utf-8", "replace").decode()
        yield f"left out {len(found.unreadable)} files that are no pictures, or whose names are not UTF-8: {first}"
    if found.waiting:
        yield f"{found.waiting} more pictures wait: name some of these, then review the inbox again"


def inbox_groups(found: Inbox) -> list[Group]:
    """A row of pictures for each cluster, the most typical first."""
    return [_group(cluster) for cluster in found.clusters]


def _group(cluster: InboxCluster) -> Group:
    count, answer = len(cluster.pictures), cluster.answer
    return Group(
        title=f"{cluster.number}: {count} picture{'s' if count > 1 else ''}",
        note=f"most like {cluster.suggestion or 'nothing'}, {answer.similarity:.3f} ({answer.status})",
        pictures=[
            Picture(path=picture, caption=picture.name, similarity=similarity if row else None)
            for row, (picture, similarity) in enumerate(zip(cluster.pictures, cluster.similarities, strict=True))
        ],
    )


def named_facts(named: Named, waiting: int) -> dict[str, Any]:
    """What was named, for programs; `waiting` pictures of the table were not."""
    return {
        "labels": [asdict(label) for label in named.labels],
        "moved": named.moved,
        "missing": named.missing,
        "unreadable": [str(path) for path in named.unreadable],
        "waiting": waiting,
    }


def named_lines(named: Named, folder: Path) -> Iterator[str]:
    """What was named, for people."""
    for label in named.labels:
        left_out = [
            f"{count} {reason}" for count, reason in ((label.repeated, "repeated"), (label.blurred, "blurred")) if count
        ]
        new = " (new)" if label.new else ""
        rest = f", left out {' and '.join(left_out)}" if left_out else ""
        yield f"{label.label}{new}: {label.views} views{rest}"
    if named.moved:
        yield f"moved {len(named.moved)} pictures to {folder / DONE}"
    if named.missing:
        yield f"{len(named.missing)} pictures are not in {folder} any more, the first is {named.missing[0]}"
    if named.unreadable:
        yield f"{len(named.unreadable)} files are no pictures and stayed, the first is {named.unreadable[0]}"
