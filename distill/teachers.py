"""What a student shall say of each view: the descriptors of one or several teachers, whole or region by region."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import LENGTH_FLOOR, Descriptors
from deepir.distill.answers import Rows, answer
from deepir.distill.checkpoint import Model
from deepir.distill.choices import TARGETS
from deepir.distill.describe import in_batches
from deepir.distill.smoothing import check_neighbours, smooth
from deepir.distill.targets import TargetStore
from deepir.distill.views import View, hash_pictures, read_views
from deepir.errors import InputError, ModelError, OptionError, ShapeError

_BATCH = 16
_REPORT_EVERY = 20
_CHUNK = 4096
"""Descriptors in FP64 at a time."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """What is made of the teachers' answers; checked when it is made (retrieval.md 7 A, C, D, E, G).

    Attributes:
        dim: Values of a target; None for those of the only, or the first, teacher.
        combine: `teacher` joins the resolutions as each teacher does, `max` takes the largest of each value.
        neighbours: How many targets of other pictures smooth each one; 0 for none.
        regions: Also give what each region adds to the descriptor.
    """

    dim: int | None = None
    combine: str = "teacher"
    neighbours: int = 0
    regions: bool = False

    def __post_init__(self) -> None:
        if self.combine not in TARGETS:
            message = f"targets combine resolutions as one of {', '.join(TARGETS)}, got {self.combine!r}"
            raise OptionError(message)
        if self.neighbours < 0 or (self.dim is not None and self.dim < 1):
            message = f"targets need a dim of 1 or more and 0 neighbours or more, got {self.dim} and {self.neighbours}"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class Targets:
    """What a student learns, in the order of the views.

    Attributes:
        descriptors_nd: (N, D), each of length 1.
        regions: For each view (R, D), whose rows add up to its descriptor; R is 0 where the teacher's regions differ
            between its resolutions, or its head has no sum over regions. None unless they were asked for.
        provenance: Which teachers they are of and what was made of them, in words.
        projection: (D, D_in), what the teachers' joined descriptors were multiplied by; None where they were not.
    """

    descriptors_nd: Descriptors
    regions: list[Rows] | None
    provenance: str
    projection: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """Views by their keys, each once, and how they are answered and kept."""

    views: Mapping[str, View]
    hashes: Mapping[Path, str]
    cache: Path
    config: TargetConfig
    report: Report


def make_targets(
    teachers: Sequence[Model],
    views: Sequence[View],
    cache: Path,
    config: TargetConfig | None = None,
    report: Report = lambda _: None,
) -> Targets:
    """The targets of each view; what the teachers said of a picture's bytes is kept in `cache` and not asked again.

    The descriptors of several teachers are joined with equal weight. These, or those of a teacher of more than `dim`
    values, are turned by a PCA without centring, fitted on all views: a linear map, so the regions follow it.

    Args:
        teachers: In evaluation mode, whitened.
        views: One or more.
        cache: A folder; it gets one folder for each teacher, whose name is the teacher's fingerprint.
        config: By default the only teacher's descriptors as they are.
        report: Gets a line now and then.

    Raises:
        InputError: A picture that cannot be read, a cache that cannot be written or is damaged; what was computed
            until then is kept.
        ModelError: A teacher that answers NaN.
        OptionError: No teacher, no view, or more neighbours than there are.
        ShapeError: More values than teachers or views can carry.
    """
    config = config or TargetConfig()
    dim = _dim(teachers, views, config)
    hashes = hash_pictures(view.path for view in views)
    keys = [view.key(hashes[view.path]) for view in views]
    pictures_n = np.unique([hashes[view.path] for view in views], return_inverse=True)[1]
    check_neighbours(config.neighbours, pictures_n)
    task = _Task(dict(zip(keys, views, strict=True)), hashes, cache, config, report)
    reduces = len(teachers) > 1 or dim < teachers[0].network.dim
    if reduces and len(task.views) < dim:
        message = f"{len(task.views)} views are too few for targets of {dim} values: use more pictures or a smaller dim"
        raise ShapeError(message)
    answers = [_answers(teacher, task, keys) for teacher in teachers]
    descriptors_nd, regions = answers[0]
    projection = None
    if reduces:
        descriptors_nd, regions, projection = _reduced(answers, dim)
    if config.neighbours:
        smoothed_nd = smooth(descriptors_nd, pictures_n, config.neighbours)
        regions = _moved(regions, smoothed_nd - descriptors_nd)
        descriptors_nd = smoothed_nd
    return Targets(descriptors_nd, regions, _provenance(teachers, config, projection), projection)


def _dim(teachers: Sequence[Model], views: Sequence[View], config: TargetConfig) -> int:
    if not teachers or not views:
        message = f"targets need a teacher and a view, got {len(teachers)} teachers and {len(views)} views"
        raise OptionError(message)
    dim, most = config.dim or teachers[0].network.dim, sum(teacher.network.dim for teacher in teachers)
    if dim > most:
        message = f"teachers of {most} values together cannot give targets of {dim}: use a smaller dim"
        raise ShapeError(message)
    return dim


def _answers(teacher: Model, task: _Task, keys: Sequence[str]) -> tuple[Descriptors, list[Rows] | None]:
    """One teacher's answers from its stores, after those that they lack were computed."""
    how = "max" if task.config.combine == "max" else teacher.spec.head.combine
    names = [how, f"{how}-regions"] if task.config.regions else [how]
    folder = task.cache / teacher.spec.fingerprint
    with contextlib.ExitStack() as stack:
        try:
            stores = [stack.enter_context(TargetStore(folder / name, teacher.network.dim)) for name in names]
        except OSError as error:
            message = f"cannot keep targets in {folder}: {error.strerror}; choose another folder for them"
            raise InputError(message) from error
        _fill(stores, teacher, task, how)
        gathered = [store.gather(keys) for store in stores]
    return np.concatenate(gathered[0]), gathered[1] if task.config.regions else None


