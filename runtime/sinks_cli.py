"""The options of deepir-run that say where answers go besides the JSON lines."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from deepir.runtime.delivery import SENDS
from deepir.runtime.sinks import SinkOptions

_C = TypeVar("_C", bound=Callable[..., Any])

_DEFAULTS = {option.name: option.default for option in fields(SinkOptions)}

_OPTIONS = (
    click.option("--webhook", metavar="URL", help="Post answers there, as JSON."),
    click.option("--mqtt", metavar="URL", help="Publish answers: mqtt://user:password@host/topic."),
    click.option("--send", type=click.Choice(SENDS), default=_DEFAULTS["send"], help="Which answers those two get."),
    click.option(
        "--inbox",
        type=click.Path(path_type=Path),
        help="Keep pictures of what is unknown or ambiguous, for deepir-index review.",
    ),
    click.option("--inbox-mb", type=float, default=_DEFAULTS["inbox_mb"], help="The most it may take; the oldest go."),
)


def sink_options(command: _C) -> _C:
    """Give a command the options that `read_sink_options` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_sink_options(options: dict[str, Any]) -> SinkOptions:
    """Take the values of these options out of a command's options.

    Raises:
        OptionError: Values that cannot be.
    """
    return SinkOptions(**{name: options.pop(name) for name in _DEFAULTS})
