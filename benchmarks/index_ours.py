"""deepir's own index as one of the ways of index_ways.py, with labels and names as a shop would have them."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.runtime.codes import Dtype
from deepir.runtime.index import Index
from deepir.spec import ModelSpec

VIEWS = 10
"""Of each label."""
SIDE = 224


class OurWay:
    """An index of one dtype; how hard it searches is its own choice.

    Its codes and its graph are made by the first `save`, which therefore belongs to building.
    """

    efforts = (0,)
    maps = True

    def __init__(self, dtype: Dtype, dim: int) -> None:
        self.note = f"{dtype}, as it comes"
        self._dtype = dtype
        self._dim = dim
        self._index: Index | None = None
        self._work = tempfile.TemporaryDirectory()

    def build(self, descriptors_nd: Descriptors) -> None:
        folder = Path(self._work.name)
        model = folder / "benchmark.onnx"
        model.write_bytes(b"only its hash matters")
        rng = np.random.default_rng(0)
        index = Index.create(_card(self._dim), model, dtype=self._dtype)
        for start in range(0, len(descriptors_nd), VIEWS):
            rows_nd = descriptors_nd[start : start + VIEWS]
            label = f"brand_{start // 1000:03}/product_{start // VIEWS:06}"
            # numbers that no compression guesses
            numbers = rng.integers(10**8, size=len(rows_nd))
            index.add(label, rows_nd, [f"photographs/IMG_{number:08}.jpg" for number in numbers])
        index.save(folder / "built.usearch")
        self._index = index

    def save(self, path: Path) -> None:
        self._opened.save(path)

    def open(self, path: Path, *, mapped: bool) -> None:
        if self._index is not None:
            self._index.close()
        self._index = Index.open(path, write=not mapped)

    def search(self, query_1d: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        # keys are given out from 1 on, row by row
        return np.array([hit.key - 1 for hit in self._opened.search(query_1d, count)], np.intp)

    def work(self, effort: int) -> None:
        """There is nothing to choose."""

    @property
    def _opened(self) -> Index:
        if self._index is None:
            message = "nothing was built or opened"
            raise RuntimeError(message)
        return self._index


def i8(_count: int, dim: int) -> OurWay:
    return OurWay("i8", dim)


def f16(_count: int, dim: int) -> OurWay:
    return OurWay("f16", dim)


def f32(_count: int, dim: int) -> OurWay:
    return OurWay("f32", dim)


def b1(_count: int, dim: int) -> OurWay:
    return OurWay("b1", dim)


def _card(dim: int) -> ModelCard:
    spec = ModelSpec(
        backbone="benchmark:none",
        sizes=((SIDE, SIDE),),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        stride=32,
        channels=dim,
        dim=dim,
        weights="a",
    )
    return ModelCard(spec)