def _fill(stores: Sequence[TargetStore], teacher: Model, task: _Task, how: str) -> None:
    """Show the teacher the views that are not in all of the stores, those of one picture after each other."""
    left = {key: view for key, view in task.views.items() if not all(key in store for store in stores)}
    left = dict(sorted(left.items(), key=lambda item: item[1].path))
    done = len(task.views) - len(left)
    with contextlib.closing(read_views(list(left.values()), task.hashes)) as images:
        for number, batch in enumerate(in_batches(zip(left, images, strict=True), _BATCH)):
            keys = [key for key, _ in batch]
            descriptors_nd, regions = answer(teacher, [image for _, image in batch], how, regions=len(stores) > 1)
            _check_finite(teacher, descriptors_nd, [left[key] for key in keys])
            for store, records in zip(stores, (list(descriptors_nd[:, None]), regions or []), strict=False):
                _keep(store, keys, records, len(task.views) - done)
            done += len(batch)
            if number % _REPORT_EVERY == 0 or done == len(task.views):
                task.report(f"teacher descriptors {done}/{len(task.views)} (kept in {task.cache}, safe to stop)")


def _keep(store: TargetStore, keys: Sequence[str], records: Sequence[Rows], left: int) -> None:
    fresh = [(key, record) for key, record in zip(keys, records, strict=True) if key not in store]
    try:
        store.append([key for key, _ in fresh], [record for _, record in fresh])
    except OSError as error:
        needed = sum(record.nbytes for record in records) / len(records) * left
        message = (
            f"cannot write targets to {store.folder}: {error.strerror}; {left} views still need about "
            f"{math.ceil(needed / 1e6)} MB there, and nothing that was written is lost: make room and run this again"
        )
        raise InputError(message) from error


def _check_finite(teacher: Model, descriptors_nd: Descriptors, views: Sequence[View]) -> None:
    damaged = np.flatnonzero(~np.isfinite(descriptors_nd).all(axis=1))
    if len(damaged):
        message = (
            f"the teacher {teacher.spec.fingerprint} answers NaN or infinity to {views[damaged[0]].path}: "
            "its weights are damaged, or too large for half precision"
        )
        raise ModelError(message)


def _reduced(
    answers: Sequence[tuple[Descriptors, list[Rows] | None]], dim: int
) -> tuple[Descriptors, list[Rows] | None, NDArray[np.float32]]:
    """The answers of all teachers beside each other, at `dim` values: descriptors, regions, and the map that did it."""
    joined_nd = np.concatenate([descriptors_nd for descriptors_nd, _ in answers], axis=1)
    projection_dc = _principal_directions(joined_nd, dim)
    reduced_nd = joined_nd @ projection_dc.T
    lengths_n = np.maximum(np.linalg.norm(reduced_nd, axis=1), LENGTH_FLOOR)
    regions = None
    of_teachers = [rows for _, rows in answers if rows is not None]
    if of_teachers:
        regions = [
            _joined(each) @ projection_dc.T / length
            for each, length in zip(zip(*of_teachers, strict=True), lengths_n, strict=True)
        ]
    return reduced_nd / lengths_n[:, None], regions, projection_dc


def _joined(parts: Sequence[Rows]) -> Rows:
    """The parts of one view's regions by all teachers; none where these have not as many regions."""
    fewest = 0 if len({len(part_rd) for part_rd in parts}) > 1 else len(parts[0])
    return np.concatenate([part_rd[:fewest] for part_rd in parts], axis=1)


def _principal_directions(vectors_nc: Rows, dim: int) -> NDArray[np.float32]:
    """The `dim` orthogonal directions of most energy, (dim, C); not centred, so that sums stay sums."""
    energy_cc = np.zeros((vectors_nc.shape[1],) * 2)
    for start in range(0, len(vectors_nc), _CHUNK):
        chunk = vectors_nc[start : start + _CHUNK].astype(np.float64)
        energy_cc += chunk.T @ chunk
    directions_dc = np.linalg.eigh(energy_cc)[1].T[::-1][:dim]
    # the sign of an eigenvector is arbitrary: fix it, so that the same pictures give the same targets
    signs_d = np.sign(directions_dc[np.arange(dim), np.abs(directions_dc).argmax(axis=1)])
    projection_dc: NDArray[np.float32] = (directions_dc * signs_d[:, None]).astype(np.float32)
    return projection_dc


def _moved(regions: list[Rows] | None, moves_nd: Descriptors) -> list[Rows] | None:
    """The regions after their descriptors moved: each takes an equal share, so that they still add up to them."""
    if regions is None:
        return None
    return [part_rd + move_d / max(1, len(part_rd)) for part_rd, move_d in zip(regions, moves_nd, strict=True)]


def _provenance(teachers: Sequence[Model], config: TargetConfig, projection: NDArray[np.float32] | None) -> str:
    words = [
        "+".join(f"{teacher.spec.backbone} {teacher.spec.fingerprint}" for teacher in teachers),
        "largest value over the resolutions" if config.combine == "max" else "",
        f"{projection.shape[0]} of {projection.shape[1]} values" if projection is not None else "",
        f"smoothed with {config.neighbours} neighbours" if config.neighbours else "",
    ]
    return ", ".join(word for word in words if word)
