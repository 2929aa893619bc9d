"""Hard triplets: of some thousand candidates all that violate the margin, the hardest of each (method.md 6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepir.distill.label_matrix import Labels, label_numbers
from deepir.errors import InputError, OptionError, ShapeError

_ROWS = 256
"""Candidates whose distances to all others are in memory at once."""

_PURPOSES = ("candidates", "triplets")

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardTripletConfig:
    """How triplets are mined; the published schedule is 5000, 25, 64, 64.

    Attributes:
        candidates: Pictures drawn at random and described at each refresh; all of them where there are fewer.
        hardest: Triplets kept for each query, those with the highest loss.
        refresh: Updates of the network until new candidates are drawn and described.
        triplets: Triplets of one update.
        margin: That of the triplet loss, in squared distance.
    """

    candidates: int = 5000
    hardest: int = 25
    refresh: int = 64
    triplets: int = 64
    margin: float = 0.1

    def __post_init__(self) -> None:
        for name in ("candidates", "hardest", "refresh", "triplets"):
            if getattr(self, name) < 1:
                message = f"{name} must be 1 or more, got {getattr(self, name)}"
                raise OptionError(message)
        if self.candidates < 3:
            message = f"a triplet needs three candidates or more, got {self.candidates}"
            raise OptionError(message)
        if not 0 < self.margin < np.inf:
            message = f"margin must be positive, got {self.margin}"
            raise OptionError(message)


class HardTriplets:
    """Triplets for one update after the other.

    What is drawn depends on the seed and on the number of refreshes and updates only, so that a training with the same
    weights sees the same triplets. A use looks like this::

        for _ in range(updates):
            if triplets.due:
                triplets.refresh(describe(triplets.candidates()))
            anchors, positives, negatives = triplets.next().T
    """

    def __init__(self, config: HardTripletConfig, labels_n: Labels, seed: int) -> None:
        """Take a label for each picture of the training, (N,), whole numbers or names.

        Raises:
            ShapeError: Labels that are neither.
            InputError: No label with two pictures, or only one label: there is no triplet.
            OptionError: A negative seed.
        """
        self._config = config
        self._labels = label_numbers(labels_n)
        counts = np.bincount(self._labels)
        if len(counts) < 2 or counts.max() < 2:
            message = (
                f"a triplet needs a label with two pictures and a second label, got {len(counts)} labels "
                f"with at most {counts.max()} pictures each"
            )
            raise InputError(message)
        if seed < 0:
            message = f"seed must be 0 or more, got {seed}"
            raise OptionError(message)
        self._seed = seed
        self._refreshes = 0
        self._updates = 0
        # triplets of one query stand together; query i has those from starts[i] to starts[i + 1]
        self._triplets: Numbers = np.zeros((0, 3), np.int64)
        self._starts: Numbers = np.zeros(1, np.int64)

    @property
    def due(self) -> bool:
        """Whether candidates must be described before the next update."""
        return not self._refreshes or self._updates >= self._config.refresh

    def candidates(self) -> Numbers:
        """Numbers of the pictures to describe for the next `refresh`, (C,), rising."""
        count = min(self._config.candidates, len(self._labels))
        return np.sort(self._random("candidates", self._refreshes).permutation(len(self._labels))[:count])

    def refresh(self, descriptors_cd: NDArray[np.floating[Any]]) -> int:
        """Mine anew, from the descriptors of `candidates()` in their order; gives the number of queries found.

        Raises:
            ShapeError: Descriptors that are not (C, D), or NaN or infinite.
        """
        numbers = self.candidates()
        descriptors = np.asarray(descriptors_cd, np.float32)
        _check_descriptors(descriptors, len(numbers))
        found = mine_triplets(descriptors, self._labels[numbers], self._config.hardest, self._config.margin)
        self._triplets = numbers[found]
        changes = np.flatnonzero(np.diff(found[:, 0])) + 1
        self._starts = np.concatenate([[0], changes, [len(found)]]) if len(found) else np.zeros(1, np.int64)
        self._refreshes += 1
        self._updates = 0
        return len(self._starts) - 1

    def next(self) -> Numbers:
        """Anchors, positives and negatives of one update, (T, 3) numbers of pictures; (0, 3) when all keep the margin.

        A query is drawn evenly among those with a violating triplet, then one of its hardest.

        Raises:
            OptionError: Nothing was mined yet, or it is `due` again.
        """
        if self.due:
            message = f"triplets are mined anew every {self._config.refresh} updates: call refresh first"
            raise OptionError(message)
        random = self._random("triplets", self._refreshes, self._updates)
        self._updates += 1
        queries = len(self._starts) - 1
        if not queries:
            return self._triplets
        drawn = random.integers(queries, size=self._config.triplets)
        return self._triplets[random.integers(self._starts[drawn], self._starts[drawn + 1])]

    def state_dict(self) -> dict[str, Any]:
        """All that a training resumed in mid-course needs."""
        arrays = {"triplets": torch.from_numpy(self._triplets), "starts": torch.from_numpy(self._starts)}
        return {"refreshes": self._refreshes, "updates": self._updates, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            InputError: The state of other pictures.
        """
        triplets = state["triplets"].numpy()
        if triplets.size and triplets.max() >= len(self._labels):
            message = f"the saved triplets name picture {triplets.max()}, but there are only {len(self._labels)}"
            raise InputError(message)
        self._refreshes, self._updates = int(state["refreshes"]), int(state["updates"])
        self._triplets, self._starts = triplets, state["starts"].numpy()

    def _random(self, purpose: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, _PURPOSES.index(purpose), *numbers])


