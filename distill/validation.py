"""Labels that are held out of a training, and how well the network finds their pictures."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deepir.datasets import LabelledImage
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe_files
from deepir.distill.epochs import Figures
from deepir.errors import InputError
from deepir.retrieval_set import Query, scored_set
from deepir.score import score

_PROTOCOL = "every picture is a query for the others of its label, its own image takes no rank"
_NAMED = 3
_FEWEST_LABELS = 2


def with_partners(images: Sequence[LabelledImage], report: Callable[[str], None]) -> list[LabelledImage]:
    """The pictures whose label has a second one; says how many are left out.

    Raises:
        InputError: Fewer than two labels are left.
    """
    counts = Counter(image.label for image in images)
    alone = sorted(label for label, count in counts.items() if count == 1)
    kept = [image for image in images if counts[image.label] > 1]
    if alone:
        names = ", ".join(alone[:_NAMED]) + (", ..." if len(alone) > _NAMED else "")
        report(f"left out {len(alone)} of {len(counts)} labels, which have one picture only: {names}")
    if len(counts) - len(alone) < _FEWEST_LABELS:
        names = ", ".join(sorted(set(counts) - set(alone))) or "none"
        message = (
            f"training needs pictures of two labels or more, got {len(counts) - len(alone)}: {names}; "
            "each label needs two pictures or more"
        )
        raise InputError(message)
    return kept


def split_labels(
    images: Sequence[LabelledImage], share: float, seed: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """The pictures to train on, and those of a share of the labels, drawn with the seed, which are held out.

    Raises:
        InputError: Fewer than two labels on a side.
    """
    labels = sorted({image.label for image in images})
    count = max(_FEWEST_LABELS, round(share * len(labels))) if share else 0
    if len(labels) - count < _FEWEST_LABELS:
        message = f"holding out {count} of {len(labels)} labels leaves fewer than two to train on: add labels"
        raise InputError(message)
    drawn = {labels[row] for row in np.random.default_rng(seed).permutation(len(labels))[:count]}
    return [image for image in images if image.label not in drawn], [image for image in images if image.label in drawn]


def validation_of(model: Model, images: Sequence[LabelledImage]) -> Callable[[], Figures]:
    """What scores the network as it is on labelled pictures: mAP and recall at 1, each 0..1.

    It leaves the network in evaluation mode.
    """
    of_label: dict[str, set[Path]] = defaultdict(set)
    for image in images:
        of_label[image.label].add(image.path)
    paths = list(dict.fromkeys(image.path for image in images))
    queries = [
        Query(str(image.path), image.path, frozenset(of_label[image.label] - {image.path}), frozenset({image.path}))
        for image in images
    ]
    held_out = scored_set("held out", paths, queries, _PROTOCOL)

    def validate() -> Figures:
        model.network.eval()
        database_nd = np.concatenate(list(describe_files(model, held_out.database)))
        row_of = {path: row for row, path in enumerate(held_out.database)}
        found = score(held_out, database_nd[[row_of[query.image] for query in held_out.queries]], database_nd)
        return {"mAP": found.mean_ap, "recall@1": found.recall_at[1]}

    return validate
