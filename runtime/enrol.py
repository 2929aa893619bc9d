"""A folder of pictures becomes the views of an index."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from deepir.datasets import LabelledImage
from deepir.descriptors import Descriptors
from deepir.errors import InputError, OptionError
from deepir.image import Image, list_images
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.index_whitening import WhitenConfig
from deepir.runtime.items import Metadata
from deepir.runtime.pictures import (
    THUMBNAIL,
    check_side,
    encode_thumbnail,
    find_pictures,
    keep_thumbnail,
    read_picture,
    source_text,
)
from deepir.runtime.progress import Advance
from deepir.runtime.view_filter import Glance, Stored, blurred, glance_at, repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What becomes of the pictures.

    Attributes:
        index_path: Where the index lies or will lie: pictures are named from there, and small copies kept there.
        keep_all: Also pictures that show the same as another of their label, or are far less sharp.
        skip_unreadable: Leave out pictures that cannot be decoded.
        thumbnails: Longest side in pixels of the copies kept beside the index; None for no copies.
        whiten: The map to fit on these pictures first; the index must be empty.
        metadata: Stored with every view.

    Raises:
        OptionError: A size at which nothing can be seen.
    """

    index_path: Path
    keep_all: bool = False
    skip_unreadable: bool = False
    thumbnails: int | None = None
    whiten: WhitenConfig | None = None
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.thumbnails is not None:
            check_side(self.thumbnails)


@dataclass(slots=True)
class Enrolled:
    """What became of them.

    Attributes:
        keys: Of the new views.
        unreadable, repeated, blurred: Pictures that were left out.
    """

    keys: list[int] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)
    blurred: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Described:
    image: LabelledImage
    descriptor_1d: Descriptors
    glance: Glance | None
    thumbnail: bytes | None


def find_labelled_images(folder: Path, pattern: str | None = None) -> list[LabelledImage]:
    """Every picture below a folder with its label.

    The label is the path of its folder, `brand/product` too, and the file's stem directly in `folder`; with a
    pattern it is the pattern's first group, searched in the file name.

    Raises:
        InputError: The folder is missing or empty, or a name does not match.
        OptionError: The pattern is not a regular expression with a group.
    """
    expression = _compile(pattern) if pattern is not None else None
    return [LabelledImage(path, _label(path, folder, expression)) for path in list_images(folder)]


def enrol(
    index: Index,
    extractor: Extractor,
    images: Sequence[LabelledImage],
    enrolment: Enrolment,
    advance: Advance = lambda _done: None,
) -> Enrolled:
    """Describe the pictures and add them to the index; say what was left out.

    Raises:
        InputError: A picture cannot be read and `skip_unreadable` is off, or none could be read at all.
        ShapeError: A picture without content (blank) has no direction, or there are too few to whiten with.
    """
    work = _Work(index, extractor, enrolment, advance)
    described = work.described(images)
    if enrolment.whiten is not None:
        described = iter(kept := list(described))
        photographs = [work.descriptors(group) for group in enrolment.whiten.photographs]
        references = np.stack([picture.descriptor_1d for picture in kept])
        index.whiten(enrolment.whiten.fit([references, *photographs], extractor.spec))
    for label, group in groupby(described, key=lambda picture: picture.image.label):
        work.add(label, list(group))
    return work.done


