"""Which frames of a walk are worth a place on the map, and which items leave when it is full."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepir.errors import OptionError
from deepir.runtime.pose import Pose, distance

LEAST_CHANGE = 0.1

_SHORTEST = 0.5
"""A descriptor has length 1, or 0 where the picture had no direction at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframePolicy:
    """When a frame is added to a map, and how large the map may become.

    Attributes:
        least_change: A frame is added when its similarity to the last keyframe is at most 1 minus this; 0 adds all.
        least_distance: It is also added when the camera moved so many metres since; None asks for change alone.
        most_items: When there are more, the oldest leave; None keeps all.

    Raises:
        OptionError: A value out of range.
    """

    least_change: float = LEAST_CHANGE
    least_distance: float | None = None
    most_items: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.least_change <= 2:
            message = f"a change of similarity lies between 0 and 2, got {self.least_change}: {LEAST_CHANGE} is usual"
            raise OptionError(message)
        if self.least_distance is not None and not self.least_distance > 0:
            message = f"keyframes lie metres apart, got {self.least_distance}: give more than 0, or leave it out"
            raise OptionError(message)
        if self.most_items is not None and self.most_items < 1:
            message = f"a map holds items, got {self.most_items} at most: give 1 or more, or leave it out"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class _Keyframe:
    descriptor_1d: NDArray[np.float32]
    pose: Pose | None


class Keyframes:
    """Follows one walk; ask `wants` for each frame, and tell `add` when one went into the map."""

    def __init__(self, policy: KeyframePolicy, keys: Iterable[int] = ()) -> None:
        """Begin a walk on a map that holds `keys`, oldest first."""
        self.policy = policy
        self._keys = deque(keys)
        self._last: _Keyframe | None = None

    def wants(self, descriptor_1d: NDArray[np.float32], pose: Pose | None = None) -> bool:
        """Whether this frame, (D,) of length 1, should be added; a blank one, of length 0, never.

        Raises:
            ShapeError: Its pose is of another kind than the last keyframe's.
        """
        if float(np.linalg.norm(descriptor_1d)) < _SHORTEST:
            return False
        if self._last is None:
            return True
        similarity = float(self._last.descriptor_1d @ descriptor_1d)
        return 1 - similarity >= self.policy.least_change or self._moved(self._last.pose, pose)

    def add(self, key: int, descriptor_1d: NDArray[np.float32], pose: Pose | None = None) -> list[int]:
        """Take note that a frame went into the map; gives the keys that must leave it now."""
        self._last = _Keyframe(np.array(descriptor_1d), pose)
        self._keys.append(key)
        surplus = 0 if self.policy.most_items is None else max(0, len(self._keys) - self.policy.most_items)
        return [self._keys.popleft() for _ in range(surplus)]

    def _moved(self, last: Pose | None, pose: Pose | None) -> bool:
        least = self.policy.least_distance
        return least is not None and last is not None and pose is not None and distance(last, pose) >= least
