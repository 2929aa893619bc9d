"""The options of commands that fit a map for an index: a whitening, or fewer values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deepir.errors import OptionError
from deepir.image import list_images
from deepir.runtime.index_whitening import KINDS, MOST_DIM, POWER, POWER_AGAIN, WhitenConfig

_C = TypeVar("_C", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--whiten", is_flag=True, help="Refit a whitening on the references; better with photographs."),
    click.option(
        "--whiten-images", type=_FILE, multiple=True, metavar="DIR", help="The same, and on the camera's photographs."
    ),
    click.option(
        "--whiten-power", type=float, help=f"0 to 0.5. [default: {POWER}, {POWER_AGAIN} if the model whitens]"
    ),
    click.option("--dim", type=int, help=f"Values to keep. [default: all; whitened at most {MOST_DIM}]"),
    click.option(
        "--reduce", type=click.Choice(KINDS[1:]), help="How --dim reduces without a whitening. [default: pca]"
    ),
)


def whitening_options(command: _C) -> _C:
    """Give a command the options that `read_whitening` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_whitening(options: dict[str, Any]) -> WhitenConfig | None:
    """Take the values of these options out of a command's options; None where no map is wanted.

    Raises:
        OptionError: Values that contradict each other.
        InputError: A folder without photographs.
    """
    folders, power, dim = options.pop("whiten_images"), options.pop("whiten_power"), options.pop("dim")
    whiten, reduce = options.pop("whiten"), options.pop("reduce")
    if reduce is not None and (whiten or folders or dim is None):
        message = f"--reduce {reduce} says how --dim reduces without a whitening: give it with --dim, and no --whiten"
        raise OptionError(message)
    if whiten or folders:
        return WhitenConfig(photographs=tuple(tuple(list_images(folder)) for folder in folders), dim=dim, power=power)
    if power is not None:
        message = "--whiten-power says how to whiten: give --whiten or --whiten-images DIR with it"
        raise OptionError(message)
    return None if dim is None else WhitenConfig(kind=reduce or "pca", dim=dim)
