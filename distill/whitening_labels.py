"""Labels of pictures, and the whitening that is learned from pairs with the same label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.datasets import read_training_images
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe_files
from deepir.distill.layers import WhiteningLayer
from deepir.distill.whitening import MOST_PICTURES, Groups, Report, name_pictures, spread
from deepir.errors import InputError
from deepir.whitening import fit_learned_whitening

Labels = Mapping[Path, str]
"""What pictures show; those without a label are not in it."""


def read_labels(source: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """The labels of a source's pictures: of a benchmark.json those of `train`, else the folders they lie in.

    Args:
        source: A folder, with a folder for each label or loose pictures, which have no label; or a benchmark.json.
        paths: Its pictures as `read_picture_paths` gives them.
    """
    if source.is_file() or (source / "benchmark.json").is_file():
        return {image.path: image.label for image in read_training_images(source)}
    return {path: path.parent.relative_to(source).as_posix() for path in paths if path.parent != source}


def paired_groups(groups: Groups, labels: Labels) -> list[list[Path]]:
    """Of each group the pictures whose label another picture has too, in any group; at most MOST_PICTURES.

    Where there are more, some labels are left out and of the others some pictures.
    """
    counts = Counter(labels[path] for path in {path for paths in groups for path in paths} if path in labels)
    kept = spread([label for label in sorted(counts) if counts[label] > 1], MOST_PICTURES // 2)
    most = MOST_PICTURES // max(1, len(kept))
    of_label = [_by_label(paths, labels) for paths in groups]
    return [[path for label in kept for path in spread(group.get(label, []), most)] for group in of_label]


def whiten_learned(
    model: Model, groups: Groups, labels: Labels, dim: int | None = None, report: Report = lambda _: None
) -> Model:
    """Learn a projection of whole descriptors from pairs of pictures that show the same (method.md 5, Lw).

    Args:
        model: Its whitening stays; a projection that it has is replaced.
        groups: Pictures; the two of a pair may lie in two groups.
        labels: Pictures without a label are left out.
        dim: Values of the new descriptor; as many as before when None.
        report: Takes a line for people.

    Raises:
        InputError: No two pictures share a label.
        ShapeError: Too few pairs for so many dimensions.
    """
    paired = [paths for paths in paired_groups(groups, labels) if paths]
    paths = list({path: None for group in paired for path in group})
    if not paths:
        message = (
            f"no two of {sum(len(group) for group in groups)} pictures share a label: learned whitening needs a folder "
            "for each label, with several pictures"
        )
        raise InputError(message)
    queries, positives = _pairs(paths, labels)
    report(f"learning from {len(queries)} pairs of {len(paths)} pictures")
    model.network.eval()
    model.network.projection = None
    descriptors_nd = np.concatenate(list(describe_files(model, paths)))
    whitening = fit_learned_whitening(descriptors_nd, queries, positives, dim)
    model.network.projection = WhiteningLayer.of(whitening).to(next(model.network.parameters()).device)
    earlier = model.spec.whitening.partition("; learned")[0]
    learned = f"learned dim {len(whitening.bias_d)} on {len(queries)} pairs of {name_pictures(paired)}"
    return model.sealed(whitening=f"{earlier}; {learned}")


def _by_label(paths: Sequence[Path], labels: Labels) -> dict[str, list[Path]]:
    pictures: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths):
        if path in labels:
            pictures.setdefault(labels[path], []).append(path)
    return pictures


def _pairs(paths: Sequence[Path], labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of every two pictures with the same label."""
    rows = {path: row for row, path in enumerate(paths)}
    pairs = [pair for pictures in _by_label(paths, labels).values() for pair in combinations(pictures, 2)]
    queries, positives = np.array([(rows[one], rows[other]) for one, other in pairs], dtype=np.intp).T
    return queries, positives
