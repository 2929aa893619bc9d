"""The options of every command that judges answers: threshold, margin, how many labels."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, TypeVar

import click

from deepir.runtime.recogniser import Judgement

_C = TypeVar("_C", bound=Callable[..., Any])

_DEFAULTS = {field.name: field.default for field in fields(Judgement)}


def _read(_context: click.Context, _option: click.Parameter, value: str) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        return float(value)
    except ValueError as error:
        message = f"expected auto or a number, got {value!r}"
        raise click.BadParameter(message) from error


_OPTIONS = (
    click.option(
        "--threshold",
        metavar="auto|FLOAT",
        default=_DEFAULTS["threshold"],
        callback=_read,
        help="Below it is unknown; auto: the one in the index.",
    ),
    click.option(
        "--margin",
        metavar="auto|FLOAT",
        default=_DEFAULTS["margin"],
        callback=_read,
        help="A second label nearer than this makes it ambiguous; auto: the one in the index.",
    ),
    click.option("--topk", type=int, default=_DEFAULTS["top_labels"], help="Labels listed for each picture."),
)


def judgement_options(command: _C) -> _C:
    """Give a command the options that `read_judgement` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_judgement(options: dict[str, Any]) -> Judgement:
    """Take the values of these options out of a command's options."""
    given = {name: options.pop(name) for name in ("threshold", "margin")}
    return Judgement(**given, top_labels=options.pop("topk"))
