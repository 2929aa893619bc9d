"""Revisited Oxford and Paris: gnd_roxford5k.pkl, gnd_rparis6k.pkl and their like (method.md 2.5)."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.named_pictures import NamedPictures
from deepir.plain_pickle import read_plain_pickle
from deepir.retrieval_set import Query, RetrievalSet, as_box, scored_set

_START = "gnd_"

_REVISITED = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_ORIGINAL = {"": (("ok",), ("junk",))}
"""Positives and junk of each set, by the lists of the file; the original benchmarks come in this form too."""


@dataclass(frozen=True, slots=True)
class _GroundTruth:
    file: Path
    database: list[Path]
    images: list[Path]
    queries: list[dict[str, Any]]


def find_ground_truth(source: Path) -> list[Path]:
    """The file itself, or every gnd_*.pkl in a folder."""
    return [source] if source.is_file() else sorted(source.glob(f"{_START}*.pkl"))


def read_revisited(source: Path) -> dict[str, RetrievalSet]:
    """Sets `<name> easy`, `<name> medium` and `<name> hard` of each gnd_<name>.pkl, pictures in jpg/ beside it.

    Query pictures are cropped to their box and are no part of the database; queries without positives at a difficulty
    are left out of that set. A file of an original benchmark (lists `ok` and `junk`) gives the one set `<name>`.

    Raises:
        InputError: No such file, one that holds anything but plain data, foreign content, or missing pictures.
    """
    files = find_ground_truth(source)
    if not files:
        message = f"no ground truth in {source}: expected gnd_roxford5k.pkl, gnd_rparis6k.pkl or another {_START}*.pkl"
        raise InputError(message)
    return {name: found for file in files for name, found in _read_file(file).items()}


def _read_file(file: Path) -> dict[str, RetrievalSet]:
    content = read_plain_pickle(file)
    try:
        truth = _checked(file, content)
        kinds = _ORIGINAL if all("ok" in query for query in truth.queries) else _REVISITED
        name = file.stem.removeprefix(_START)
        sets = {f"{name} {kind}".strip(): (_queries(truth, *lists), lists) for kind, lists in kinds.items()}
    except (LookupError, TypeError, ValueError) as error:
        message = f"{file} is not ground truth of a revisited benchmark: {type(error).__name__} {error}"
        raise InputError(message) from error
    return {
        name: scored_set(name, truth.database, queries, _protocol(*lists)) for name, (queries, lists) in sets.items()
    }


def _checked(file: Path, content: Any) -> _GroundTruth:
    database, images, queries = (list(content[field]) for field in ("imlist", "qimlist", "gnd"))
    if len(images) != len(queries):
        message = f"{len(images)} names in qimlist and {len(queries)} queries in gnd"
        raise ValueError(message)
    pictures = NamedPictures(file.parent)
    return _GroundTruth(file, _paths(pictures, database), _paths(pictures, images), queries)


def _paths(pictures: NamedPictures, names: list[object]) -> list[Path]:
    foreign = next((name for name in names if not isinstance(name, str)), None)
    if foreign is not None:
        message = f"a {type(foreign).__name__} stands where the name of a picture should"
        raise TypeError(message)
    return [pictures.path(str(name).removesuffix(".jpg")) for name in names]


def _queries(truth: _GroundTruth, positives: Sequence[str], junk: Sequence[str]) -> list[Query]:
    return [
        Query(
            image.stem,
            image,
            _chosen(truth.database, [row for kind in positives for row in query[kind]]),
            _chosen(truth.database, [row for kind in junk for row in query[kind]]),
            as_box(tuple(query["bbx"]), f"{truth.file}: {image.stem}"),
        )
        for image, query in zip(truth.images, truth.queries, strict=True)
    ]


def _chosen(database: list[Path], rows: list[Any]) -> frozenset[Path]:
    numbers = [operator.index(row) for row in rows]
    wrong = next((number for number in numbers if not 0 <= number < len(database)), None)
    if wrong is not None:
        message = f"row {wrong} of a database of {len(database)} pictures"
        raise ValueError(message)
    return frozenset(database[number] for number in numbers)


def _protocol(positives: Sequence[str], junk: Sequence[str]) -> str:
    return (
        f"{' and '.join(positives)} are positives, {' and '.join(junk)} take no rank, queries are cropped to their box"
    )
