"""PCA whitening of a model's region vectors, fitted on folders of pictures that count equally."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deepir.descriptors import fit_whitening
from deepir.distill.checkpoint import Model
from deepir.distill.describe import in_batches, region_vectors
from deepir.errors import OptionError
from deepir.image import read_image

MOST_PICTURES = 600
"""Pictures taken of each group: more change the whitening little and take long."""

_BATCH = 16
_FEWEST_VECTORS_PER_COMPONENT = 5


def whiten(
    model: Model,
    groups: Sequence[Sequence[Path]],
    *,
    dim: int,
    power: float = 0.25,
    report: Callable[[str], None] = lambda _: None,
) -> Model:
    """Fit the whitening on the region vectors of pictures and put it into the network.

    Args:
        model: Its own whitening, if any, is replaced.
        groups: Lists of pictures; each list weighs the same, however long. A shop's references and its photographs
            must both be there, or the difference between them survives the whitening.
        dim: Values of the new descriptor.
        power: 0..0.5, see `fit_whitening`.
        report: Takes a line for people, a warning when the vectors are few.

    Raises:
        OptionError: A power outside 0..0.5.
        ShapeError: Too few pictures for so many dimensions.
    """
    if not 0 <= power <= 0.5:
        message = f"the whitening power must be between 0 and 0.5, got {power}"
        raise OptionError(message)
    model.network.eval()
    groups = [_spread(paths) for paths in groups]
    vectors = [_vectors(model, paths) for paths in groups]
    count = sum(len(group) for group in vectors)
    if count < _FEWEST_VECTORS_PER_COMPONENT * dim:
        report(f"warning: {count} region vectors are few for {dim} dimensions; use more pictures or a smaller --dim")
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in vectors])
    model.network.whiten_with(fit_whitening(np.concatenate(vectors), dim, power=power, weights_n=weights))
    pictures = "+".join(str(len(paths)) for paths in groups)
    return model.sealed(whitening=f"pca dim {dim} power {power} on {count} regions of {pictures} pictures")


def _spread(paths: Sequence[Path]) -> Sequence[Path]:
    """At most MOST_PICTURES of a group, evenly spread over it."""
    step = max(1, -(-len(paths) // MOST_PICTURES))
    return paths[::step]


def _vectors(model: Model, paths: Sequence[Path]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    found = [
        regions
        for batch in in_batches(paths, _BATCH)
        for regions in region_vectors(model, [read_image(path) for path in batch])
    ]
    return np.concatenate(found)
