"""Several indexes of the same model become one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import IndexModelError, OptionError
from deepir.label_tree import SEPARATOR, check_label
from deepir.runtime.index import Index
from deepir.runtime.index_footer import Footer
from deepir.runtime.index_home import Home
from deepir.runtime.index_whitening import IndexWhitening
from deepir.runtime.items import Keys, Metadata
from deepir.runtime.moved_views import moved_sources
from deepir.runtime.threshold import BY_HAND
from deepir.runtime.views import Views, index_of, views_of

REPEATED = 0.999
"""Views of a label that are this similar are one picture twice: codes alone move a similarity by 0.002 at most."""

_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Part:
    """An index to merge.

    Attributes:
        path: Its file.
        under: The branch below which its labels are put; empty to keep them as they are.
    """

    path: Path
    under: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What became of the parts.

    Attributes:
        index: In memory.
        taken, repeated: Of each part, how many views are in the index, and how many were there before.
        metadata: Of the views of each part, which names their small copies.
        calibrated: Parts whose threshold came from pictures of unknown things; the one of `index` comes from its views.
    """

    index: Index
    taken: tuple[int, ...]
    repeated: tuple[int, ...]
    metadata: tuple[Sequence[Metadata], ...]
    calibrated: tuple[Path, ...] = ()


def merge(parts: Sequence[Part], target: Path) -> Merged:
    """Put the views of all parts into one index.

    The descriptors are decoded and coded anew, fitted to all of them. Codes, the wanted share of false accepts and the
    margin are those of the first part, whose views keep their keys; the threshold is computed from the views. A view
    that repeats another of its label is left out.

    Args:
        parts: Two or more.
        target: Where the index will lie: pictures are named from there.

    Raises:
        OptionError: Fewer than two parts.
        InputError: A part is missing, or a label cannot be put below the branch.
        IndexFileError: A part is damaged.
        IndexModelError: The parts hold descriptors that cannot be compared.
    """
    if len(parts) < 2:
        message = f"merging needs two indexes or more, got {len(parts)}"
        raise OptionError(message)
    first, footer, whitening = _opened(parts[0])
    views = [_moved(first, parts[0], target)]
    next_key, thumbnails = footer.next_key, footer.thumbnails
    calibrated = [parts[0].path] if _is_calibrated(footer) else []
    for part in parts[1:]:
        contents_views, other, other_whitening = _opened(part)
        _check_same((parts[0], footer, whitening), (part, other, other_whitening))
        keys = np.arange(next_key, next_key + len(contents_views), dtype=np.uint64)
        views.append(_moved(replace(contents_views, keys=keys), part, target))
        next_key += len(keys)
        thumbnails = max(filter(None, (thumbnails, other.thumbnails)), default=None)
        calibrated += [part.path] if _is_calibrated(other) else []
    merged = _joined(views, replace(footer, threshold=None, thumbnails=thumbnails), whitening)
    return replace(merged, calibrated=tuple(calibrated))


def repeated(descriptors_nd: Descriptors, labels: Sequence[str]) -> NDArray[np.bool_]:
    """For each view whether one before it has its label and is as good as the same, (N,)."""
    repeated_n = np.zeros(len(labels), bool)
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    for rows in rows_of.values():
        kept: list[int] = []
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            again = _repeated_in(descriptors_nd[block], descriptors_nd[kept])
            repeated_n[block] = again
            kept += [row for row, gone in zip(block, again, strict=True) if not gone]
    return repeated_n


def _repeated_in(block_nd: Descriptors, kept_nd: Descriptors) -> NDArray[np.bool_]:
    again: NDArray[np.bool_] = np.zeros(len(block_nd), bool)
    if len(kept_nd):
        again = (block_nd @ kept_nd.T).max(axis=1) >= REPEATED
    near = np.tril(block_nd @ block_nd.T >= REPEATED, -1)
    for row in np.flatnonzero(near.any(axis=1)):
        again[row] |= bool((near[row] & ~again).any())
    return again


def _opened(part: Part) -> tuple[Views, Footer, IndexWhitening | None]:
    home, contents = Home.open(part.path, write=False, wait=0)
    if home.foreign:
        message = (
            f"{part.path} does not say which model its descriptors are of: make an index of it with "
            f"deepir-index import {part.path} INDEX --model MODEL.onnx first"
        )
        raise IndexModelError(message)
    return views_of(contents), contents.footer, contents.whitening


def _moved(views: Views, part: Part, target: Path) -> Views:
    under = part.under.removesuffix(SEPARATOR)
    labels = [check_label(f"{under}{SEPARATOR}{label}") for label in views.labels] if under else views.labels
    return replace(views, labels=labels, sources=moved_sources(views.sources, part.path, target))


def _joined(views: Sequence[Views], footer: Footer, whitening: IndexWhitening | None) -> Merged:
    labels = [label for one in views for label in one.labels]
    descriptors_nd = np.concatenate([one.descriptors_nd for one in views])
    kept_n = ~repeated(descriptors_nd, labels)
    rows = np.flatnonzero(kept_n)
    keys: Keys = np.concatenate([one.keys for one in views])[rows]
    sources = [source for one in views for source in one.sources]
    metadata = [entry for one in views for entry in one.metadata]
    joined = Views(
        keys=keys,
        labels=[labels[row] for row in rows],
        sources=[sources[row] for row in rows],
        metadata=[metadata[row] for row in rows],
        descriptors_nd=descriptors_nd[rows],
    )
    ends = np.cumsum([len(one) for one in views])[:-1]
    taken = [int(part.sum()) for part in np.split(kept_n, ends)]
    return Merged(
        index_of(joined, footer, whitening),
        tuple(taken),
        tuple(len(one) - count for one, count in zip(views, taken, strict=True)),
        tuple(one.metadata for one in views),
    )


_Opened = tuple[Part, Footer, IndexWhitening | None]


def _check_same(first: _Opened, other: _Opened) -> None:
    (one, footer, whitening), (part, other_footer, other_whitening) = first, other
    for what, of_one, of_other in (
        ("queries are described", footer.model, other_footer.model),
        ("pictures are described", footer.references or footer.model, other_footer.references or other_footer.model),
    ):
        if of_one.fingerprint != of_other.fingerprint:
            message = (
                f"the {what} by the model {of_one.fingerprint} in {one.path} and by {of_other.fingerprint} in "
                f"{part.path}, which cannot be compared: deepir-index rebuild {part.path} --model describes its "
                "pictures anew"
            )
            raise IndexModelError(message)
    if _map_bytes(whitening) != _map_bytes(other_whitening) or footer.whitening != other_footer.whitening:
        message = (
            f"the descriptors of {one.path} went through {footer.whitening or 'no map'}, those of {part.path} through "
            f"{other_footer.whitening or 'no map'}, and cannot be compared: build both with the same map, or with none"
        )
        raise IndexModelError(message)


def _is_calibrated(footer: Footer) -> bool:
    return footer.threshold is not None and footer.threshold.basis in BY_HAND


def _map_bytes(whitening: IndexWhitening | None) -> bytes:
    return b"" if whitening is None else whitening.to_bytes()
