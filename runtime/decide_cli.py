"""The options of deepir-run that say who decides: each frame, a vote of the last ones, or a sequence of places."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from deepir.errors import OptionError
from deepir.runtime.decide import Deciding
from deepir.runtime.place_hits import RADIUS, SamePlace
from deepir.runtime.place_sequence import LENGTH, NEEDED, SequenceRule
from deepir.runtime.places import PlaceOptions
from deepir.runtime.recent_past import RecentPast
from deepir.runtime.vote import Vote

_C = TypeVar("_C", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--vote", metavar="N/M", help="A label counts when N of the last M frames agree, such as 5/8."),
    click.option("--mode", type=click.Choice(["item", "place"]), default="item", help="Labels, or spots of a map."),
    click.option(
        "--exclude-last", metavar="30s|N", help="Places: leave out what was seen last, in seconds or number of items."
    ),
    click.option("--seq", type=int, help=f"Places: frames in a row of which most must agree. [default: {LENGTH}]"),
    click.option("--radius", type=float, default=RADIUS, help="Places: metres between poses that are the same place."),
)


def deciding_options(command: _C) -> _C:
    """Give a command the options that `read_deciding` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_deciding(options: dict[str, Any]) -> Deciding:
    """Take the values of these options out of a command's options.

    Raises:
        OptionError: Values that contradict each other or cannot be.
    """
    vote, exclude, length = options.pop("vote"), options.pop("exclude_last"), options.pop("seq")
    mode, radius = options.pop("mode"), options.pop("radius")
    if mode == "item" and (exclude is not None or length is not None or radius != RADIUS):
        message = "--exclude-last, --seq and --radius say how places are recognised: give --mode place with them"
        raise OptionError(message)
    rule = SequenceRule() if length is None else SequenceRule(length=length, needed=-(-length * NEEDED // LENGTH))
    places = PlaceOptions(
        same=SamePlace(radius=radius),
        sequence=rule,
        exclude=None if exclude is None else RecentPast.parse(exclude),
    )
    return Deciding(mode=mode, vote=None if vote is None else Vote.parse(vote), places=places)
