"""Labelled pictures listed in a CSV file: columns image and label, optionally role (query or database)."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepir.errors import InputError
from deepir.retrieval_set import Query, RetrievalSet, scored_set

PROTOCOL = "pictures of the query's label are positives, its own image takes no rank"

_NEEDED = ("image", "label")
_ROLES = ("query", "database")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    key: str
    image: Path
    label: str
    role: str | None


def read_csv_set(file: Path) -> dict[str, RetrievalSet]:
    """The one set of a CSV file, named as the file; paths in it are relative to its folder.

    Without a column `role` every picture is in the database and a query for the others of its label.

    Raises:
        InputError: No such file, not CSV, a column or value missing, a picture missing or listed twice; with its line.
    """
    rows = list(_read_rows(file))
    _refuse_missing_and_twice(file, rows)
    by_label: dict[str, set[Path]] = {}
    database = [row for row in rows if row.role != "query"]
    for row in database:
        by_label.setdefault(row.label, set()).add(row.image)
    queries = [
        Query(
            row.key,
            row.image,
            frozenset(by_label.get(row.label, set()) - {row.image}),
            frozenset({row.image}),
        )
        for row in rows
        if row.role != "database"
    ]
    return {file.stem: scored_set(file.stem, [row.image for row in database], queries, PROTOCOL)}


def read_csv_queries(file: Path) -> list[tuple[Path, str]]:
    """The pictures to search with and their labels, in order: those of the role query, all where no role is given.

    Raises:
        InputError: As `read_csv_set`, or there are none.
    """
    rows = list(_read_rows(file))
    _refuse_missing_and_twice(file, rows)
    queries = [(row.image, row.label) for row in rows if row.role != "database"]
    if not queries:
        message = f"{file} lists no picture to search with"
        raise InputError(message)
    return queries


def _read_rows(file: Path) -> Iterator[_Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            _check_columns(file, reader.fieldnames or ())
            for fields in reader:
                yield _row(file, reader.line_num, fields)
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise InputError(message) from error
    except (csv.Error, UnicodeDecodeError) as error:
        message = f"{file} is not CSV: {error}"
        raise InputError(message) from error


def _check_columns(file: Path, names: Sequence[str]) -> None:
    lacking = [name for name in _NEEDED if name not in names]
    if lacking:
        message = (
            f"{file} line 1: no column {' and '.join(lacking)}; expected a first line such as image,label "
            f"or image,label,role, got {','.join(names)!r}"
        )
        raise InputError(message)


def _row(file: Path, line: int, fields: dict[str, str | None]) -> _Row:
    image, label, role = (None if (value := fields.get(name)) is None else value.strip() for name in (*_NEEDED, "role"))
    if not image or not label:
        message = f"{file} line {line}: no {'label' if image else 'image'}"
        raise InputError(message)
    if "role" in fields and role not in _ROLES:
        message = f"{file} line {line}: role must be {' or '.join(_ROLES)}, got {role!r}"
        raise InputError(message)
    return _Row(line, image, file.parent / image, label, role)


def _refuse_missing_and_twice(file: Path, rows: list[_Row]) -> None:
    missing = [row for row in rows if not row.image.is_file()]
    if missing:
        message = f"{file} line {missing[0].line}: no picture {missing[0].image} ({len(missing)} are missing in all)"
        raise InputError(message)
    lines: dict[tuple[Path, str | None], int] = {}
    for row in rows:
        if (first := lines.setdefault((row.image, row.role), row.line)) != row.line:
            message = f"{file} line {row.line}: {row.image} is in line {first} already"
            raise InputError(message)
