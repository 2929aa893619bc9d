"""A student's last layer turned towards the teacher by ridge regression: its start, and its end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe, describe_files, in_batches, region_vectors
from deepir.distill.layers import WhiteningLayer
from deepir.distill.views import View
from deepir.distill.whitening import MOST_PICTURES, Report, WhitenConfig, spread, whiten
from deepir.errors import OptionError
from deepir.whitening import Whitening, fit_whitening

Weights = NDArray[np.float64]

_POWER = 0.35
"""Of a branch that is joined to others: between the noise that 0.5 amplifies and the correlation that 0.25 leaves."""

_RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""As shares of the mean energy of an input."""
_FOLDS = 4
_FEWEST = 20
"""Fewer views than this choose no ridge: the smallest is taken."""
_BATCH = 32


def align_head(
    student: Model, views: Sequence[View], targets_nd: Descriptors, weights_n: Weights | None = None
) -> Model:
    """Put the student's last layer at the ridge regression from what it sees to the teacher's descriptors.

    Before training: student and teacher have different trunks, so the student's own whitening points elsewhere. After
    it: a trunk that learnt from photographs also serves reference pictures when both are in the regression. How much
    the ridge holds back is what brings held-out views nearest to their targets.

    Args:
        student: In evaluation mode.
        views: What it sees.
        targets_nd: What the teacher said of them.
        weights_n: How much each view counts; all the same by default.

    Raises:
        OptionError: A fusion whose last layers are fitted alone and not learnt.
    """
    network = student.network
    joins = student.spec.head.fusion == "pca-concat-pca"
    if len(network.branches) > 1 and not joins:
        message = f"the fusion {student.spec.head.fusion} has no layer that learns: fit it with deepir-distill fuse"
        raise OptionError(message)
    # what an imported model projects afterwards belongs to its old descriptors
    network.fuse = network.projection = None
    if joins:
        for place, branch in enumerate(network.branch_list):
            if branch.whitening is None:
                network.whiten_with(_own_whitening(student, views, place), place)
    inputs = (_joined(student, views) if joins else _region_sums(student, views)).astype(np.float64)
    weights = np.ones(len(views)) if weights_n is None else np.asarray(weights_n, dtype=np.float64)
    pictures_n = np.unique([str(view.path) for view in views], return_inverse=True)[1]
    solution = _regression(inputs, targets_nd, weights, pictures_n % _FOLDS).astype(np.float32)
    # the L2 after it makes the layer's scale free: one at which a step of the optimiser is small against the weights
    solution /= np.sqrt(np.mean(solution**2))
    whitening = Whitening(np.ascontiguousarray(solution[:-1].T), solution[-1])
    if joins:
        network.fuse = WhiteningLayer.of(whitening).to(next(network.parameters()).device)
    else:
        network.whiten_with(whitening)
    return student


def whiten_towards(
    student: Model, groups: Sequence[Sequence[Path]], targets: Sequence[Descriptors], report: Report = lambda _: None
) -> Model:
    """Whiten the student anew on pictures, and turn its descriptors as near to the targets as a rotation can.

    The rotation changes no similarity between the student's own descriptors; it makes them comparable with the
    teacher's. A regression brings a student nearer to its teacher, and where its trunk cannot follow that costs more
    than it gains (docs/benchmarks.md).

    Args:
        student: A plain head, whitened to the dimension of the targets.
        groups: Lists of pictures that weigh the same, such as photographs and references.
        targets: For each list what the teacher said of its pictures, (N, D).
        report: Takes a line for people.

    Raises:
        ShapeError: Too few pictures for so many values.
    """
    student = whiten(student, groups, WhitenConfig(dim=targets[0].shape[1]), report)
    own = [np.concatenate(list(describe_files(student, paths))) for paths in groups]
    # the orthogonal map of the largest agreement: Procrustes
    left, _, right = np.linalg.svd(
        sum(wanted_nd.T @ own_nd / len(own_nd) for wanted_nd, own_nd in zip(targets, own, strict=True))
    )
    layer = student.network.whitening
    if layer is not None:
        rotation = torch.from_numpy((left @ right).astype(np.float32)).to(layer.weight.device)
        with torch.no_grad():
            layer.weight.copy_(rotation @ layer.weight)
            layer.bias.copy_(rotation @ layer.bias)
    return student.sealed()


def _regression(inputs_nc: Weights, targets_nd: Descriptors, weights_n: Weights, folds_n: NDArray[np.intp]) -> Weights:
    """The ridge regression (C, D) whose ridge is best on pictures that it does not see."""
    scores = np.zeros(len(_RIDGES))
    for fold in range(_FOLDS if folds_n.max() == _FOLDS - 1 and len(folds_n) >= _FEWEST else 0):
        seen_n = folds_n != fold
        system = _system(inputs_nc[seen_n], targets_nd[seen_n], weights_n[seen_n])
        for place, ridge in enumerate(_RIDGES):
            found_nd = normalise(inputs_nc[~seen_n] @ _solved(system, ridge))
            scores[place] += weights_n[~seen_n] @ (found_nd * targets_nd[~seen_n]).sum(axis=1)
    return _solved(_system(inputs_nc, targets_nd, weights_n), _RIDGES[scores.argmax()])


def _system(inputs_nc: Weights, targets_nd: Descriptors, weights_n: Weights) -> tuple[Weights, Weights]:
    weighted_nc = inputs_nc * weights_n[:, None]
    return weighted_nc.T @ inputs_nc, weighted_nc.T @ targets_nd


def _solved(system: tuple[Weights, Weights], ridge: float) -> Weights:
    gram, products = system
    solution: Weights = np.linalg.solve(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)), products)
    return solution


def _region_sums(student: Model, views: Sequence[View]) -> NDArray[np.float32]:
    """The sum of each view's region vectors and their number, (N, C + 1)."""
    rows = [
        np.append(regions.sum(axis=0), np.float32(len(regions)))
        for batch in in_batches(views, _BATCH)
        for regions in region_vectors(student, [view.read() for view in batch])
    ]
    return np.stack(rows)


def _joined(student: Model, views: Sequence[View]) -> NDArray[np.float32]:
    """The joined descriptors of the branches and a 1, (N, D + 1)."""
    batches = [describe(student, [view.read() for view in batch]) for batch in in_batches(views, _BATCH)]
    # each branch gives length 1, and the projection sees them before their joined length is made 1
    joined = np.concatenate(batches) * np.sqrt(len(student.network.branches))
    return np.pad(joined, ((0, 0), (0, 1)), constant_values=1)


def _own_whitening(student: Model, views: Sequence[View], place: int) -> Whitening:
    """The PCA of what a branch sees: joined to others as it is, its few strongest directions would drown the rest.

    Too few views to find all directions leave it as it is.
    """
    channels = student.network.branch_list[place].channels
    batches = in_batches(spread(views, MOST_PICTURES), _BATCH)
    vectors_nc = np.concatenate(
        [each for batch in batches for each in region_vectors(student, [view.read() for view in batch], place)]
    )
    if len(vectors_nc) <= channels:
        return Whitening(np.eye(channels, dtype=np.float32), np.zeros(channels, dtype=np.float32))
    return fit_whitening(vectors_nc, channels, power=_POWER)
