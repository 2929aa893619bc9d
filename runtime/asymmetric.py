"""References described by a heavy model, asked for by a light one: only where the light one learnt from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors, similarities
from deepir.errors import GateError, InputError
from deepir.image import Image
from deepir.runtime.extractor import Extractor
from deepir.runtime.pictures import read_picture

MOST_PICTURES = 256
FEWEST_PICTURES = 8

_LEAST_COSINE = 0.5
_LEAST_FOUND = 0.9
"""Limits: descriptors of models that never met have cosines around 0, and find the right picture one time in N; without
any whitening cosines around 0.8, and one time in four. A student that learnt finds nearly all, noisy as it may be."""

_LOOK_ALIKE = 0.02
"""Pictures of things that look alike may come first by so little."""


@dataclass(frozen=True, slots=True)
class Compatibility:
    """How well one model's descriptors find those that another made of the same pictures.

    Attributes:
        cosine: Mean similarity of the two descriptors of a picture, -1..1.
        found: Share of pictures whose query comes no more than 0.02 behind the best of all references, 0..1.
        pictures: How many were described by both.
    """

    cosine: float
    found: float
    pictures: int

    @property
    def passed(self) -> bool:
        """Whether references of the one may be asked for with the other."""
        return self.cosine >= _LEAST_COSINE and self.found >= _LEAST_FOUND

    def __str__(self) -> str:
        return (
            f"on {self.pictures} pictures mean cosine {self.cosine:.3f} (limit {_LEAST_COSINE}), "
            f"{self.found:.1%} find themselves (limit {_LEAST_FOUND:.0%})"
        )


def compare(queries_nd: Descriptors, references_nd: Descriptors) -> Compatibility:
    """Compare the descriptors (N, D) that two models made of the same pictures.

    Raises:
        InputError: Fewer than FEWEST_PICTURES.
        ShapeError: Different dimensions.
    """
    if len(queries_nd) < FEWEST_PICTURES:
        message = (
            f"{len(queries_nd)} pictures are too few to tell whether two models fit together, "
            f"{FEWEST_PICTURES} are needed: enrol more, or build without --with"
        )
        raise InputError(message)
    similarity_nn = similarities(queries_nd, references_nd)
    own_n = np.diag(similarity_nn)
    found = own_n >= similarity_nn.max(axis=1) - _LOOK_ALIKE
    return Compatibility(float(own_n.mean()), float(found.mean()), len(own_n))


def check_compatible(
    student: Extractor, teacher: Extractor, pictures: Sequence[Path], *, skip_unreadable: bool = False
) -> Compatibility:
    """Describe up to MOST_PICTURES with both models and refuse a pair that does not fit together.

    Raises:
        GateError: The student's descriptors do not find the teacher's: it was not distilled from that teacher.
        InputError: Too few pictures, or one that cannot be read and must not be left out.
    """
    if student.spec.dim != teacher.spec.dim:
        message = (
            f"the student gives {student.spec.dim} values and the teacher {teacher.spec.dim}: "
            "references can be described only by the teacher that the student learnt from"
        )
        raise GateError(message)
    rows = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_PICTURES)).round().astype(int))
    given = (read_picture(pictures[row], skip_unreadable=skip_unreadable) for row in rows)
    images = (image for image in given if image is not None)
    described = [(student.describe(batch), teacher.describe(batch)) for batch in _batches(images, student.batch_size)]
    empty_nd = np.empty((0, student.spec.dim), np.float32)
    queries, references = zip((empty_nd, empty_nd), *described, strict=True)
    result = compare(np.concatenate(queries), np.concatenate(references))
    if not result.passed:
        message = (
            f"the student does not find what the teacher described ({result}): was it distilled from that teacher? "
            "build without --with, or distil it from this teacher"
        )
        raise GateError(message)
    return result


def _batches(images: Iterator[Image], size: int) -> Iterator[list[Image]]:
    while batch := list(islice(images, size)):
        yield batch
