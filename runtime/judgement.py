"""What one image shows, and when the views found for it count as an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepir.errors import OptionError
from deepir.label_tree import common_ancestor
from deepir.runtime.index import Index
from deepir.runtime.items import Metadata
from deepir.runtime.label_search import TIE, Hit
from deepir.runtime.pictures import THUMBNAIL
from deepir.runtime.vote import Status

TOP_LABELS = 5

_GROWTH = 4
"""An answer that may be one of so many labels that more might be is searched again for so many times as many."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one image shows.

    Attributes:
        status: `unknown` when the best similarity is below the threshold; `ambiguous` when the second label is nearer
            than the margin, so that the two cannot be told apart; else `match`.
        label: Of a match. Of an ambiguous answer what its labels have in common (`brand/product` of
            `brand/product/500g` and `brand/product/1kg`), None where that is nothing; None when unknown.
        similarity: Of the best view, -1..1; 0 for an empty index or a picture without direction.
        margin: How far the second label is behind, 0..2; None when there is none.
        top: The best labels with the similarity of their best view, best first.
        milliseconds: Time spent in `prepare`, `describe` and `search`.
        candidates: The labels that it may be, best first: one of a match, more when ambiguous, none when unknown.
        hit: The most similar view with its metadata; None for an empty index or a picture
            without direction.
    """

    status: Status
    label: str | None
    similarity: float
    margin: float | None
    top: tuple[tuple[str, float], ...]
    milliseconds: dict[str, float]
    candidates: tuple[str, ...] = ()
    hit: Hit | None = None

    @property
    def metadata(self) -> Metadata:
        """What its owner stored with the most similar view."""
        return {} if self.hit is None else owners_metadata(self.hit.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """When an answer counts.

    Attributes:
        threshold: Least similarity, -1..1; `auto` is the one stored in the index.
        margin: Least distance to the second label, 0..1; `auto` is the one stored in the index; 0 for never ambiguous.
        top_labels: How many labels each answer lists.

    Raises:
        OptionError: A value out of range, or of another type.
    """

    threshold: float | Literal["auto"] = "auto"
    margin: float | Literal["auto"] = "auto"
    top_labels: int = TOP_LABELS

    def __post_init__(self) -> None:
        if self.threshold != "auto" and not _lies_between(-1, self.threshold, 1):
            message = f"the threshold must be auto or between -1 and 1, got {self.threshold!r}"
            raise OptionError(message)
        if self.margin != "auto" and not _lies_between(0, self.margin, 1):
            message = f"the margin must be auto or between 0 and 1, got {self.margin!r}"
            raise OptionError(message)
        if not isinstance(self.top_labels, Integral) or self.top_labels < 1:
            message = f"the number of labels to list must be 1 or more, got {self.top_labels!r}"
            raise OptionError(message)

    def threshold_of(self, index: Index) -> float | None:
        """The threshold for this index; None when it has fewer than two labels: then all is known."""
        if self.threshold != "auto":
            return float(self.threshold)
        return None if index.threshold is None else index.threshold.value

    def margin_of(self, index: Index) -> float:
        """The margin for this index."""
        return index.margin if self.margin == "auto" else float(self.margin)

    def search(self, query_1d: NDArray[np.float32], index: Index) -> list[Hit]:
        """The best view of each of the best labels: as many as are listed, and enough to judge by.

        That is two, so that there is a margin, and all within the margin as long as they share a branch: what they have
        in common must not depend on how many are listed.
        """
        wanted, margin = max(2, self.top_labels), self.margin_of(index)
        while True:
            hits = index.search_labels(query_1d, wanted)
            more = margin > 0 and len(hits) == wanted and hits[-1].similarity > hits[0].similarity - margin - TIE
            if not more or common_ancestor(_candidates(hits, margin)) is None:
                return hits
            wanted *= _GROWTH

    def judge(self, hits: Sequence[Hit], index: Index, milliseconds: dict[str, float]) -> Recognition:
        """The answer that the best view of each label, best first, gives."""
        threshold, margin = self.threshold_of(index), self.margin_of(index)
        similarity = hits[0].similarity if hits else 0.0
        known = bool(hits) and (threshold is None or similarity >= threshold)
        candidates = _candidates(hits, margin) if known else ()
        return Recognition(
            status="unknown" if not known else "match" if len(candidates) == 1 else "ambiguous",
            label=common_ancestor(candidates),
            similarity=similarity,
            margin=max(0.0, similarity - hits[1].similarity) if len(hits) > 1 else None,
            top=tuple((hit.label, hit.similarity) for hit in hits[: self.top_labels]),
            milliseconds=milliseconds,
            candidates=candidates,
            hit=hits[0] if hits else None,
        )


def _lies_between(least: float, value: object, most: float) -> bool:
    return isinstance(value, Real) and least <= float(value) <= most


def owners_metadata(metadata: Metadata) -> Metadata:
    """What the owner of an index stored with a view: without the name of the small copy, which is deepir's own."""
    return {name: value for name, value in metadata.items() if name != THUMBNAIL}


def _candidates(hits: Sequence[Hit], margin: float) -> tuple[str, ...]:
    """The first label, and those that are nearer to it than the margin.

    A label that lost a tie by its other views may have the more similar best view, even without a margin.
    """
    near = [hit for hit in hits[1:] if margin > 0 and hit.similarity > hits[0].similarity - margin]
    return tuple(hit.label for hit in (hits[0], *near))
