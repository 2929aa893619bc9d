"""Region vectors of pictures, kept small in memory, from which the descriptors of any whitening follow."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, combine_resolutions, normalise
from deepir.distill.checkpoint import Model
from deepir.distill.describe import in_batches, region_vectors
from deepir.image import Image
from deepir.whitening import Whitening

_BATCH = 16


@dataclass(frozen=True, slots=True)
class RegionBank:
    """Region vectors of N pictures at S resolutions, before whitening.

    Attributes:
        vectors_vc: (V, C), those of the first resolution first, there those of the first picture first.
        counts_sn: How many regions each picture has at each resolution.
        combine: How resolutions become one descriptor.
    """

    vectors_vc: NDArray[np.float16]
    counts_sn: NDArray[np.intp]
    combine: str

    @property
    def picture_v(self) -> NDArray[np.intp]:
        """For each vector the number of its picture."""
        pictures = np.tile(np.arange(self.counts_sn.shape[1]), len(self.counts_sn))
        return np.repeat(pictures, self.counts_sn.ravel())

    def only(self, kept_n: NDArray[np.bool_]) -> "RegionBank":
        """The bank of some of the pictures."""
        return RegionBank(self.vectors_vc[kept_n[self.picture_v]], self.counts_sn[:, kept_n], self.combine)

    def whiten(self, whitening: Whitening) -> NDArray[np.float32]:
        """Every vector through an affine map: (V, D)."""
        whitened_vd: NDArray[np.float32] = self.vectors_vc.astype(np.float32) @ whitening.weight_dc.T
        whitened_vd += whitening.bias_d
        return whitened_vd

    def describe(self, whitened_vd: NDArray[np.float32]) -> Descriptors:
        """The descriptors (N, D) of whitened vectors, as the network has them: L2, sum, L2, resolutions, L2."""
        starts = np.concatenate([[0], np.cumsum(self.counts_sn)[:-1]])
        sums = np.add.reduceat(normalise(whitened_vd), starts, axis=0)
        resolutions_snd = normalise(sums).reshape(*self.counts_sn.shape, -1)
        return resolutions_snd[0] if len(resolutions_snd) == 1 else combine_resolutions(resolutions_snd, self.combine)


def collect_regions(model: Model, images: Iterable[Image]) -> RegionBank:
    """Run each image through the trunk once at each resolution and keep what the master branch whitens."""
    sizes = model.spec.resolutions
    found: list[list[NDArray[np.float16]]] = [[] for _ in sizes]
    for batch in in_batches(images, _BATCH):
        for regions, size in zip(found, sizes, strict=True):
            at_size = model if size is None else Model(model.network, model.spec.at_sizes((size,)))
            regions.extend(vectors.astype(np.float16) for vectors in region_vectors(at_size, batch))
    counts_sn = np.array([[len(vectors) for vectors in regions] for regions in found], dtype=np.intp)
    vectors_vc = np.concatenate([vectors for regions in found for vectors in regions])
    return RegionBank(vectors_vc, counts_sn, model.spec.head.combine)
