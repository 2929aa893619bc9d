"""Descriptors of an index that was never saved: kept as they are, so that what their codes cost can be measured."""

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.runtime.codes import Codes
from deepir.runtime.columns import NumberColumn
from deepir.runtime.items import Keys
from deepir.runtime.store import DescriptorStore, Neighbours, most_similar

_MOST_QUERIES = 200
"""Enough for a recall that is known within 0.003."""

_NEIGHBOURS = 10
_ROUNDING = 1e-6
_CHUNK = 1 << 16


class FloatStore:
    """Descriptors (N, D) by key, compared one by one; the same methods as `DescriptorStore`."""

    def __init__(self, dim: int) -> None:
        self.codes = Codes("f32", dim)
        self._keys = NumberColumn(np.empty(0, np.uint64))
        self._rows = NumberColumn(np.empty((0, dim), np.float32))

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Keys:
        """All keys, rising."""
        return self._keys.values

    def add(self, keys: Keys, descriptors_nd: Descriptors) -> None:
        """Keep the descriptors of these keys, which must be larger than all before."""
        self._keys.extend(keys)
        self._rows.extend(descriptors_nd)

    def remove(self, keys: Keys) -> None:
        """Forget these keys."""
        kept = ~np.isin(self.keys, keys)
        self._rows = NumberColumn(self._rows.values[kept])
        self._keys = NumberColumn(self.keys[kept])

    def get(self, keys: Keys) -> Descriptors:
        """The descriptors (N, D) of these keys."""
        descriptors_nd: Descriptors = self._rows.values[np.searchsorted(self.keys, keys)]
        return descriptors_nd

    descriptors = get

    def search(self, query_1d: NDArray[np.float32], count: int) -> Neighbours:
        """The `count` nearest."""
        return most_similar(self.keys, self._rows.values @ query_1d, count)

    def stored(self, codes: Codes) -> DescriptorStore:
        """The descriptors in the form of an index file."""
        store = DescriptorStore.empty(codes, len(self))
        for start in range(0, len(self), _CHUNK):
            part = slice(start, start + _CHUNK)
            store.add(self.keys[part], store.codes.encode(self._rows.values[part]))
        return store

    def recall_of(self, store: DescriptorStore) -> tuple[float, int]:
        """The share of the 10 nearest of a view that a search in the store finds, and how many views were asked.

        Each of at most 200 views, spread over all, is searched among the others; the truth are these descriptors.
        """
        count = min(_NEIGHBOURS, len(self) - 1)
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), _MOST_QUERIES)).round().astype(np.intp))
        if count < 1:
            return 1.0, 0
        shares = [self._share_found(int(row), store, count) for row in rows]
        return float(np.mean(shares)), len(rows)

    def _share_found(self, row: int, store: DescriptorStore, count: int) -> float:
        query_1d = self._rows.values[row]
        similarity_n = self._rows.values @ query_1d
        similarity_n[row] = -np.inf
        # of equally near ones either is right, and one value in two rows may differ by its rounding
        least = np.partition(similarity_n, -count)[-count] - _ROUNDING
        found = store.search(query_1d, count + 1).keys
        others = np.searchsorted(self.keys, found[found != self.keys[row]][:count])
        return float((similarity_n[others] >= least).sum()) / count
