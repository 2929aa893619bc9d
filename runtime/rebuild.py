"""An index for another model, from the pictures that the one before was made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.index_whitening import WhitenConfig
from deepir.runtime.items import Item
from deepir.runtime.moved_views import copy_thumbnails, moved_sources
from deepir.runtime.pictures import find_pictures, read_view
from deepir.runtime.progress import Advance


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilding:
    """How an index is made again.

    Attributes:
        model: The file of the new model.
        old_path, new_path: Where the two indexes lie; the same place replaces it.
        whiten: The map to fit on the new descriptors; None for none, whatever the old index had.
        skip_missing: Leave out views whose pictures are gone.
    """

    model: Path
    old_path: Path
    new_path: Path
    whiten: WhitenConfig | None = None
    skip_missing: bool = False


@dataclass(slots=True)
class Rebuilt:
    """The new index in memory, and the views that are missing in it."""

    index: Index
    missing: list[Item] = field(default_factory=list)


def rebuild(old: Index, extractor: Extractor, rebuilding: Rebuilding, advance: Advance = lambda _done: None) -> Rebuilt:
    """Describe every view again from its original or its small copy; labels and metadata stay, keys are new.

    Small copies are copied to where the new index will lie.

    Raises:
        InputError: Pictures are gone and `skip_missing` is off, or all are.
    """
    items = list(old.items())
    missing = [item for item in items if not find_pictures(item, rebuilding.old_path)]
    if missing and (not rebuilding.skip_missing or len(missing) == len(items)):
        message = (
            f"of {len(items)} views {len(missing)} have neither their picture nor a thumbnail any more, the first is "
            f"{missing[0].source or 'without a path'} of {missing[0].label}: bring them back, or --skip-missing"
        )
        raise InputError(message)
    gone = {item.key for item in missing}
    kept = [item for item in items if item.key not in gone]
    footer = old.footer
    index = Index.create(extractor.card, rebuilding.model, far=footer.far, dtype=footer.codes.dtype)
    index.set(margin=footer.margin)
    index.setup(thumbnails=footer.thumbnails)
    empty_nd = np.empty((0, extractor.spec.dim), np.float32)
    descriptors_nd = np.concatenate([empty_nd, *_described(kept, extractor, rebuilding.old_path, advance)])
    if rebuilding.whiten is not None:
        photographs = [extractor.describe_files(group) for group in rebuilding.whiten.photographs]
        index.whiten(rebuilding.whiten.fit([descriptors_nd, *photographs], extractor.spec))
    rows = iter(descriptors_nd)
    for label, group in groupby(kept, key=lambda item: item.label):
        views = list(group)
        descriptors = np.stack([next(rows) for _ in views])
        sources = moved_sources([item.source for item in views], rebuilding.old_path, rebuilding.new_path)
        index.add(label, descriptors, sources, metadata=[item.metadata for item in views])
    copy_thumbnails((item.metadata for item in kept), rebuilding.old_path, rebuilding.new_path)
    return Rebuilt(index, missing)


def _described(
    items: Sequence[Item], extractor: Extractor, index_path: Path, advance: Advance
) -> Iterator[Descriptors]:
    for start in range(0, len(items), extractor.batch_size):
        batch = items[start : start + extractor.batch_size]
        yield extractor.describe([read_view(item, index_path) for item in batch])
        advance(len(batch))
