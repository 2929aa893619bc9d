"""The table of an inbox's clusters, a CSV file in which a person writes labels."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deepir.errors import InputError, OptionError
from deepir.files import write_text
from deepir.label_tree import check_label
from deepir.runtime.inbox import Inbox

TABLE = "clusters.csv"
"""Its name inside the inbox."""

LEFT_OUT = "-"
"""In place of a label: this picture does not get the label of its cluster."""

_COLUMNS = ("cluster", "picture", "suggestion", "similarity", "label")
_NEEDED = ("cluster", "picture", "label")


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A picture of a cluster; the first row of a cluster is its most typical picture.

    Attributes:
        cluster: Its number.
        picture: Its path inside the inbox.
        suggestion, similarity: The label that the cluster resembles most, as text.
        label: What a person wrote; empty where nothing.
        line: In the file.
    """

    cluster: int
    picture: str
    suggestion: str = ""
    similarity: str = ""
    label: str = ""
    line: int = 0


def cluster_rows(inbox: Inbox, folder: Path) -> list[ClusterRow]:
    """A row for each picture, cluster after cluster, without labels."""
    return [
        ClusterRow(
            cluster.number,
            picture.relative_to(folder).as_posix(),
            cluster.suggestion,
            f"{cluster.answer.similarity:.4f}",
        )
        for cluster in inbox.clusters
        for picture in cluster.pictures
    ]


def write_table(file: Path, rows: Sequence[ClusterRow]) -> None:
    """Write the table, whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((row.cluster, row.picture, row.suggestion, row.similarity, row.label) for row in rows)
    write_text(file, text.getvalue())


def read_table(file: Path) -> list[ClusterRow]:
    """The rows of a table, which a person or a program may have changed.

    Raises:
        InputError: Missing, not CSV, a column missing; a row without a number or with a picture outside the inbox; with
            its line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if lacking:
                message = f"{file} line 1: no column {' and '.join(lacking)}; expected {','.join(_COLUMNS)}"
                raise InputError(message)
            return [_row(file, reader.line_num, fields) for fields in reader]
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise InputError(message) from error
    except (csv.Error, UnicodeDecodeError) as error:
        message = f"{file} is not CSV: {error}"
        raise InputError(message) from error


def written_labels(file: Path, rows: Sequence[ClusterRow]) -> dict[str, str]:
    """Pictures with their labels, as a person wrote them.

    A label in the first row of a cluster counts for all of its rows that have none of their own; LEFT_OUT leaves a
    picture out.

    Raises:
        InputError: What is written is no label, or there is none at all; with its line.
    """
    of_cluster: dict[int, str] = {}
    labels: dict[str, str] = {}
    for row in rows:
        first = of_cluster.setdefault(row.cluster, row.label)
        label = row.label or first
        if label and label != LEFT_OUT:
            try:
                labels[row.picture] = check_label(label)
            except InputError as error:
                message = f"{file} line {row.line}: {error}"
                raise InputError(message) from error
    if not labels:
        message = f"{file} holds no label yet: write one into the column label of a cluster's first row"
        raise InputError(message)
    return labels


def read_assignments(texts: Sequence[str]) -> dict[int, str]:
    """The labels of clusters as words of a command, `3=oat-milk-1l`.

    Raises:
        OptionError: Another form, or two labels for one cluster.
    """
    label_of: dict[int, str] = {}
    for text in texts:
        number, _, label = text.partition("=")
        if not number.strip().isdecimal() or not label:
            message = f"--assign takes N=LABEL such as 3=oat-milk-1l, got {text!r}"
            raise OptionError(message)
        if label_of.setdefault(int(number), label) != label:
            message = f"--assign gives cluster {int(number)} two labels, {label_of[int(number)]!r} and {label!r}"
            raise OptionError(message)
    return label_of


def assigned_labels(rows: Sequence[ClusterRow], label_of: Mapping[int, str]) -> dict[str, str]:
    """Pictures with the labels that whole clusters are given, by the numbers of the clusters.

    Raises:
        OptionError: No cluster of that number.
        InputError: It is no label.
    """
    numbers = sorted({row.cluster for row in rows})
    for number, label in label_of.items():
        check_label(label)
        if number not in numbers:
            there = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
            message = f"there is no cluster {number}: the table has {there}"
            raise OptionError(message)
    return {row.picture: label_of[row.cluster] for row in rows if row.cluster in label_of}


def _row(file: Path, line: int, fields: dict[str, str | None]) -> ClusterRow:
    number, picture, suggestion, similarity, label = ((fields.get(name) or "").strip() for name in _COLUMNS)
    if not number.isdecimal():
        message = f"{file} line {line}: expected the number of a cluster, got {number!r}"
        raise InputError(message)
    path = PurePosixPath(picture)
    if not picture or path.is_absolute() or ".." in path.parts:
        message = f"{file} line {line}: expected a picture inside the inbox, got {picture!r}"
        raise InputError(message)
    return ClusterRow(int(number), picture, suggestion, similarity, label, line)
