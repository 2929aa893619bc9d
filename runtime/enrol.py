"""A folder of pictures becomes the views of an index."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deepir.datasets import LabelledImage
from deepir.descriptors import Descriptors
from deepir.errors import InputError, OptionError
from deepir.image import Image, list_images, read_image
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import DescriptorIndex
from deepir.runtime.index_whitening import WhitenConfig
from deepir.runtime.progress import Advance


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
    index: DescriptorIndex,
    extractor: Extractor,
    images: Sequence[LabelledImage],
    *,
    skip_unreadable: bool = False,
    whiten: WhitenConfig | None = None,
    advance: Advance = lambda _done: None,
) -> list[Path]:
    """Describe the pictures and add them to the index; give those that were skipped.

    With `whiten`, the index's whitening is first fitted on them, and on the photographs that it names.

    Raises:
        InputError: A picture cannot be read and `skip_unreadable` is off, or none could be read at all.
        ShapeError: A picture without content (blank) has no direction, or there are too few to whiten with.
    """
    reading = _Reading(index, extractor, advance, skip_unreadable=skip_unreadable)
    batches = reading.described(images)
    if whiten is not None:
        batches = iter(kept := list(batches))
        photographs = [reading.descriptors([LabelledImage(path, "") for path in group]) for group in whiten.photographs]
        references = np.concatenate([descriptors_nd for _, descriptors_nd in kept])
        index.whiten([references, *photographs], whiten.power_for(extractor.spec), whiten.dim)
    for labelled, descriptors_nd in batches:
        _add(index, labelled, descriptors_nd)
    return reading.skipped


class _Reading:
    """Reads and describes pictures, and remembers which it had to skip."""

    def __init__(
        self, index: DescriptorIndex, extractor: Extractor, advance: Advance, *, skip_unreadable: bool
    ) -> None:
        self.skipped: list[Path] = []
        self._index = index
        self._extractor = extractor
        self._advance = advance
        self._skip_unreadable = skip_unreadable

    def described(self, images: Sequence[LabelledImage]) -> Iterator[tuple[list[LabelledImage], Descriptors]]:
        """A batch of readable pictures at a time, with the model's descriptors."""
        skipped_before = len(self.skipped)
        for start in range(0, len(images), self._extractor.batch_size):
            batch = images[start : start + self._extractor.batch_size]
            readable = _read(batch, self.skipped, skip_unreadable=self._skip_unreadable)
            if readable:
                labelled = [image for image, _ in readable]
                descriptors_nd = self._extractor.describe([pixels for _, pixels in readable])
                self._index.check(descriptors_nd, [str(image.path.name) for image in labelled])
                yield labelled, descriptors_nd
            self._advance(len(batch))
        if len(self.skipped) - skipped_before == len(images):
            message = f"none of the {len(images)} pictures can be decoded, the first is {images[0].path}"
            raise InputError(message)

    def descriptors(self, images: Sequence[LabelledImage]) -> Descriptors:
        """The descriptors of all of them, (N, D)."""
        return np.concatenate([descriptors_nd for _, descriptors_nd in self.described(images)])


def _read(
    batch: Sequence[LabelledImage], skipped: list[Path], *, skip_unreadable: bool
) -> list[tuple[LabelledImage, Image]]:
    readable = []
    for image in batch:
        try:
            readable.append((image, read_image(image.path)))
        except InputError as error:
            if not skip_unreadable:
                message = f"{error}; --skip-unreadable leaves such files out"
                raise InputError(message) from error
            skipped.append(image.path)
    return readable


def _add(index: DescriptorIndex, images: Sequence[LabelledImage], descriptors_nd: Descriptors) -> None:
    for row, image in enumerate(images):
        index.add(image.label, descriptors_nd[row : row + 1], [image.path.name])


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