class _Work:
    """Reads, describes and adds pictures, and remembers what it left out."""

    def __init__(self, index: Index, extractor: Extractor, enrolment: Enrolment, advance: Advance) -> None:
        self.done = Enrolled()
        self._index = index
        self._extractor = extractor
        self._enrolment = enrolment
        self._advance = advance

    def described(self, images: Sequence[LabelledImage]) -> Iterator[_Described]:
        """The readable pictures one after the other, with the model's descriptors."""
        before, given = len(self.done.unreadable), 0
        for start in range(0, len(images), self._extractor.batch_size):
            batch = images[start : start + self._extractor.batch_size]
            readable = self._read(batch)
            if readable:
                descriptors_nd = self._extractor.describe([pixels for _, pixels in readable])
                self._index.check(descriptors_nd, [image.path.name for image, _ in readable])
                for (image, pixels), descriptor_1d in zip(readable, descriptors_nd, strict=True):
                    yield self._looked_at(image, pixels, descriptor_1d)
            self._advance(len(batch))
            given += len(readable)
        if images and not given:
            tried = len(self.done.unreadable) - before
            message = f"none of the {tried} pictures can be decoded, the first is {images[0].path}"
            raise InputError(message)

    def descriptors(self, paths: Sequence[Path]) -> Descriptors:
        """The descriptors of photographs, (N, D)."""
        return np.stack(
            [picture.descriptor_1d for picture in self.described([LabelledImage(path, "") for path in paths])]
        )

    def add(self, label: str, group: list[_Described]) -> None:
        """Add the pictures of a label that are worth it."""
        group = group if self._enrolment.keep_all else self._sifted(label, group)
        if not group:
            return
        path = self._enrolment.index_path
        names = [None if one.thumbnail is None else keep_thumbnail(path, one.thumbnail) for one in group]
        metadata = [{**self._enrolment.metadata, **({THUMBNAIL: name} if name else {})} for name in names]
        sources = [source_text(one.image.path, path) for one in group]
        descriptors_nd = np.stack([one.descriptor_1d for one in group])
        self.done.keys += self._index.add(label, descriptors_nd, sources, metadata=metadata)

    def _sifted(self, label: str, group: list[_Described]) -> list[_Described]:
        glances = [one.glance for one in group if one.glance is not None]
        dull = set(blurred(glances))
        self.done.blurred += [group[row].image.path for row in sorted(dull)]
        group = [one for row, one in enumerate(group) if row not in dull]
        glances = [one.glance for one in group if one.glance is not None]
        stored_nd = self._index.mapped(np.stack([one.descriptor_1d for one in group]))
        again = set(repeated(glances, stored_nd, self._stored(label)))
        self.done.repeated += [group[row].image.path for row in sorted(again)]
        return [one for row, one in enumerate(group) if row not in again]

    def _stored(self, label: str) -> Stored | None:
        items = self._index.views_of(label)
        if not items:
            return None
        descriptors_nd = self._index.descriptors([item.key for item in items])
        path = self._enrolment.index_path
        return Stored(descriptors_nd, lambda row: next(iter(find_pictures(items[row], path)), None))

    def _looked_at(self, image: LabelledImage, pixels: Image, descriptor_1d: Descriptors) -> _Described:
        side = self._enrolment.thumbnails
        glance = None if self._enrolment.keep_all else glance_at(pixels)
        return _Described(image, descriptor_1d, glance, None if side is None else encode_thumbnail(pixels, side))

    def _read(self, batch: Sequence[LabelledImage]) -> list[tuple[LabelledImage, Image]]:
        readable = []
        for image in batch:
            pixels = read_picture(image.path, skip_unreadable=self._enrolment.skip_unreadable)
            if pixels is None:
                self.done.unreadable.append(image.path)
            else:
                readable.append((image, pixels))
        return readable


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        message = f"--label-pattern {pattern!r} is not a regular expression: {error}"
        raise OptionError(message) from error
    if expression.groups < 1:
        message = f"--label-pattern {pattern!r} has no group: put the label in brackets, for example '^(.+?)__'"
        raise OptionError(message)
    return expression


def _label(path: Path, folder: Path, expression: re.Pattern[str] | None) -> str:
    if expression is None:
        inside = path.parent.relative_to(folder).as_posix()
        return path.stem if inside == "." else inside
    match = expression.search(path.name)
    if match is None or not match[1]:
        message = f"{path.name} does not match --label-pattern {expression.pattern!r}: it has no label"
        raise InputError(message)
    return match[1]
