"""Where a collection's pictures come from: a folder of label folders, or lists of "path label" lines."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from deepir.datasets import LabelledImage, read_labelled_folder
from deepir.errors import InputError, OptionError

MISSING = "missing"
BROKEN = "broken"
UNREADABLE = "unreadable"
TOO_SMALL = "too small"
OUTSIDE = "labels outside the limits"
"""Why pictures (or labels) are left out; the names are those of the manifest."""

_PART_OF_LABEL = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*")


class Labelled(Protocol):
    """Anything with a label: a picture on the disk, or one that is still to be fetched."""

    @property
    def label(self) -> str: ...


_T = TypeVar("_T", bound=Labelled)


@dataclass(frozen=True, slots=True)
class Listing:
    """Pictures to collect.

    Attributes:
        root: What the pictures' names are seen from.
        images: The pictures, each a file that is there.
        left_out: What was left out before the first one is opened: a reason (`missing`, `broken`), and names.
        walked: Whether the pictures are all that was found below the root, an output of ours too if it were there.
    """

    root: Path
    images: tuple[LabelledImage, ...]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    walked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLimits:
    """Labels with fewer or more pictures than this are left out; `most` None sets no upper limit.

    Raises:
        OptionError: No number of pictures lies between the two.
    """

    fewest: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if self.fewest < 1 or (self.most is not None and self.most < self.fewest):
            message = f"a label needs 1 or more pictures and no more than the most, got {self.fewest} to {self.most}"
            raise OptionError(message)

    @property
    def lower(self) -> "ClassLimits":
        """The lower limit alone."""
        return ClassLimits(fewest=self.fewest)

    def split(self, pictures: Sequence[_T]) -> tuple[list[_T], list[str]]:
        """The pictures whose label has a number of pictures within the limits, and the labels outside them, sorted."""
        counts = Counter(picture.label for picture in pictures)
        most = len(pictures) if self.most is None else self.most
        outside = {label for label, count in counts.items() if not self.fewest <= count <= most}
        return [picture for picture in pictures if picture.label not in outside], sorted(outside)


def read_listing(source: Path, lists: Sequence[Path] = ()) -> Listing:
    """The pictures of a folder of label folders, or those that "path label" lists name (method.md 8, rows 35 and 50).

    Args:
        source: The folder; or a list, whose paths are seen from its own folder.
        lists: Lists whose paths are seen from the folder `source`. Files that are not there are counted as `missing`.

    Raises:
        InputError: Nothing there, a line without a label, a label that cannot be a folder's name, or all files missing.
        OptionError: `lists` beside a source that is a list itself.
    """
    if source.is_dir() and not lists:
        listing = Listing(source, tuple(read_labelled_folder(source)), walked=True)
    elif source.is_dir():
        listing = _listed(source, lists)
    elif lists:
        message = f"--lists names pictures of a folder, and {source} is not a folder: give the folder they lie in"
        raise OptionError(message)
    else:
        listing = _listed(source.parent, [source])
    for label in {image.label for image in listing.images}:
        check_label(label)
    return listing


def check_label(label: str) -> None:
    """Refuse a label that is no folder below the output: `..`, `/etc`, hidden names, control characters.

    Raises:
        InputError: Names the label.
    """
    if not all(_PART_OF_LABEL.fullmatch(part) for part in label.split("/")):
        message = (
            f"the label {label!r} cannot be the name of a folder: "
            "use letters and digits, with / between the folder and the folder in it"
        )
        raise InputError(message)


def _listed(root: Path, lists: Sequence[Path]) -> Listing:
    rows = dict.fromkeys(row for path in lists for row in _read_rows(path))
    images = [LabelledImage(root / name, label) for name, label in rows]
    # os.path, unlike pathlib, takes names that no file can have for missing ones
    missing = [str(image.path) for image in images if not os.path.isfile(image.path)]
    if len(missing) == len(images):
        message = f"none of the {len(images)} pictures that {lists[0]} names is there, the first would be {missing[0]}"
        raise InputError(message)
    absent = set(missing)
    return Listing(root, tuple(image for image in images if str(image.path) not in absent), {MISSING: missing})


def _read_rows(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        message = f"cannot read the list {path}: {error.strerror}"
        raise InputError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path} is neither a folder, a CSV nor a text list: each line of a list is a path and a label"
        raise InputError(message) from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        message = f"the list {path} is empty: each line must be a path and a label"
        raise InputError(message)
    return rows


def _row(path: Path, number: int, line: str) -> tuple[str, str]:
    words = line.rsplit(maxsplit=1)
    if len(words) != 2:
        message = f"line {number} of {path} must be a path and a label, got {line[:80]!r}"
        raise InputError(message)
    return words[0].strip(), words[1]
