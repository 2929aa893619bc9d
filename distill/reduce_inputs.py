"""What a reduction learns from: each picture's full descriptor, and what the new layer reads; computed once."""

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.distill.answers import Rows
from deepir.distill.checkpoint import Model
from deepir.distill.describe import in_batches, region_vectors
from deepir.distill.layers import WhiteningLayer
from deepir.distill.targets import TargetStore
from deepir.distill.teachers import TargetConfig, make_targets
from deepir.distill.views import View, hash_pictures, read_views
from deepir.errors import InputError, OptionError
from deepir.whitening import Whitening

_BATCH = 16
_REPORT_EVERY = 20

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReductionInputs:
    """The fixed side of a reduction, for N views.

    Attributes:
        targets_nd: (N, D) the full descriptors, whose distances the reduced ones shall have.
        rows: For each view (R, C), what the new layer reads: the descriptor before the projection, or its regions.
        start: A layer of C to `dim` values that gives the principal components of what the full descriptor is made of.
        relu: Whether a ReLU follows the layer.
    """

    targets_nd: Descriptors
    rows: Sequence[Rows]
    start: WhiteningLayer
    relu: bool = False


def serial_inputs(model: Model, views: Sequence[View], dim: int, cache: Path, report: Report) -> ReductionInputs:
    """For a layer after the descriptor; a projection that the model has already becomes part of that layer.

    Raises:
        InputError: A picture that cannot be read, or a cache that cannot be written; what was computed is kept.
        ShapeError: Fewer views than `dim`.
    """
    targets_nd, directions = _full_and_directions(model, views, dim, cache, report)
    projection = model.network.projection
    if projection is None:
        start = WhiteningLayer.of(Whitening(directions, np.zeros(dim, dtype=np.float32)))
        return ReductionInputs(targets_nd, list(targets_nd[:, None]), start)
    bare = Model(copy.deepcopy(model.network), model.spec)
    bare.network.projection = None
    rows_nd = make_targets([bare.sealed()], views, cache, report=report).descriptors_nd
    return ReductionInputs(targets_nd, list(rows_nd[:, None]), _turned(projection, directions))


def parallel_inputs(model: Model, views: Sequence[View], dim: int, cache: Path, report: Report) -> ReductionInputs:
    """For a layer beside the whitening, which reads the same region vectors.

    Raises:
        InputError: A picture that cannot be read, or a cache that cannot be written; what was computed is kept.
        OptionError: A model without a whitening, of several branches or resolutions, or with a layer after their sum.
        ShapeError: Fewer views than `dim`.
    """
    network, whitening = model.network, model.network.whitening
    plain = len(network.branches) == 1 and network.fuse is None and network.projection is None
    if whitening is None or not plain or len(model.spec.resolutions) > 1:
        message = (
            f"the parallel form needs one whitening, one resolution and nothing after them, got the fusion "
            f"{model.spec.head.fusion}, {len(model.spec.resolutions)} resolutions and whitening "
            f"{model.spec.whitening!r}: use the serial form"
        )
        raise OptionError(message)
    targets_nd, directions = _full_and_directions(model, views, dim, cache, report)
    return ReductionInputs(
        targets_nd,
        _region_rows(model, views, cache, report),
        _turned(whitening, directions),
        relu=network.master.plan.relu,
    )


def _full_and_directions(
    model: Model, views: Sequence[View], dim: int, cache: Path, report: Report
) -> tuple[Descriptors, Rows]:
    full = make_targets([model], views, cache, report=report)
    turned = make_targets([model], views, cache, TargetConfig(dim=dim))
    if turned.projection is None:
        message = f"a descriptor of {model.network.dim} values cannot be reduced to {dim}: give a smaller dimension"
        raise OptionError(message)
    return full.descriptors_nd, turned.projection


def _turned(layer: WhiteningLayer, directions: Rows) -> WhiteningLayer:
    """A layer and a turn after it as one layer; its shift stays where it is."""
    weight, bias = (parameter.detach().cpu().numpy() for parameter in (layer.weight, layer.bias))
    return WhiteningLayer.of(Whitening(directions @ weight, directions @ bias), shift=layer.shift, scale=layer.scale)


def _region_rows(model: Model, views: Sequence[View], cache: Path, report: Report) -> list[Rows]:
    """The region vectors of each view before whitening, (R, C), from the disk where they are there already."""
    hashes = hash_pictures(view.path for view in views)
    keys = [view.key(hashes[view.path]) for view in views]
    distinct = dict(sorted(zip(keys, views, strict=True), key=lambda item: item[1].path))
    with TargetStore(cache / model.spec.fingerprint / "region-vectors", model.network.master.channels) as store:
        missing = {key: view for key, view in distinct.items() if key not in store}
        done = len(distinct) - len(missing)
        with contextlib.closing(read_views(list(missing.values()), hashes)) as images:
            for number, batch in enumerate(in_batches(zip(missing, images, strict=True), _BATCH)):
                found = region_vectors(model, [image for _, image in batch])
                _keep(store, [key for key, _ in batch], found, len(distinct) - done)
                done += len(batch)
                if number % _REPORT_EVERY == 0 or done == len(distinct):
                    report(f"region vectors {done}/{len(distinct)} (kept in {cache}, safe to stop)")
        return store.gather(keys)


def _keep(store: TargetStore, keys: Sequence[str], records: Sequence[Rows], left: int) -> None:
    try:
        store.append(keys, records)
    except OSError as error:
        needed = math.ceil(left * sum(record.nbytes for record in records) / len(records) / 1e6)
        message = (
            f"cannot write region vectors to {store.folder}: {error.strerror}; {left} views still need about {needed} "
            "MB there, and nothing that was written is lost: make room and run this again"
        )
        raise InputError(message) from error
