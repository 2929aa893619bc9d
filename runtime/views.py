"""Views outside of any index, with all that is known of them, and the index that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from deepir.descriptors import Descriptors
from deepir.errors import ShapeError
from deepir.runtime.float_store import FloatStore
from deepir.runtime.index import Index
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_footer import Footer
from deepir.runtime.index_home import Home
from deepir.runtime.index_whitening import IndexWhitening
from deepir.runtime.items import ItemTable, Keys, Metadata


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Views:
    """Pictures of labels and their descriptors.

    Attributes:
        keys: (N,), rising.
        labels, sources, metadata: Of each.
        descriptors_nd: (N, D) of length 1, as an index stores them: behind its map where it has one.

    Raises:
        ShapeError: Not one of each for every view, or keys that do not rise.
    """

    keys: Keys
    labels: Sequence[str]
    sources: Sequence[str]
    metadata: Sequence[Metadata]
    descriptors_nd: Descriptors

    def __post_init__(self) -> None:
        sizes = [len(column) for column in (self.keys, self.labels, self.sources, self.metadata)]
        if self.descriptors_nd.ndim != 2 or {*sizes} != {len(self.descriptors_nd)}:
            message = (
                f"expected a key, a label, a source and metadata for each descriptor, got {sizes} for descriptors of "
                f"the shape {self.descriptors_nd.shape}"
            )
            raise ShapeError(message)
        if not (self.keys[1:] > self.keys[:-1]).all():
            message = "the keys of views must rise"
            raise ShapeError(message)

    def __len__(self) -> int:
        return len(self.keys)


def views_of(contents: Contents) -> Views:
    """All views of an index."""
    items = list(contents.items)
    return Views(
        keys=contents.items.keys,
        labels=[item.label for item in items],
        sources=[item.source for item in items],
        metadata=[item.metadata for item in items],
        descriptors_nd=contents.store.descriptors(contents.items.keys),
    )


def index_of(views: Views, footer: Footer, whitening: IndexWhitening | None) -> Index:
    """An index in memory that holds these views under their keys.

    A footer without a threshold gets the one that the views give.

    Args:
        views: Behind the map.
        footer: Its models, codes, map, far, margin and threshold are those of the index.
        whitening: The map that the footer notes.
    """
    items = ItemTable()
    for label, group in groupby(range(len(views)), key=views.labels.__getitem__):
        first, *others = group
        rows = slice(first, first + 1 + len(others))
        items.append(views.keys[rows], label, views.sources[rows], views.metadata[rows])
    store = FloatStore(footer.codes.dim)
    store.add(views.keys, views.descriptors_nd)
    newest = int(views.keys[-1]) if len(views) else 0
    fresh = Footer(
        model=footer.model,
        references=footer.references,
        codes=footer.codes,
        next_key=max(footer.next_key, newest + 1),
        far=footer.far,
        margin=footer.margin,
        threshold=footer.threshold,
        whitening=footer.whitening,
        thumbnails=footer.thumbnails,
    )
    index = Index(Contents(fresh, items, store, whitening), Home.nowhere())
    if footer.threshold is None:
        index.fit_threshold(footer.far)
    return index
