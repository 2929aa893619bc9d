"""INRIA Holidays: six-digit names, the first four name the scene and 00 at the end marks its query."""

import re
from itertools import groupby
from pathlib import Path

from deepir.errors import InputError
from deepir.image import list_images
from deepir.named_pictures import picture_folder
from deepir.retrieval_set import Query, RetrievalSet, scored_set

PROTOCOL = "the first picture of a scene is the query for the others, its own image takes no rank"

_NAME = re.compile(r"\d{6}")
_QUERY_END = "00"
_SCENE_DIGITS = 4


def is_holidays(source: Path) -> bool:
    """Whether pictures lie directly in `jpg/`, `images/` or the folder, all of six-digit names and some queries."""
    names = [path.stem for path in picture_folder(source).glob("*.*") if path.suffix.lower() in {".jpg", ".jpeg"}]
    return any(name.endswith(_QUERY_END) for name in names) and all(map(_NAME.fullmatch, names))


def read_holidays(source: Path) -> dict[str, RetrievalSet]:
    """The one set, `holidays`; scenes without a query are in the database only (method.md 8, row 56).

    Raises:
        InputError: No pictures, a name that has not six digits, or no query with another picture of its scene.
    """
    pictures = sorted(list_images(picture_folder(source)), key=lambda path: path.stem)
    foreign = next((path for path in pictures if not _NAME.fullmatch(path.stem)), None)
    if foreign is not None:
        message = f"{foreign} is no picture of Holidays: expected names of six digits, such as 100000.jpg"
        raise InputError(message)
    scenes = [list(scene) for _, scene in groupby(pictures, key=lambda path: path.stem[:_SCENE_DIGITS])]
    queries = [_query(image, scene) for scene in scenes for image in scene if image.stem.endswith(_QUERY_END)]
    return {"holidays": scored_set("holidays", pictures, queries, PROTOCOL)}


def _query(image: Path, scene: list[Path]) -> Query:
    return Query(image.stem, image, frozenset(scene) - {image}, frozenset({image}))
