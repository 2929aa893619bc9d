"""The start of a student: its last layer turned towards the teacher by ridge regression."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe, in_batches, region_vectors
from deepir.distill.layers import WhiteningLayer
from deepir.distill.targets import View
from deepir.errors import OptionError
from deepir.whitening import Whitening

_RIDGE = 1e-3
_BATCH = 32


def align_head(student: Model, views: Sequence[View], targets_nd: Descriptors) -> Model:
    """Start the student's last layer at the ridge regression from what it sees to the teacher's descriptors.

    Student and teacher have different trunks, so the student's own whitening points elsewhere; the regression turns
    it towards the teacher before the first step.

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
        for branch in network.branch_list:
            branch.whitening = branch.whitening or _unchanging(branch.channels)
    inputs = (_joined(student, views) if joins else _region_sums(student, views)).astype(np.float64)
    gram = inputs.T @ inputs
    ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solution = np.linalg.solve(gram + ridge, inputs.T @ targets_nd).astype(np.float32)
    # the L2 after it makes the layer's scale free: one at which a step of the optimiser is small against the weights
    solution /= np.sqrt(np.mean(solution**2))
    whitening = Whitening(np.ascontiguousarray(solution[:-1].T), solution[-1])
    if joins:
        network.fuse = WhiteningLayer.of(whitening).to(next(network.parameters()).device)
    else:
        network.whiten_with(whitening)
    return student


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


def _unchanging(channels: int) -> WhiteningLayer:
    return WhiteningLayer.of(Whitening(np.eye(channels, dtype=np.float32), np.zeros(channels, dtype=np.float32)))
