"""Views as programs give them to each other in files, and how they become views of an index again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import normalise
from deepir.errors import IndexFileError, InputError, ShapeError
from deepir.label_tree import check_label
from deepir.runtime.index_footer import Footer
from deepir.runtime.index_home import Home
from deepir.runtime.index_whitening import IndexWhitening
from deepir.runtime.items import Metadata, metadata_text
from deepir.runtime.moved_views import moved_sources
from deepir.runtime.views import Views, views_of

_LENGTH_TOLERANCE = 1e-3
_SHORTEST = 1e-6
_LARGEST_KEY = 2**63 - 1
"""Of faiss."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchanged:
    """What a file of views holds.

    Attributes:
        descriptors_nd: (N, D).
        keys: (N,) whole numbers; None where the file has none.
        labels, sources, metadata: Of each view; None where the file has none.
        model: Fingerprint of the model that describes queries; empty where the file does not say.
        whitened: Whether the descriptors went through the map of an index.
        footer, whitening: Of the index that they came from; None where the file does not hold them.
    """

    descriptors_nd: NDArray[Any]
    keys: NDArray[Any] | None = None
    labels: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    metadata: Sequence[Metadata] | None = None
    model: str = ""
    whitened: bool = False
    footer: Footer | None = None
    whitening: IndexWhitening | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """What a list of labels says of a key."""

    label: str
    source: str = ""
    metadata: Metadata | None = None


def exchanged_from_index(path: Path, out: Path) -> Exchanged:
    """The views of an index; a file at `out` can name its pictures so.

    Raises:
        InputError: The index is missing.
        IndexFileError: It is damaged.
    """
    home, contents = Home.open(path, write=False, wait=0)
    views = views_of(contents)
    if home.foreign:
        # other programs may keep vectors of any length, which decoding would hide
        codes_nd = contents.store.get(views.keys)
        vectors_nd = views.descriptors_nd if codes_nd.dtype.kind == "i" else codes_nd.astype(np.float32)
        return Exchanged(descriptors_nd=vectors_nd, keys=views.keys, labels=views.labels)
    return Exchanged(
        descriptors_nd=views.descriptors_nd,
        keys=views.keys,
        labels=views.labels,
        sources=moved_sources(views.sources, path, out),
        metadata=views.metadata,
        model=contents.footer.model.fingerprint,
        whitened=contents.whitening is not None,
        footer=replace(contents.footer, threshold=contents.threshold(saving=True)),
        whitening=contents.whitening,
    )


def with_labels(given: Exchanged, named: Mapping[int, Named], file: Path) -> Exchanged:
    """The same views with the labels, sources and metadata that a list gives to their keys.

    Raises:
        InputError: The list lacks a key.
    """
    keys = _keys(given)
    missing = next((key for key in keys if key not in named), None)
    if missing is not None:
        message = f"{file} has no label for the key {missing}: it needs a line for each of the {len(keys)} views"
        raise InputError(message)
    chosen = [named[key] for key in keys]
    return replace(
        given,
        labels=[one.label for one in chosen],
        sources=[one.source for one in chosen],
        metadata=[one.metadata or {} for one in chosen],
    )


