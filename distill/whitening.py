"""PCA whitening of a model's branches on the region vectors of folders of pictures that count equally."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepir.distill.checkpoint import Model
from deepir.distill.describe import in_batches, region_vectors
from deepir.distill.fusion import NEEDS_WHITENING
from deepir.errors import InputError, OptionError
from deepir.image import read_image
from deepir.whitening import fit_whitening

MOST_PICTURES = 600
"""Pictures taken of each group: more change the whitening little and take long."""

Groups = Sequence[Sequence[Path]]
"""Lists of pictures; each list weighs the same, however long."""

Report = Callable[[str], None]

_T = TypeVar("_T")
_BATCH = 16
_FEWEST_VECTORS_PER_COMPONENT = 5
_HASH_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class WhitenConfig:
    """How region vectors are whitened.

    Attributes:
        dim: Values of the master branch, None for as many as it has channels; a middle layer that is concatenated
            keeps at most its own channels, one that is added gets the master's dimension (method.md 4.1).
        power: 0..0.5, see `fit_whitening`.
        standardise: Divide each channel by its deviation first.
        keep_master: Leave a master branch that is whitened as it is, and fit only the middle layers.
    """

    dim: int | None = 256
    power: float = 0.25
    standardise: bool = False
    keep_master: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 0.5:
            message = f"the whitening power must be between 0 and 0.5, got {self.power}"
            raise OptionError(message)
        if self.dim is not None and self.dim < 1:
            message = f"the whitening's dim must be 1 or more, got {self.dim}"
            raise OptionError(message)


def whiten(model: Model, groups: Groups, config: WhitenConfig, report: Report = lambda _: None) -> Model:
    """Fit the whitening of each branch on its region vectors of pictures and put it into the network.

    Args:
        model: Its own whitening, if any, is replaced, and what was fitted on top of that is dropped.
        groups: A shop's references and its photographs must both be there, or the difference between them survives
            the whitening.
        config: Dimension and power.
        report: Takes a line for people, a warning when the vectors are few.

    Raises:
        InputError: No pictures.
        OptionError: A master branch to keep that is not whitened, or that is all there is.
        ShapeError: Too few pictures for so many dimensions.
    """
    if not groups or not all(groups):
        message = f"each of the {len(groups)} groups to whiten on needs pictures"
        raise InputError(message)
    model.network.eval()
    groups = [spread(paths, MOST_PICTURES) for paths in groups]
    drop_projections(model, report)
    fitted = [_whiten_branch(model, number, groups, config, report) for number in _branches(model, config)]
    dims, regions = ("+".join(str(number) for number in numbers) for numbers in zip(*fitted, strict=True))
    words = f"pca dim {dims} power {config.power:g}{' standardised' * config.standardise} on {regions} regions"
    kept = f"; last layer: {model.spec.whitening.partition('; learned')[0]}" if config.keep_master else ""
    return model.sealed(whitening=f"{words} of {name_pictures(groups)}{kept}")


def spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most `most` of the items, evenly spread over them."""
    return list(items[:: max(1, -(-len(items) // most))])


def equal_weights(group_v: NDArray[np.intp]) -> NDArray[np.float64]:
    """A weight for each vector of the group numbers given, of which every group has the same sum."""
    weights: NDArray[np.float64] = 1 / np.bincount(group_v)[group_v]
    return weights


def name_pictures(groups: Groups) -> str:
    """How many pictures of which folders, and the start of the SHA-256 over their names."""
    counts, folders = "+".join(str(len(paths)) for paths in groups), [_folder(paths) for paths in groups]
    names = "\n".join(
        path.relative_to(folder).as_posix() for paths, folder in zip(groups, folders, strict=True) for path in paths
    )
    digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:_HASH_LENGTH]
    return f"{counts} pictures ({', '.join(folder.name for folder in folders)}, list {digest})"


def drop_projections(model: Model, report: Report) -> None:
    """Remove what was fitted on the descriptors of an earlier whitening."""
    network = model.network
    if network.fuse is not None or network.projection is not None:
        report("warning: the projection fitted on the earlier whitening is dropped")
    network.fuse = network.projection = None


def warn_of_few(count: int, dim: int, report: Report) -> None:
    """Say so when the vectors are few for the dimensions that they are whitened to."""
    if count < _FEWEST_VECTORS_PER_COMPONENT * dim:
        report(f"warning: {count} region vectors are few for {dim} dimensions; use more pictures or a smaller --dim")


def _branches(model: Model, config: WhitenConfig) -> range:
    """Numbers of the branches to fit, the master first: the middle layers of a sum need its dimension."""
    last = len(model.network.branches) - 1
    if not config.keep_master:
        return range(last, -1, -1)
    if model.network.whitening is None or last == 0:
        message = (
            f"keep_master needs a whitened last layer and middle layers to fit: this model's head is "
            f"{model.spec.head.fusion} and its whitening {model.spec.whitening}"
        )
        raise OptionError(message)
    return range(last - 1, -1, -1)


def _whiten_branch(model: Model, number: int, groups: Groups, config: WhitenConfig, report: Report) -> tuple[int, int]:
    network, branch = model.network, model.network.branch_list[number]
    vectors = [_vectors(model, paths, number) for paths in groups]
    count, dim = sum(len(group) for group in vectors), config.dim or branch.channels
    if branch is not network.master:
        dim = network.master.dim if network.head.fusion in NEEDS_WHITENING else min(dim, branch.channels)
    warn_of_few(count, dim, report)
    whitening = fit_whitening(
        np.concatenate(vectors),
        dim,
        power=config.power,
        weights_n=equal_weights(np.repeat(np.arange(len(vectors)), [len(group) for group in vectors])),
        standardise=config.standardise,
    )
    network.whiten_with(whitening, number)
    return dim, count


def _vectors(model: Model, paths: Sequence[Path], branch: int) -> NDArray[np.float32]:
    found = [
        regions
        for batch in in_batches(paths, _BATCH)
        for regions in region_vectors(model, [read_image(path) for path in batch], branch)
    ]
    return np.concatenate(found)


def _folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all pictures of a group."""
    return Path(os.path.commonpath([path.parent for path in paths]))
