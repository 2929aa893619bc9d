"""Pictures that an index is asked about, described some at a time, the blank ones told apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.image import Image, read_image
from deepir.runtime.extractor import Extractor
from deepir.runtime.progress import Advance

AT_ONCE = 256
"""Pictures whose descriptors are held at once."""

_SHORTEST = 0.5
"""A descriptor has length 1, or 0 where the picture had no direction at all."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryPictures:
    """Some pictures, each in one of three lists.

    Attributes:
        paths: Those that were described.
        descriptors_nd: (N, D) of them, each of length 1.
        blank: Pictures without any direction.
        unreadable: Files that cannot be decoded; none unless they may be left out.
    """

    paths: list[Path]
    descriptors_nd: Descriptors
    blank: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def describe_pictures(
    extractor: Extractor,
    paths: Sequence[Path],
    advance: Advance = lambda _done: None,
    *,
    skip_unreadable: bool = False,
) -> Iterator[QueryPictures]:
    """Describe files in their order, at most AT_ONCE at a time.

    Args:
        extractor: Of the model that describes queries.
        paths: Files.
        advance: Told how many were done.
        skip_unreadable: Leave out what cannot be decoded, and say so.

    Raises:
        InputError: A file cannot be decoded and must not be left out.
    """
    for start in range(0, len(paths), AT_ONCE):
        part = list(paths[start : start + AT_ONCE])
        unreadable: list[Path] = []
        if skip_unreadable:
            readable, descriptors_nd = _describe_readable(extractor, part)
            unreadable = [path for path in part if path not in set(readable)]
        else:
            readable, descriptors_nd = part, extractor.describe_files(part)
        blank_n = np.linalg.norm(descriptors_nd, axis=1) < _SHORTEST
        yield QueryPictures(
            [path for path, blank in zip(readable, blank_n, strict=True) if not blank],
            descriptors_nd[~blank_n],
            [path for path, blank in zip(readable, blank_n, strict=True) if blank],
            unreadable,
        )
        advance(len(part))


def describe_together(
    extractor: Extractor,
    paths: Sequence[Path],
    advance: Advance = lambda _done: None,
    *,
    skip_unreadable: bool = False,
) -> QueryPictures:
    """All of `describe_pictures` at once."""
    parts = list(describe_pictures(extractor, paths, advance, skip_unreadable=skip_unreadable))
    empty_nd = np.empty((0, extractor.spec.dim), np.float32)
    return QueryPictures(
        [path for part in parts for path in part.paths],
        np.concatenate([empty_nd, *(part.descriptors_nd for part in parts)]),
        [path for part in parts for path in part.blank],
        [path for part in parts for path in part.unreadable],
    )


def _describe_readable(extractor: Extractor, paths: Sequence[Path]) -> tuple[list[Path], Descriptors]:
    readable: list[Path] = []
    described = [np.empty((0, extractor.spec.dim), np.float32)]
    for start in range(0, len(paths), extractor.batch_size):
        images: list[Image] = []
        for path in paths[start : start + extractor.batch_size]:
            try:
                images.append(read_image(path))
            except InputError:
                continue
            readable.append(path)
        described.append(extractor.describe(images))
    return readable, np.concatenate(described)
