"""From similar views to labels: each label by its best view, near ties by the mean of the best three."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepir.runtime.items import Metadata

TIE = 0.005
"""Labels whose best views are this near to each other are as good as equal: codes alone move a similarity by 0.002."""

_VIEWS = 3
_DIGITS = 6
_FIRST = 8
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored view that resembles the query; similarity is 1 for the same descriptor, 0 for unrelated ones.

    Attributes:
        key: Of the view.
        label: What it shows.
        view: The name of its picture.
        similarity: -1..1.
        metadata: What was stored with it.
    """

    key: int
    label: str
    view: str
    similarity: float
    metadata: Metadata = field(default_factory=dict)


def best_of_labels(search: Callable[[int], list[Hit]], total: int, count: int) -> list[Hit]:
    """The best view of each of the `count` labels that come first in `search`, which gives so many hits, best first.

    Args:
        search: From a number of hits to hits.
        total: How many views there are.
        count: Labels.
    """
    wanted = _FIRST * count
    while True:
        best: dict[str, Hit] = {}
        for hit in search(min(wanted, total)):
            best.setdefault(hit.label, hit)
        if len(best) >= count or wanted >= total:
            return list(best.values())[:count]
        wanted *= _GROWTH


def settle_ties(hits: Sequence[Hit], similarities_of: Callable[[str], NDArray[np.float32]]) -> list[Hit]:
    """Labels within TIE of the best of them ordered by the mean similarity of their best views.

    As many views count, at most three, as the label with the fewest of them has, so that more views alone neither help
    nor harm.

    Args:
        hits: The best view of each label, best first.
        similarities_of: From a label to the similarities of all its views with the query.
    """
    ordered: list[Hit] = []
    rest = list(hits)
    while rest:
        tied = [hit for hit in rest if hit.similarity >= rest[0].similarity - TIE]
        rest = rest[len(tied) :]
        if len(tied) > 1:
            views = [np.sort(similarities_of(hit.label))[::-1][:_VIEWS] for hit in tied]
            fewest = min(map(len, views))
            # rounded, so that equal means are equal however they were added up
            means = [round(float(best[:fewest].mean()), _DIGITS) for best in views]
            tied = [tied[place] for place in np.argsort([-mean for mean in means], kind="stable")]
        ordered += tied
    return ordered
