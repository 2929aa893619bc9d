"""How long to wait before the next try: twice as long each time, and not for all cameras alike."""

import random
from collections.abc import Callable

FIRST = 0.5
LONGEST = 30.0
_JITTER = 0.25
"""A share of the delay that chance takes away: cameras that one switch took down must not all come back at once."""


class Backoff:
    """0.5 s, 1, 2, ... up to 30 s, each up to a quarter shorter by chance.

    Args:
        chance: Gives numbers of 0 <= x < 1.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._delay = FIRST

    def next(self, *, slowly: bool = False) -> float:
        """Seconds until the next try; `slowly` goes to the longest at once."""
        delay = LONGEST if slowly else self._delay
        self._delay = min(2 * delay, LONGEST)
        return delay * (1 - _JITTER * self._chance())

    def reset(self) -> None:
        """Begin again with the first delay: it went well for a while."""
        self._delay = FIRST
