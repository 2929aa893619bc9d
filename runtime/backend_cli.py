"""The options of every command that runs a model: where, with which program, and what of engines that are stale."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from deepir.runtime.backend import BACKENDS, DEVICES, BackendOptions
from deepir.runtime.trt_rebuild import REBUILDS

_C = TypeVar("_C", bound=Callable[..., Any])

_DEFAULTS = {field.name: field.default for field in fields(BackendOptions) if field.name != "report"}

_OPTIONS = (
    click.option("--device", type=click.Choice(DEVICES), default=_DEFAULTS["device"], help="Where the model runs."),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default=_DEFAULTS["backend"],
        help="What runs it; auto measures once for each file and remembers.",
    ),
    click.option("--threads", type=int, default=_DEFAULTS["threads"], help="CPU threads; 0: the program chooses."),
    click.option("--trust-engine", is_flag=True, help="Load an engine that is not the one its sidecar describes."),
    click.option(
        "--rebuild",
        type=click.Choice(REBUILDS),
        default=_DEFAULTS["rebuild"],
        help="Build an engine of another TensorRT or GPU again from the ONNX file beside it.",
    ),
)


def backend_options(command: _C) -> _C:
    """Give a command the options that `read_backend_options` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_backend_options(options: dict[str, Any]) -> BackendOptions:
    """Take the values of these options out of a command's options; what takes long is told on stderr."""
    given = {name: options.pop(name) for name in _DEFAULTS}
    return BackendOptions(**given, report=lambda line: click.echo(line, err=True))