def mine_triplets(
    descriptors_nd: NDArray[np.floating[Any]], labels_n: Labels, hardest: int = 25, margin: float = 0.1
) -> Numbers:
    """All queries' hardest triplets of those with 1/2 max(0, margin + |q - p|^2 - |q - n|^2) above 0.

    Args:
        descriptors_nd: A descriptor for each picture, (N, D).
        labels_n: Its label.
        hardest: Triplets of a query at most.
        margin: In squared distance.

    Returns:
        (T, 3) rows of query, positive, negative: queries rise, the hardest triplet of each comes first.

    Raises:
        ShapeError: Descriptors that are not (N, D), NaN or infinite, or labels that do not fit them.
    """
    labels = label_numbers(labels_n)
    # in double, so that what is kept violates the margin in single precision too
    descriptors = np.asarray(descriptors_nd, np.float64)
    _check_descriptors(descriptors, len(labels))
    squares = np.square(descriptors).sum(axis=1)
    found = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(labels), _ROWS):
        block = descriptors[start : start + _ROWS]
        distances = np.square(block).sum(axis=1)[:, None] + squares - 2 * block @ descriptors.T
        for query, row in enumerate(distances, start):
            same = labels == labels[query]
            found.append(_hardest(query, row, same, hardest, margin))
    return np.concatenate(found)


def _hardest(
    query: int, distances_n: NDArray[np.float64], same: NDArray[np.bool_], most: int, margin: float
) -> Numbers:
    others = same.copy()
    others[query] = False
    # the k largest sums of two lists are made of the k largest values of each
    positives = _first(np.flatnonzero(others), -distances_n, most)
    negatives = _first(np.flatnonzero(~same), distances_n, most)
    losses = (margin + distances_n[positives][:, None] - distances_n[negatives]).ravel()
    order = np.argsort(-losses, kind="stable")[:most]
    order = order[losses[order] > 0]
    chosen = [np.full(len(order), query), positives[order // max(len(negatives), 1)]]
    return np.stack([*chosen, negatives[order % max(len(negatives), 1)]], axis=1)


def _first(numbers: Numbers, keys_n: NDArray[np.float64], most: int) -> Numbers:
    if len(numbers) > most:
        numbers = np.sort(numbers[np.argpartition(keys_n[numbers], most - 1)[:most]])
    return numbers[np.argsort(keys_n[numbers], kind="stable")]


def _check_descriptors(descriptors: NDArray[np.floating[Any]], count: int) -> None:
    if descriptors.ndim != 2 or len(descriptors) != count:
        message = f"mining needs a descriptor for each of {count} pictures, (N, D), got {descriptors.shape}"
        raise ShapeError(message)
    if not np.isfinite(descriptors).all():
        message = "mining needs finite descriptors, got NaN or infinity: has the training diverged?"
        raise ShapeError(message)
