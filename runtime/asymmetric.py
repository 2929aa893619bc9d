"""References described by a heavy model, asked for by a light one: only where the light one learnt from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from deepir.descriptors import Descriptors, similarities
from deepir.errors import GateError, InputError
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.items import Item
from deepir.runtime.pictures import read_picture, read_view
from deepir.runtime.progress import Advance
from deepir.runtime.threshold import Threshold, threshold_from_queries

_T = TypeVar("_T")

MOST_PICTURES = 256
FEWEST_PICTURES = 8

MOST_ASKED = 2000
"""Stored pictures that the student describes for the threshold; of 2,000 labels one in a hundred is 20."""

_LEAST_FOUND = 0.85
"""Photographs on which asymmetric search kept what the student has alone had 94 % or more, those on which it lost a
third or more had 76 % or less, models that never met 3 % (docs/benchmarks.md).

The mean cosine tells nothing: it was 0.47 on photographs of the first kind, up to 0.75 on the second, and 0.77 between
two models that never met and have no whitening.
"""

_LOOK_ALIKE = 0.02
"""A picture that comes first by so little of the way from the others to the right one may be of the same sight."""

_LABELS_ASKED = 3


@dataclass(frozen=True, slots=True)
class Compatibility:
    """How well one model's descriptors find those that another made of the same pictures.

    Attributes:
        found: Share of the pictures that find themselves, 0..1: no other comes first, or by no more than 2 % of how
            far the right one is above the mean of the others.
        cosine: Mean similarity of the two descriptors of a picture, -1..1.
        others: Mean similarity to the other pictures.
        pictures: How many were described by both.
    """

    found: float
    cosine: float
    others: float
    pictures: int

    @property
    def passed(self) -> bool:
        """Whether references of the one may be asked for with the other."""
        return self.found >= _LEAST_FOUND

    def __str__(self) -> str:
        return (
            f"of {self.pictures} pictures {self.found:.1%} find themselves (limit {_LEAST_FOUND:.0%}), "
            f"mean cosine {self.cosine:.3f}, {self.others:.3f} with others"
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
    count = len(similarity_nn)
    own_n = np.diag(similarity_nn)
    others_n = (similarity_nn.sum(axis=1) - own_n) / (count - 1)
    found_n = similarity_nn.max(axis=1) - own_n <= _LOOK_ALIKE * (own_n - others_n)
    return Compatibility(float(found_n.mean()), float(own_n.mean()), float(others_n.mean()), count)


def check_compatible(
    student: Extractor, teacher: Extractor, pictures: Sequence[Path], *, skip_unreadable: bool = False
) -> Compatibility:
    """Describe up to MOST_PICTURES with both models and refuse a pair that does not fit together.

    A student follows its teacher on pictures like those that it learnt from; on others it may be better alone, and
    then the pair is refused too.

    Raises:
        GateError: The student's descriptors do not find the teacher's.
        InputError: Too few pictures, or one that cannot be read and must not be left out.
    """
    if student.spec.dim != teacher.spec.dim:
        message = (
            f"the student gives {student.spec.dim} values and the teacher {teacher.spec.dim}: "
            "references can be described only by the teacher that the student learnt from"
        )
        raise GateError(message)
    rows = _spread(len(pictures), MOST_PICTURES)
    given = (read_picture(pictures[row], skip_unreadable=skip_unreadable) for row in rows)
    images = (image for image in given if image is not None)
    described = [(student.describe(batch), teacher.describe(batch)) for batch in _batches(images, student.batch_size)]
    empty_nd = np.empty((0, student.spec.dim), np.float32)
    queries, references = zip((empty_nd, empty_nd), *described, strict=True)
    result = compare(np.concatenate(queries), np.concatenate(references))
    if not result.passed:
        message = (
            f"the student does not find what the teacher described ({result}): was it distilled from that teacher, on "
            "pictures like these? build without --with, or distil it with such pictures"
        )
        raise GateError(message)
    return result


def fit_threshold_to_student(
    index: Index, student: Extractor, index_path: Path, far: float, advance: Advance = lambda _done: None
) -> Threshold | None:
    """Compute the threshold of an index that a teacher's descriptors are in, and keep it.

    The student describes up to MOST_ASKED of the stored pictures, and each is compared with the other labels, as
    something unknown would be. The stored views themselves resemble each other so much more that a threshold from them
    let nothing pass, known or unknown (docs/benchmarks.md). Unlike that one it stays when views are added or removed.

    Args:
        index: Opened to be changed, or never saved.
        student: Of the model that describes queries.
        index_path: Where the index lies or will lie: pictures are found from there.
        far: Wanted share of false accepts, between 0 and 1.
        advance: Told how many pictures were done.

    Returns:
        None with fewer than two labels; then nothing changed.

    Raises:
        IndexModelError: The student does not describe the index's queries.
        InputError: Neither a picture nor a small copy of it is there.
        OptionError: `far` is not a share, or the index was opened only for reading.
    """
    index.check_model(student.card)
    labels = len(index.labels)
    if labels < 2:
        return None
    items = list(index.items())
    asked = [items[row] for row in _spread(len(items), MOST_ASKED)]
    best = []
    for batch in _batches(iter(asked), student.batch_size):
        queries_nd = student.describe([read_view(item, index_path) for item in batch])
        best += [_best_other(index, query_1d, item) for query_1d, item in zip(queries_nd, batch, strict=True)]
        advance(len(batch))
    threshold = threshold_from_queries(np.array(best, np.float32), [item.label for item in asked], far, labels)
    index.set(threshold=threshold, far=far)
    return threshold


def _best_other(index: Index, query_1d: Descriptors, item: Item) -> float:
    hits = index.search_labels(query_1d, _LABELS_ASKED)
    return max(hit.similarity for hit in hits if hit.label != item.label)


def _spread(count: int, most: int) -> list[int]:
    rows = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    return [int(row) for row in np.unique(rows)]


def _batches(given: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while batch := list(islice(given, size)):
        yield batch
