"""What an inbox was given lately, by descriptors: a picture that looks like one of these shows nothing new."""

import threading

import numpy as np
from numpy.typing import NDArray

_BYTES = 1 << 22
"""Of descriptors: 2,048 of 512 values, with which another one is compared in a millisecond."""

_ALIKE = 0.95
"""From this similarity on two pictures show the same."""


class InboxMemory:
    """Knows the newest descriptors, as many as have room; may be used from several threads."""

    def __init__(self) -> None:
        self._rows_nd = np.zeros((0, 0), np.float32)
        self._added = 0
        self._changed = threading.Lock()

    def knows(self, descriptor_1d: NDArray[np.float32]) -> bool:
        """Whether it is like one of them."""
        with self._changed:
            return self._fits(descriptor_1d) and bool((self._known() @ descriptor_1d > _ALIKE).any())

    def add(self, descriptor_1d: NDArray[np.float32]) -> None:
        """Know it from now on; the oldest makes way."""
        with self._changed:
            if not self._fits(descriptor_1d):
                # another model's: those before say nothing of it
                most = max(1, _BYTES // descriptor_1d.nbytes)
                self._rows_nd, self._added = np.zeros((most, descriptor_1d.size), np.float32), 0
            self._rows_nd[self._added % len(self._rows_nd)] = descriptor_1d
            self._added += 1

    def forget(self, descriptor_1d: NDArray[np.float32]) -> None:
        """Know it no more."""
        with self._changed:
            if self._fits(descriptor_1d):
                known_nd = self._known()
                # nothing is like a row without direction
                known_nd[(known_nd == descriptor_1d).all(axis=1)] = 0

    def _fits(self, descriptor_1d: NDArray[np.float32]) -> bool:
        return descriptor_1d.size == self._rows_nd.shape[1]

    def _known(self) -> NDArray[np.float32]:
        return self._rows_nd[: self._added]
