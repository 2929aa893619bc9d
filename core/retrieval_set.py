"""What a retrieval benchmark is: a database of pictures, and queries with their positives and junk."""

import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.image import Box


@dataclass(frozen=True, slots=True)
class Query:
    """A picture to search with.

    Attributes:
        key: Names it in reports.
        image: Where it lies; it may be a picture of the database too.
        positives: What should be found; each counts, also when the database lacks it.
        junk: Neither right nor wrong: takes no rank. Its own image is here where the protocol ignores it.
        box: The part of the picture to search with; None for all of it.
    """

    key: str
    image: Path
    positives: frozenset[Path]
    junk: frozenset[Path]
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A database of pictures and the queries that are scored on it.

    Attributes:
        name: Names the set among those of its dataset.
        database: Each picture once; the order decides ties.
        queries: Each with at least one positive.
        protocol: What is ignored and what is cropped, in one line.
        left_out: Queries that had no positives and are therefore not among `queries`.
    """

    name: str
    database: tuple[Path, ...]
    queries: tuple[Query, ...]
    protocol: str = ""
    left_out: int = 0

    def __post_init__(self) -> None:
        path, count = max(Counter(self.database).items(), key=lambda item: item[1], default=(None, 1))
        if count > 1:
            message = f"the database of {self.name} names {path} {count} times: each picture may be there once"
            raise InputError(message)


def scored_set(name: str, database: Sequence[Path], queries: Sequence[Query], protocol: str) -> RetrievalSet:
    """A set without the queries that have no positives, which are counted.

    Raises:
        InputError: No query is left, a picture is twice in the database, or pictures are not on disk.
    """
    scored = tuple(query for query in queries if query.positives)
    if not scored:
        message = f"the set {name} has no queries to score: none of {len(queries)} has a positive"
        raise InputError(message)
    refuse_missing(name, [*database, *(query.image for query in scored)])
    return RetrievalSet(name, tuple(database), scored, protocol, len(queries) - len(scored))


def refuse_missing(name: str, paths: Iterable[Path]) -> None:
    """Check that pictures lie where they should.

    Raises:
        InputError: Says how many do not, and the first.
    """
    distinct = dict.fromkeys(paths)
    missing = [path for path in distinct if not path.is_file()]
    if missing:
        message = f"{len(missing)} of the {len(distinct)} pictures of {name} are missing, the first is {missing[0]}"
        raise InputError(message)


def as_box(values: Sequence[Any], source: str) -> Box:
    """Four numbers x1, y1, x2, y2, as numbers or as text; `source` is what the error calls their place.

    Raises:
        InputError: Not four finite numbers, or a box without an inside.
    """
    try:
        left, top, right, bottom = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        message = f"{source}: a box needs four numbers x1 y1 x2 y2, got {reprlib.repr(values)}"
        raise InputError(message) from error
    if not (all(map(math.isfinite, (left, top, right, bottom))) and left < right and top < bottom):
        message = f"{source}: a box needs finite x1 < x2 and y1 < y2, got {left} {top} {right} {bottom}"
        raise InputError(message)
    return left, top, right, bottom
