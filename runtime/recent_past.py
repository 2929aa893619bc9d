"""The recent past of a walk: what a robot has just seen is no place that it came back to."""

from dataclasses import dataclass

from deepir.errors import OptionError
from deepir.runtime.pose import Spot


@dataclass(frozen=True, slots=True)
class RecentPast:
    """What a robot has just seen and must not take for a place it came back to.

    An item without a time is not recent: it comes from a map that was made before. An item so shortly after the query
    is as good as just seen; there are such where the map was made of the recording that is played again.

    Attributes:
        seconds: Items whose time is less than so far from the query's.
        keys: The last so many keys of the map.

    Raises:
        OptionError: Not exactly one of the two, or not above zero.
    """

    seconds: float | None = None
    keys: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.keys is None):
            message = "the recent past is either seconds (30s) or keys (200), not both and not neither"
            raise OptionError(message)
        if not 0 < (self.seconds or self.keys or 0) < float("inf"):
            message = f"the recent past must be longer than nothing, got {self}: leave it out to exclude nothing"
            raise OptionError(message)

    @classmethod
    def parse(cls, text: str) -> "RecentPast":
        """Read `30s`, seconds, or `200`, keys.

        Raises:
            OptionError: Neither of them.
        """
        number = text.strip()
        try:
            return cls(seconds=float(number[:-1])) if number.endswith("s") else cls(keys=int(number))
        except ValueError as error:
            message = f"the recent past is seconds such as 30s, or a number of keys such as 200; got {text!r}"
            raise OptionError(message) from error

    def __str__(self) -> str:
        return f"{self.keys}" if self.seconds is None else f"{self.seconds:g}s"

    def holds(self, spot: Spot, *, now: float | None, newest_key: int | None) -> bool:
        """Whether a stored view belongs to it.

        Args:
            spot: Of the view.
            now: Time of the query, on the clock of the items' times.
            newest_key: The largest key of the map.

        Raises:
            OptionError: The one that is needed is None.
        """
        if self.keys is not None:
            if newest_key is None:
                message = f"to exclude the last {self.keys} keys the newest key must be known: pass newest_key"
                raise OptionError(message)
            return spot.key > newest_key - self.keys
        if now is None:
            message = f"to exclude the last {self} the query needs a time: pass one, or exclude a number of keys"
            raise OptionError(message)
        return spot.time is not None and abs(now - spot.time) < (self.seconds or 0)
