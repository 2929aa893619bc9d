"""What every command of deepir answers about itself: -h as well as --help, and --version."""

from typing import TYPE_CHECKING, TypeVar

from deepir import __version__
from deepir.optional import need

if TYPE_CHECKING:
    import click

_C = TypeVar("_C", bound="click.Command")


def introduces_itself(command: _C) -> _C:
    """Give a command -h and --version; what stands below a group has -h, too."""
    command.context_settings["help_option_names"] = ["-h", "--help"]
    # DEEPIR_RUN_VERSION in the environment belongs to whoever set it
    introduced: _C = need("click").version_option(__version__, allow_from_autoenv=False)(command)
    return introduced
