"""Pictures of an inbox get their labels: they become views of the index and move to the folder of what is done."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deepir.datasets import LabelledImage
from deepir.errors import InputError
from deepir.runtime.enrol import Enrolment, enrol
from deepir.runtime.extractor import Extractor
from deepir.runtime.inbox import DONE
from deepir.runtime.index import Index
from deepir.runtime.progress import Advance


@dataclass(frozen=True, slots=True)
class NamedLabel:
    """What became of the pictures of one label.

    Attributes:
        label: Theirs.
        new: Whether the index had no view of it before.
        views: How many became views.
        repeated, blurred: How many were not worth a view (see `deepir.runtime.view_filter`); they moved all the same.
    """

    label: str
    new: bool
    views: int
    repeated: int
    blurred: int


@dataclass(slots=True)
class Named:
    """What became of the pictures.

    Attributes:
        labels: Each in turn.
        moved: From where each picture went, inside the inbox.
        missing: Pictures that were not there any more.
        unreadable: Files that are no pictures; they stayed.
    """

    labels: list[NamedLabel] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def name_pictures(
    index: Index,
    extractor: Extractor,
    enrolment: Enrolment,
    inbox: Path,
    label_of: Mapping[str, str],
    advance: Advance = lambda _done: None,
) -> Named:
    """Add pictures to an index label by label, and move them to `<inbox>/done/<label>/`; nothing is deleted.

    Each label is added as a whole or not at all, and its pictures move when the disk has it. Whatever happens, a
    picture is in the inbox or among what is done.

    Args:
        index: Opened with `write=True`.
        extractor: Of the model that describes stored pictures.
        enrolment: What becomes of pictures; files that are none stay in the inbox.
        inbox: The folder.
        label_of: From paths inside the inbox to labels.
        advance: Told how many pictures were done.

    Raises:
        InputError: None of the pictures is there, or something cannot be read or moved.
        ShapeError: A blank picture; nothing of its label was added.
    """
    index.check_model(extractor.card, references=True)
    named = Named()
    by_label: dict[str, list[str]] = {}
    for picture, label in label_of.items():
        if (inbox / picture).is_file():
            by_label.setdefault(label, []).append(picture)
        else:
            named.missing.append(picture)
    if not by_label:
        message = f"none of the {len(label_of)} pictures is in {inbox} any more, the first is {next(iter(label_of))}"
        raise InputError(message)
    for label, pictures in by_label.items():
        new, before = label not in index.labels, index.newest_key
        copies: dict[str, Path] = {}
        try:
            for picture in pictures:
                copies[picture] = _put_beside(inbox / picture, inbox / DONE / label)
            images = [LabelledImage(copy, label) for copy in copies.values()]
            done = enrol(index, extractor, images, replace(enrolment, skip_unreadable=True), advance)
        except BaseException:
            # what the index has already keeps its pictures, also when Ctrl-C comes just then
            _take_back(copies.values() if index.newest_key == before else ())
            raise
        named.labels.append(NamedLabel(label, new, len(done.keys), len(done.repeated), len(done.blurred)))
        _move(inbox, copies, done.unreadable, named)
    return named


def _move(inbox: Path, copies: Mapping[str, Path], unreadable: Sequence[Path], named: Named) -> None:
    _take_back(unreadable)
    for picture, copy in copies.items():
        if copy in unreadable:
            named.unreadable.append(inbox / picture)
        else:
            (inbox / picture).unlink()
            named.moved.append(picture)


def _put_beside(picture: Path, folder: Path) -> Path:
    """A second name for a picture in another folder, under a name that is free there."""
    number = 1
    target = folder / picture.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while os.path.lexists(target):
            number += 1
            target = folder / f"{picture.stem}-{number}{picture.suffix}"
        if picture.is_symlink():
            target.symlink_to(picture.resolve())
        else:
            _link(picture, target)
    except OSError as error:
        message = f"cannot move {picture} to {target}: {error.strerror}"
        raise InputError(message) from error
    return target


def _link(picture: Path, target: Path) -> None:
    try:
        os.link(picture, target)
    except OSError:
        # memory cards and some network folders know no second names
        shutil.copy2(picture, target)


def _take_back(copies: Iterable[Path]) -> None:
    for copy in copies:
        copy.unlink(missing_ok=True)
