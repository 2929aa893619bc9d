"""Descriptors to fill an index with: of photographs and of crops of them, and made-up ones of the same spectrum."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.errors import InputError, ShapeError
from deepir.image import Image, list_images, read_image
from deepir.runtime.extractor import Extractor

CROPS = 3
"""Of each photograph, beside the whole of it."""
SHORTEST_SIDE, LONGEST_SIDE = 0.65, 0.95
GAINS = (0.7, 1.3)
OFFSETS = (-20, 20)

DIRECTIONS = 16
"""Then the 20 nearest neighbours spread as the photographs' do (local dimension 7.5 and 8.8 with MobileNetV2, 14 and 22
with ResNet-50), and a graph finds as many of them."""
MOST_SPREAD = 0.95
CHUNK = 1 << 13

Numbers = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Sample:
    """Descriptors (N, D) of pictures, and which photograph each shows; a photograph's name begins with its label."""

    descriptors_nd: Descriptors
    names: tuple[str, ...]

    def first_values(self, dim: int) -> "Sample":
        """The same with the first `dim` values of each.

        Raises:
            ShapeError: They have fewer.
        """
        if dim > self.descriptors_nd.shape[1]:
            message = f"--dim {dim} is more than the {self.descriptors_nd.shape[1]} values that the descriptors have"
            raise ShapeError(message)
        return Sample(normalise(self.descriptors_nd[:, :dim]), self.names)

    def split(self, queries: int, rng: np.random.Generator) -> tuple[Descriptors, Descriptors]:
        """A database and queries, apart; at most a tenth are queries."""
        order = rng.permutation(len(self.names))
        cut = min(queries, len(order) // 10)
        return self.descriptors_nd[order[cut:]], self.descriptors_nd[order[:cut]]


def read_sample(path: Path) -> Sample:
    """The `descriptors` (N, D) and `names` (N,) of an .npz file; rows of one name show the same photograph.

    Raises:
        InputError: No such file, or not of this kind.
    """
    try:
        with np.load(path) as arrays:
            return Sample(normalise(arrays["descriptors"].astype(np.float32)), tuple(map(str, arrays["names"])))
    except (OSError, KeyError, ValueError) as error:
        message = f"{path} must be an .npz file with descriptors (N, D) and names (N,): {error}"
        raise InputError(message) from error


def describe_photos(folder: Path, model: Path, seed: int) -> Sample:
    """Every photograph below a folder and CROPS crops of each, some mirrored, brighter or darker."""
    paths = list_images(folder)
    rng = np.random.default_rng(seed)
    extractor = Extractor.open(model)
    parts = [
        extractor.describe([image, *(_crop(image, rng) for _ in range(CROPS))]) for image in map(read_image, paths)
    ]
    names = [path.relative_to(folder).as_posix() for path in paths for _ in range(1 + CROPS)]
    return Sample(np.concatenate(parts), tuple(names))


def label_of(name: str) -> str:
    """What the photographs of one thing share: the path without the number at its end."""
    return re.sub(r"\d*\.\w+$", "", name)


class Spectrum:
    """How descriptors vary between labels, between the photographs of a label, and between crops of a photograph.

    The members of a group lie around its mean in DIRECTIONS of the sample's own deviations at that step, drawn anew for
    each group: that keeps the covariance of the sample, and, unlike a normal distribution of that covariance, also how
    few directions there are near a descriptor, on which graphs depend. How far a group spreads and how many belong to
    it are drawn from the sample's groups.
    """

    def __init__(self, sample: Sample) -> None:
        photographs, numbers = _numbered(sample.names)
        labels, label_of_photograph = _numbered([label_of(name) for name in photographs])
        means_pd, crops = _spread_around(sample.descriptors_nd, numbers, len(photographs))
        means_ld, photos = _spread_around(normalise(means_pd), label_of_photograph, len(labels))
        self._mean = means_ld.mean(axis=0)
        self._deviations_ld = means_ld - self._mean
        self._steps = [step for step in (photos, crops) if step is not None]

    def draw(self, count: int, rng: np.random.Generator) -> Descriptors:
        """Made-up descriptors (count, D) in random order."""
        groups = 10 + int(count / np.prod([step.sizes.mean() for step in self._steps]))
        rows_nd = normalise(self._mean + _combined(self._deviations_ld, np.arange(groups), rng))
        for step in self._steps:
            rows_nd = step.around(rows_nd, rng)
        while len(rows_nd) < count:
            rows_nd = np.concatenate([rows_nd, self.draw(count - len(rows_nd), rng)])
        return rows_nd[rng.permutation(len(rows_nd))[:count]]


@dataclass(frozen=True, slots=True)
class _Step:
    """The groups of a sample: deviations (M, D) from their means, of mean square 1, shares of variance, sizes (G,)."""

    deviations_md: NDArray[np.float32]
    shares: NDArray[np.float64]
    sizes: NDArray[np.intp]

    def around(self, rows_gd: Descriptors, rng: np.random.Generator) -> Descriptors:
        """For each row the members of a group around it, as large and as spread as one of the sample's."""
        like = rng.integers(len(self.sizes), size=len(rows_gd))
        parents = np.repeat(np.arange(len(rows_gd)), self.sizes[like])
        shares = self.shares[like][parents].astype(np.float32)[:, None]
        members_nd = _combined(self.deviations_md, parents, rng)
        for part in _parts(len(parents)):
            kept, moved = np.sqrt(1 - shares[part]), np.sqrt(shares[part])
            around_nd = kept * rows_gd[parents[part]] + moved * members_nd[part]
            members_nd[part] = normalise(around_nd.astype(np.float32))
        return members_nd


def _combined(deviations_md: NDArray[np.float32], group_n: Numbers, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random sums of DIRECTIONS deviations (N, D), the same ones in a group; group_n rises."""
    chosen = rng.integers(len(deviations_md), size=(group_n[-1] + 1, DIRECTIONS))
    sums_nd = np.empty((len(group_n), deviations_md.shape[1]), np.float32)
    for part in _parts(len(group_n)):
        weights = rng.standard_normal((len(group_n[part]), DIRECTIONS), dtype=np.float32) / np.float32(DIRECTIONS**0.5)
        sums_nd[part] = np.einsum("nr,nrd->nd", weights, deviations_md[chosen[group_n[part]]])
    return sums_nd


def nearest(database_nd: Descriptors, queries_qd: Descriptors, count: int) -> NDArray[np.float32]:
    """The similarities (Q, count) of each query with its nearest rows, the most similar first."""
    best = np.full((len(queries_qd), 0), -np.inf, np.float32)
    for part in _parts(len(database_nd)):
        best = np.concatenate([best, queries_qd @ database_nd[part].T], axis=1)
        kept = min(count, best.shape[1])
        best = np.partition(best, best.shape[1] - kept, axis=1)[:, -kept:]
    return np.sort(best, axis=1)[:, ::-1]


def _spread_around(rows_nd: Descriptors, group_n: Numbers, groups: int) -> tuple[Descriptors, _Step | None]:
    """The groups' means (G, D), and how their members vary around them; None where no group has two members."""
    sizes = np.bincount(group_n, minlength=groups)
    means_gd = np.zeros((groups, rows_nd.shape[1]), np.float32)
    np.add.at(means_gd, group_n, rows_nd)
    means_gd /= sizes[:, None]
    several = sizes > 1
    if not several.any():
        return means_gd, None
    rest_nd = rows_nd - means_gd[group_n]
    squares = np.bincount(group_n, (rest_nd**2).sum(axis=1), minlength=groups)
    shares = np.minimum(squares / np.maximum(sizes - 1, 1), MOST_SPREAD)
    shares[~several] = np.median(shares[several])
    deviations_md = rest_nd[several[group_n]]
    typical = np.float32(np.sqrt((deviations_md**2).sum(axis=1).mean()))
    return means_gd, _Step(deviations_md / typical, shares, sizes)


def _numbered(names: tuple[str, ...] | list[str]) -> tuple[list[str], Numbers]:
    unique, numbers = np.unique(np.array(names), return_inverse=True)
    return unique.tolist(), numbers.reshape(-1)


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def _crop(image_hwc: Image, rng: np.random.Generator) -> Image:
    side = rng.uniform(SHORTEST_SIDE, LONGEST_SIDE)
    height, width = (int(side * size) for size in image_hwc.shape[:2])
    top, left = (int(rng.integers(old - new + 1)) for old, new in zip(image_hwc.shape, (height, width), strict=False))
    part = image_hwc[top : top + height, left : left + width, :]
    mirrored = part[:, ::-1] if rng.random() < 0.5 else part
    pixels: Image = np.clip(mirrored * rng.uniform(*GAINS) + rng.uniform(*OFFSETS), 0, 255).astype(np.uint8)
    return pixels