def checked_views(given: Exchanged, dim: int, file: Path) -> tuple[Views, list[str]]:
    """The views of a file, fit for an index, and what had to be mended, in words.

    Args:
        given: Of the file.
        dim: How many values a descriptor should have.
        file: What errors call it.

    Raises:
        ShapeError: Other sizes, NaN or infinity, or a descriptor without direction.
        InputError: No labels, or one that cannot be one.
        IndexFileError: Keys that occur twice.
    """
    mended = []
    vectors_nd = np.asarray(given.descriptors_nd)
    count = len(vectors_nd) if vectors_nd.ndim else 0
    vectors_nd = vectors_nd if count else np.empty((0, dim), np.float32)
    columns = {"labels": given.labels, "sources": given.sources, "metadata": given.metadata, "keys": given.keys}
    _check_sizes(vectors_nd, dim, file, {name: len(column) for name, column in columns.items() if column is not None})
    if given.labels is None:
        message = f"{file} has no labels: give a list of them with --labels FILE, JSON lines with key and label"
        raise InputError(message)
    descriptors_nd, mending = _of_length_one(vectors_nd, file)
    mended += mending
    keys = _keys(given)
    if min(keys, default=1) < 1:
        mended.append(f"the keys begin at {min(keys)}, and those of an index at 1: each is one larger there or more")
        keys = [key - min(keys) + 1 for key in keys]
    if len(set(keys)) < count or max(keys, default=1) > _LARGEST_KEY:
        message = f"{file} has the same key for several views, or one larger than {_LARGEST_KEY}: give each its own"
        raise IndexFileError(message)
    order = np.argsort(np.asarray(keys, np.uint64), kind="stable")
    labels, sources, metadata = given.labels, given.sources or [""] * count, given.metadata or [{}] * count
    views = Views(
        keys=np.asarray(keys, np.uint64)[order],
        labels=[check_label(str(labels[row])) for row in order],
        sources=[_checked_source(str(sources[row])) for row in order],
        metadata=[_checked_metadata(metadata[row]) for row in order],
        descriptors_nd=descriptors_nd[order],
    )
    return views, mended


def _keys(given: Exchanged) -> list[int]:
    return list(range(1, len(given.descriptors_nd) + 1)) if given.keys is None else [int(key) for key in given.keys]


def _check_sizes(vectors_nd: NDArray[Any], dim: int, file: Path, sizes: Mapping[str, int]) -> None:
    if vectors_nd.ndim != 2 or vectors_nd.shape[1] != dim or vectors_nd.dtype.kind != "f":
        message = (
            f"{file} holds {vectors_nd.dtype} descriptors of the shape {vectors_nd.shape}, expected float32 of the "
            f"shape (N, {dim}): were they made by another model?"
        )
        raise ShapeError(message)
    wrong = next((name for name, size in sizes.items() if size != len(vectors_nd)), None)
    if wrong is not None:
        message = f"{file} holds {len(vectors_nd)} descriptors and {sizes[wrong]} {wrong}: each view needs one of both"
        raise ShapeError(message)


def _of_length_one(vectors_nd: NDArray[Any], file: Path) -> tuple[NDArray[np.float32], list[str]]:
    if not np.isfinite(vectors_nd).all():
        row = int(np.flatnonzero(~np.isfinite(vectors_nd).all(axis=1))[0])
        message = f"{file} holds NaN or infinity, first in row {row}: describe that picture anew"
        raise ShapeError(message)
    lengths = np.linalg.norm(vectors_nd, axis=1)
    if len(lengths) and lengths.min() < _SHORTEST:
        row = int(lengths.argmin())
        message = f"the descriptor in row {row} of {file} has no direction (length {lengths[row]:.3g}): leave it out"
        raise ShapeError(message)
    wrong = np.abs(lengths - 1) > _LENGTH_TOLERANCE
    if not wrong.any():
        return vectors_nd.astype(np.float32), []
    said = (
        f"{int(wrong.sum())} of {len(lengths)} descriptors had lengths from {lengths[wrong].min():.3g} to "
        f"{lengths[wrong].max():.3g} instead of 1 and were scaled"
    )
    return normalise(vectors_nd.astype(np.float32)), [said]


def _checked_source(source: str) -> str:
    if "\0" in source:
        message = f"the name of a picture cannot hold the character NUL, got {source!r}"
        raise InputError(message)
    return source


def _checked_metadata(entry: Metadata) -> Metadata:
    if not isinstance(entry, Mapping):
        message = f"metadata must be an object of JSON values, got {entry!r}"
        raise InputError(message)
    metadata_text(entry)
    return entry
